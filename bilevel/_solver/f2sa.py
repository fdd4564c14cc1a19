"""F2SA: the fully first-order method with a growing multiplier, for unconstrained lower levels."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel._common import (
    Rate,
    StepSize,
    at,
    inner_loop,
    lower_start,
    maybe,
    mover,
    projected_gradient,
    samples,
    scalar,
    start,
    unconstrained_lower,
)
from bilevel._solver import _kwon
from bilevel.problem import Gradients, Problem, Solver
from bilevel.schedules import adaptive_step, f2sa_schedules
from optim import _checks, parallel

__all__ = ["F2SAState", "f2sa"]


class F2SAState(NamedTuple):
    """State of :func:`f2sa`.

    Attributes:
      problem: The problem.
      count: Number of iterations made, an int32 scalar.
      x: Upper variable.
      y: Penalized lower variable, like ``y0``.
      z: Lower variable, like ``y0``.
      lam: Multiplier of the next iteration, a float scalar.
      opt_x: State of the optax transform that moves ``x``; ``()`` for a step size.
      opt_y: The same for ``y``.
      opt_z: The same for ``z``.
    """

    problem: Problem
    count: jax.Array
    x: Any
    y: Any
    z: Any
    lam: jax.Array
    opt_x: Any
    opt_y: Any
    opt_z: Any


def f2sa(
    penalized_step: StepSize | None = None,
    lower_step: StepSize | None = None,
    multiplier: Rate | None = None,
    multiplier_step: Rate | None = None,
    inner_steps: int = 10,
    step_ratio: float | None = None,
    upper_step: StepSize | None = None,
    axis_name: str | None = None,
) -> Solver:
    r"""Fully First-order Stochastic Approximation (F2SA).

    With :math:`f` the upper and :math:`g` the lower function, as in the paper, and T inner steps:

    .. math::
      \begin{aligned}
        z &\leftarrow z - \gamma_k \nabla_y g(x_k, z), \quad
        y \leftarrow y - \alpha_k (\nabla_y f(x_k, y) + \lambda_k \nabla_y g(x_k, y))
        \quad (T \text{ times}) \\
        x_{k+1} &= P_X\big(x_k - \xi\alpha_k (\nabla_x f(x_k, y)
          + \lambda_k (\nabla_x g(x_k, y) - \nabla_x g(x_k, z)))\big), \quad
        \lambda_{k+1} = \lambda_k + \delta_k
      \end{aligned}

    An iteration takes 3T + 3 gradients. :func:`bilevel.f2sa_schedules` has the paper's
    :math:`\alpha_k, \gamma_k`. The paper has no projection; ``problem.project_x``, the identity
    unless given, is ours.

    Args:
      penalized_step: Step size :math:`\alpha_k` of ``y``: a number, a schedule of the iteration,
        or an optax transform; ``None`` for that of :func:`bilevel.f2sa_schedules`.
      lower_step: Step size :math:`\gamma_k` of ``z``, likewise.
      multiplier: :math:`\lambda_k`, a number or a schedule; ``None`` for the paper's
        :math:`\gamma_k / (2 \alpha_k)`. It is :math:`1/\sigma_k` of :func:`bilevel.penalty`.
      multiplier_step: Increments :math:`\delta_k \ge 0`: a number or a schedule; ``multiplier`` is
        then :math:`\lambda_0`.
      inner_steps: T >= 1.
      step_ratio: Ratio :math:`\xi > 0` of the step of ``x`` to that of ``y``, for the paper's step
        :math:`\xi \alpha_k`.
      upper_step: Step size of ``x`` in place of :math:`\xi \alpha_k`, or an optax transform;
        without it and ``step_ratio``, :func:`bilevel.adaptive_step`.
      axis_name: Mapped axis over which gradients and metrics are averaged.

    Returns:
      A :class:`bilevel.Solver`; ``init(problem, x0, y0, z0=None)`` starts at ``z = y0`` by default.
      The batch is ``(upper_batch, lower_batch)`` or :class:`bilevel.Samples`. Metrics, all where
      the step of ``x`` is taken: ``upper`` :math:`f(x, y)`, ``lower`` :math:`g(x, y)`,
      ``lower_gap`` :math:`g(x, y) - g(x, z)`, ``gap`` :math:`f/\lambda + g(x, y) - g(x, z)`,
      ``multiplier`` :math:`\lambda_k`, ``residual`` :math:`\|x - P_X(x - d)\|` of the
      hypergradient :math:`d` and ``lower_residual``, the norm of the pair of gradients of the last
      inner step.

    Raises:
      ValueError: On a hyperparameter out of range; at ``init`` on a problem with a constrained
        lower level.

    Example:
      >>> import bilevel, jax, jax.numpy as jnp
      >>> problem = bilevel.Problem(
      ...     upper=lambda x, y, batch: jnp.sum((y - 1.0) ** 2) + 0.5 * jnp.sum(x**2),
      ...     lower=lambda x, y, batch: jnp.sum((y - x) ** 2),
      ... )
      >>> solver = bilevel.f2sa(*bilevel.f2sa_schedules("none", gamma0=0.4))
      >>> state, step = solver.init(problem, jnp.zeros(1), jnp.zeros(1)), jax.jit(solver.step)
      >>> for _ in range(300):
      ...     state, metrics = step(state, None)
      >>> abs(float(state.x[0]) - 2 / 3) < 0.1  # Off by the order of 1 / lam.
      True

    References:
      Kwon, Kwon, Wright, Nowak, `A Fully First-Order Method for Stochastic Bilevel Optimization
      <https://arxiv.org/abs/2301.10945>`_, 2023
    """
    _checks.count("inner_steps", inner_steps)
    shipped = f2sa_schedules("none")
    penalized_step = shipped[0] if penalized_step is None else penalized_step
    lower_step = shipped[1] if lower_step is None else lower_step
    if multiplier is not None:
        _checks.number("multiplier", multiplier, 0, open_low=True, schedule=True)
    if multiplier_step is not None:
        _checks.number("multiplier_step", multiplier_step, 0, schedule=True)
    steps = (penalized_step, lower_step)
    if multiplier is None and any(isinstance(s, optax.GradientTransformation) for s in steps):
        raise ValueError(
            "multiplier must be given where penalized_step or lower_step is an optax transform, "
            "got None"
        )
    if multiplier_step is not None and (multiplier is None or callable(multiplier)):
        raise ValueError("multiplier must be the number lambda_0 where multiplier_step is given")
    move_y, move_z = mover(penalized_step, "penalized_step"), mover(lower_step, "lower_step")
    move_x = _kwon.upper_mover(upper_step, step_ratio, penalized_step, adaptive_step())
    lam_at = _kwon.multiplier(multiplier, penalized_step, lower_step)

    def init(problem, x0, y0, z0=None):
        unconstrained_lower(problem, "f2sa", "bilevel.penalty or bilevel.lv_hba")
        x, y = start(problem, x0, y0)
        z, count = lower_start(problem, y, z0), jnp.zeros((), jnp.int32)
        opts = move_x.init(x), move_y.init(y), move_z.init(z)
        return F2SAState(problem, count, x, y, z, lam_at(count), *opts)

    def step(state, batch):
        problem, k, x, lam_k = state.problem, state.count, state.x, state.lam
        f, g = scalar(problem.upper, "upper"), scalar(problem.lower, "lower")
        g_y = parallel.grad(g, 1, axis_name=axis_name)
        h_y = parallel.grad(
            lambda x, y, bf, bg: f(x, y, bf) + lam_k * g(x, y, bg), 1, axis_name=axis_name
        )

        def lagrangian(x, y, z, s):
            values = f(x, y, s.f_x), g(x, y, s.g_xy), g(x, z, s.g_xz)
            return values[0] + lam_k * (values[1] - values[2]), values

        def inner(carry, s):
            y, z, opt_y, opt_z, _ = carry
            d_z = g_y(x, z, s.g_z)
            z, opt_z = move_z.move(z, d_z, opt_z, k)
            d_y = h_y(x, y, s.f_y, s.g_y)
            y, opt_y = move_y.move(y, d_y, opt_y, k)
            return y, z, opt_y, opt_z, jnp.hypot(*map(optax.tree.norm, (d_y, d_z)))

        zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(state.y)))
        first = (state.y, state.z, state.opt_y, state.opt_z, zero)
        y, z, opt_y, opt_z, lower_residual = inner_loop(inner, first, batch, inner_steps)
        oracle = parallel.value_and_grad(lagrangian, has_aux=True, axis_name=axis_name)
        (_, (fxy, gxy, gxz)), d = oracle(x, y, z, samples(batch))
        x_new, opt_x = move_x.move(x, d, state.opt_x, k)
        residual = projected_gradient(problem.project_x, x, d)
        if multiplier_step is None:
            lam_next = lam_at(k + 1)
        else:
            lam_next = jnp.asarray(lam_k + at(multiplier_step, k), lam_k.dtype)
            lam_next = jax.lax.stop_gradient(lam_next)  # A schedule, to `diagnose`.
        x_new = maybe(problem.project_x)(x_new)
        state = state._replace(count=k + 1, x=x_new, y=y, z=z, lam=lam_next)
        state = state._replace(opt_x=opt_x, opt_y=opt_y, opt_z=opt_z)
        return state, _kwon.report(fxy, gxy, gxz, lam_k, residual, lower_residual)

    return Solver(
        init, step, axis_name, name="f2sa", lower="strongly convex", constraints=("project_x",),
        gradients=Gradients(upper=inner_steps + 1, lower=2 * inner_steps + 2),
        batch="samples", inner_steps=inner_steps,
        step_names=("upper_step", "penalized_step", "lower_step", "multiplier_step"),
        residuals=("residual", "lower_residual"),
    )  # fmt: skip
