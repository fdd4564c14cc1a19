"""F3SA: the fully first-order method with momentum (STORM) in place of inner steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel._common import (
    Rate,
    StepSize,
    at,
    axpy,
    fresh,
    lower_start,
    maybe,
    projected_gradient,
    samples,
    start,
    unconstrained_lower,
)
from bilevel._solver import _kwon
from bilevel._solver._storm import storm, zero_estimates
from bilevel.problem import Gradients, Problem, Samples, Solver
from bilevel.schedules import f3sa_schedules, slow_step
from optim import _checks

__all__ = ["F3SAState", "f3sa"]


class F3SAState(NamedTuple):
    """State of :func:`f3sa`.

    Attributes:
      problem: The problem.
      count: Number of iterations made, an int32 scalar.
      x: Upper variable.
      y: Penalized lower variable, like ``y0``.
      z: Lower variable, like ``y0``.
      lam: Multiplier of the next iteration, a float scalar.
      previous: ``(x, y, z)`` of the iteration before.
      estimates: The six gradient estimates :math:`e_k`: the first three like ``y0``, the others
        like ``x0``.
      opt_x: State of the optax transform that moves ``x``; ``()`` for a step size.
    """

    problem: Problem
    count: jax.Array
    x: Any
    y: Any
    z: Any
    lam: jax.Array
    previous: tuple[Any, Any, Any]
    estimates: Samples
    opt_x: Any


def f3sa(
    penalized_step: Rate | None = None,
    lower_step: Rate | None = None,
    momentum: Rate | None = None,
    multiplier: Rate | None = None,
    step_ratio: float | None = None,
    upper_step: StepSize | None = None,
    axis_name: str | None = None,
) -> Solver:
    r"""Faster Fully First-order Stochastic Approximation (F3SA).

    One step of :func:`bilevel.f2sa` with ``inner_steps=1``, whose six gradients are estimates with
    momentum: each asks for one batch :math:`\xi_k` and reads it at two points,

    .. math::
      e_k = G(v_k; \xi_k) + (1 - \eta_k) (e_{k-1} - G(v_{k-1}; \xi_k)), \quad e_0 = G(v_0; \xi_0).

    An iteration takes twelve gradients. Without noise it is F2SA with ``inner_steps=1``, with
    half the gradients. :func:`bilevel.f3sa_schedules` has the paper's step sizes.

    Args:
      penalized_step: Step size :math:`\alpha_k` of ``y``, a number or a schedule; ``None`` for that
        of :func:`bilevel.f3sa_schedules`, as in the next two.
      lower_step: Step size :math:`\gamma_k` of ``z``, likewise.
      momentum: :math:`\eta_k \in (0, 1]`, the weight of the newest gradient: a number or a
        schedule; 1 is no momentum.
      multiplier: :math:`\lambda_k`, a number or a schedule; ``None`` for the paper's
        :math:`\gamma_k / (2\alpha_k)`, or for the :math:`\gamma_k / \alpha_k` of
        :func:`bilevel.f3sa_schedules`, which says why, where neither ``penalized_step`` nor
        ``lower_step`` is given.
      step_ratio: Ratio :math:`\xi > 0` of the step of ``x`` to that of ``y``, for the paper's step
        :math:`\xi \alpha_k`.
      upper_step: Step size of ``x`` in place of :math:`\xi \alpha_k`, or an optax transform;
        without it and ``step_ratio``, ``bilevel.adaptive_step(0.004, 1000)``.
      axis_name: Mapped axis over which gradients and metrics are averaged.

    Returns:
      A :class:`bilevel.Solver`; ``init(problem, x0, y0, z0=None)`` starts at ``z = y0`` by default.
      The batch is ``(upper_batch, lower_batch)`` or :class:`bilevel.Samples` without the leading
      axis. Metrics as in :func:`bilevel.f2sa`.

    Raises:
      ValueError: On a hyperparameter out of range; at ``init`` on a problem with a constrained
        lower level.

    Example:
      >>> import bilevel, jax, jax.numpy as jnp
      >>> problem = bilevel.Problem(
      ...     upper=lambda x, y, batch: jnp.sum((y - 1.0) ** 2) + 0.5 * jnp.sum(x**2),
      ...     lower=lambda x, y, batch: jnp.sum((y - x) ** 2),
      ... )
      >>> solver = bilevel.f3sa(*bilevel.f3sa_schedules("none", gamma0=0.4))
      >>> state, step = solver.init(problem, jnp.zeros(1), jnp.zeros(1)), jax.jit(solver.step)
      >>> for _ in range(300):
      ...     state, metrics = step(state, None)
      >>> abs(float(state.x[0]) - 2 / 3) < 0.1
      True

    References:
      Kwon, Kwon, Wright, Nowak, `A Fully First-Order Method for Stochastic Bilevel Optimization
      <https://arxiv.org/abs/2301.10945>`_, 2023
    """
    shipped = f3sa_schedules("none")
    if multiplier is None and penalized_step is None and lower_step is None:
        multiplier = shipped[3]
    penalized_step = shipped[0] if penalized_step is None else penalized_step
    lower_step = shipped[1] if lower_step is None else lower_step
    momentum = shipped[2] if momentum is None else momentum
    for name, value in (("penalized_step", penalized_step), ("lower_step", lower_step)):
        _checks.number(name, value, 0, open_low=True, schedule=True)
    _checks.number("momentum", momentum, 0, 1, open_low=True, schedule=True)
    if multiplier is not None:
        _checks.number("multiplier", multiplier, 0, open_low=True, schedule=True)
    move_x = _kwon.upper_mover(upper_step, step_ratio, penalized_step, slow_step())
    lam_at = _kwon.multiplier(multiplier, penalized_step, lower_step)

    def init(problem, x0, y0, z0=None):
        unconstrained_lower(problem, "f3sa", "bilevel.penalty or bilevel.lv_hba")
        x, y = start(problem, x0, y0)
        z, count = lower_start(problem, y, z0), jnp.zeros((), jnp.int32)
        previous = fresh(x), fresh(y), fresh(z)
        zero, opt_x = zero_estimates(x, y), move_x.init(x)
        return F3SAState(problem, count, x, y, z, lam_at(count), previous, zero, opt_x)

    def step(state, batch):
        problem, k, lam_k = state.problem, state.count, state.lam
        x, y, z, (x_old, y_old, z_old) = state.x, state.y, state.z, state.previous
        e, s = state.estimates, samples(batch)
        estimate = storm(problem, momentum, k, axis_name)
        e_gz, _ = estimate("lower", 1, (x, z), (x_old, z_old), s.g_z, e.g_z)
        e_fy, _ = estimate("upper", 1, (x, y), (x_old, y_old), s.f_y, e.f_y)
        e_gy, _ = estimate("lower", 1, (x, y), (x_old, y_old), s.g_y, e.g_y)
        alpha, gamma = at(penalized_step, k), at(lower_step, k)
        z_new = axpy(-gamma, e_gz, z)
        y_new = axpy(-alpha, axpy(lam_k, e_gy, e_fy), y)
        # Of the moves, so that no gradient is kept for it.
        y_moved, z_moved = optax.tree.sub(y_new, y), optax.tree.sub(z_new, z)
        lower_residual = jnp.hypot(
            optax.tree.norm(y_moved) / alpha, optax.tree.norm(z_moved) / gamma
        )
        e_fx, fxy = estimate("upper", 0, (x, y_new), (x_old, y), s.f_x, e.f_x)
        e_gxy, gxy = estimate("lower", 0, (x, y_new), (x_old, y), s.g_xy, e.g_xy)
        e_gxz, gxz = estimate("lower", 0, (x, z_new), (x_old, z), s.g_xz, e.g_xz)
        d = axpy(lam_k, optax.tree.sub(e_gxy, e_gxz), e_fx)
        x_moved, opt_x = move_x.move(x, d, state.opt_x, k)
        x_new = maybe(problem.project_x)(x_moved)
        residual = projected_gradient(problem.project_x, x, d)
        state = state._replace(
            count=k + 1, x=x_new, y=y_new, z=z_new, lam=lam_at(k + 1), previous=(x, y, z),
            estimates=Samples(e_fy, e_gy, e_gz, e_fx, e_gxy, e_gxz), opt_x=opt_x,
        )  # fmt: skip
        return state, _kwon.report(fxy, gxy, gxz, lam_k, residual, lower_residual)

    return Solver(
        init, step, axis_name, name="f3sa", lower="strongly convex", constraints=("project_x",),
        gradients=Gradients(upper=4, lower=8), batch="samples",
        step_names=("upper_step", "penalized_step", "lower_step"),
        residuals=("residual", "lower_residual"),
    )  # fmt: skip
