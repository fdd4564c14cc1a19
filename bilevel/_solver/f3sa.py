"""F3SA: the fully first-order method with momentum (STORM) in place of inner steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.problem import (
    Problem,
    Samples,
    Schedule,
    Solver,
    at,
    axpy,
    distance,
    fresh,
    lower_start,
    maybe,
    oracle,
    samples,
    start,
    unconstrained_lower,
)
from optim import _checks

__all__ = ["F3SAState", "f3sa"]


class F3SAState(NamedTuple):
    """State of :func:`f3sa`: iterates, those before, and the six gradient estimates."""

    problem: Problem
    count: jax.Array
    x: Any
    y: Any
    z: Any
    lam: jax.Array
    previous: tuple[Any, Any, Any]
    estimates: Samples


def f3sa(
    alpha: float | Schedule,
    gamma: float | Schedule,
    eta: float | Schedule,
    lam: float | Schedule | None = None,
    xi: float = 1.0,
    axis_name: str | None = None,
) -> Solver:
    r"""Faster Fully First-order Stochastic Approximation (F3SA).

    One step of :func:`bilevel.f2sa` with ``inner_steps=1``, whose six gradients are estimates with
    momentum: each asks for one batch :math:`\xi_k` and reads it at two points,

    .. math::
      e_k = G(v_k; \xi_k) + (1 - \eta_k) (e_{k-1} - G(v_{k-1}; \xi_k)), \quad e_0 = G(v_0; \xi_0).

    It takes twelve gradients an iteration. Without noise it is F2SA with ``inner_steps=1``, with
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
    _checks.number("lam", 1.0 if lam is None else lam, 0, open_low=True, schedule=True)
    _checks.number("xi", xi, 0, open_low=True)

    def multiplier(k):
        value = at(gamma, k) / (2 * at(alpha, k)) if lam is None else at(lam, k)
        return jnp.asarray(value, jnp.result_type(float))

    def init(problem, x0, y0, z0=None):
        unconstrained_lower(problem, "f3sa", "bilevel.penalty or bilevel.lv_hba")
        x, y = start(problem, x0, y0)
        z, count = lower_start(problem, y, z0), jnp.zeros((), jnp.int32)
        previous, lam0 = (fresh(x), fresh(y), fresh(z)), multiplier(count)
        return F3SAState(problem, count, x, y, z, lam0, previous, zero_estimates(x, y))

    def step(state, batch):
        problem, k, x, y, z, lam_k, (x_old, y_old, z_old), e = state
        s = samples(batch)
        keep = momentum(eta, k)
        storm = storm_oracles(problem, keep, axis_name)
        e_gz, _ = storm("lower", 1, (x, z), (x_old, z_old), s.g_z, e.g_z)
        e_fy, _ = storm("upper", 1, (x, y), (x_old, y_old), s.f_y, e.f_y)
        e_gy, _ = storm("lower", 1, (x, y), (x_old, y_old), s.g_y, e.g_y)
        z_new = axpy(-at(gamma, k), e_gz, z)
        y_new = axpy(-at(alpha, k), axpy(lam_k, e_gy, e_fy), y)
        e_fx, fxy = storm("upper", 0, (x, y_new), (x_old, y), s.f_x, e.f_x)
        e_gxy, gxy = storm("lower", 0, (x, y_new), (x_old, y), s.g_xy, e.g_xy)
        e_gxz, gxz = storm("lower", 0, (x, z_new), (x_old, z), s.g_xz, e.g_xz)
        d = jax.tree.map(
            lambda a, b, c: a + jnp.asarray(lam_k * (b - c), a.dtype), e_fx, e_gxy, e_gxz
        )
        project = maybe(problem.project_x)
        x_new = project(axpy(-xi * at(alpha, k), d, x))
        metrics = {
            "upper": fxy,
            "lower": gxy,
            "lower_gap": gxy - gxz,
            "gap": fxy / lam_k + gxy - gxz,
            "multiplier": lam_k,
            "residual": distance(x, project(jax.tree.map(jnp.subtract, x, d))),
        }
        estimates = Samples(e_fy, e_gy, e_gz, e_fx, e_gxy, e_gxz)
        state = F3SAState(
            problem, k + 1, x_new, y_new, z_new, multiplier(k + 1), (x, y, z), estimates
        )
        return state, metrics

    return Solver(init, step, axis_name)


def zero_estimates(x: Any, y: Any) -> Samples:
    """Returns the six estimates before the first step, which does not read them."""

    def zeros(tree):
        return jax.tree.map(jnp.zeros_like, tree)

    return Samples(zeros(y), zeros(y), zeros(y), zeros(x), zeros(x), zeros(x))


def momentum(eta: Any, k: Any) -> Any:
    """Returns the weight of the old estimate, 1 - eta_k, and zero at the first step."""
    return jnp.where(k == 0, 0.0, 1.0 - at(eta, k))


def storm_oracles(problem: Problem, keep: Any, axis_name: str | None):
    """Returns ``(level, argnum, point, old_point, batch, estimate) -> (estimate, value)``."""

    def storm(level, argnum, point, old_point, batch, estimate):
        gradient = oracle(problem, level, argnum, axis_name)
        value, new = gradient(*point, batch)
        _, old = gradient(*old_point, batch)
        return jax.tree.map(
            lambda g, e, o: g + jnp.asarray(keep * (e - o), g.dtype), new, estimate, old
        ), value

    return storm
