"""F3SA: the fully first-order method with momentum (STORM) in place of inner steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel._common import (
    Rate,
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
from bilevel.problem import Problem, Samples, Solver
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
    """

    problem: Problem
    count: jax.Array
    x: Any
    y: Any
    z: Any
    lam: jax.Array
    previous: tuple[Any, Any, Any]
    estimates: Samples


def f3sa(
    alpha: Rate,
    gamma: Rate,
    eta: Rate,
    lam: Rate | None = None,
    xi: float = 1.0,
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
      alpha: Step size :math:`\alpha_k` of ``y``, a number or a schedule. (An optax transform would
        break the estimates' link to the last move, so none is taken.)
      gamma: Step size :math:`\gamma_k` of ``z``.
      eta: :math:`\eta_k \in (0, 1]`, a number or a schedule.
      lam: Multiplier :math:`\lambda_k`; ``None`` for the paper's :math:`\gamma_k / (2\alpha_k)`.
      xi: Ratio of the step of ``x`` to that of ``y``, > 0.
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
    for name, value in (("alpha", alpha), ("gamma", gamma)):
        _checks.number(name, value, 0, open_low=True, schedule=True)
    _checks.number("eta", eta, 0, 1, open_low=True, schedule=True)
    if lam is not None:
        _checks.number("lam", lam, 0, open_low=True, schedule=True)
    _checks.number("xi", xi, 0, open_low=True)

    lam_at = _kwon.multiplier(lam, alpha, gamma)

    def init(problem, x0, y0, z0=None):
        unconstrained_lower(problem, "f3sa", "bilevel.penalty or bilevel.lv_hba")
        x, y = start(problem, x0, y0)
        z, count = lower_start(problem, y, z0), jnp.zeros((), jnp.int32)
        previous = fresh(x), fresh(y), fresh(z)
        return F3SAState(problem, count, x, y, z, lam_at(count), previous, zero_estimates(x, y))

    def step(state, batch):
        problem, k, lam_k = state.problem, state.count, state.lam
        x, y, z, (x_old, y_old, z_old) = state.x, state.y, state.z, state.previous
        e, s = state.estimates, samples(batch)
        estimate = storm(problem, eta, k, axis_name)
        e_gz, _ = estimate("lower", 1, (x, z), (x_old, z_old), s.g_z, e.g_z)
        e_fy, _ = estimate("upper", 1, (x, y), (x_old, y_old), s.f_y, e.f_y)
        e_gy, _ = estimate("lower", 1, (x, y), (x_old, y_old), s.g_y, e.g_y)
        z_new = axpy(-at(gamma, k), e_gz, z)
        y_new = axpy(-at(alpha, k), axpy(lam_k, e_gy, e_fy), y)
        e_fx, fxy = estimate("upper", 0, (x, y_new), (x_old, y), s.f_x, e.f_x)
        e_gxy, gxy = estimate("lower", 0, (x, y_new), (x_old, y), s.g_xy, e.g_xy)
        e_gxz, gxz = estimate("lower", 0, (x, z_new), (x_old, z), s.g_xz, e.g_xz)
        d = axpy(lam_k, optax.tree.sub(e_gxy, e_gxz), e_fx)
        x_new = maybe(problem.project_x)(axpy(-xi * at(alpha, k), d, x))
        residual = projected_gradient(problem.project_x, x, d)
        state = state._replace(
            count=k + 1, x=x_new, y=y_new, z=z_new, lam=lam_at(k + 1), previous=(x, y, z),
            estimates=Samples(e_fy, e_gy, e_gz, e_fx, e_gxy, e_gxz),
        )  # fmt: skip
        return state, _kwon.report(fxy, gxy, gxz, lam_k, residual)

    return Solver(init, step, axis_name)
