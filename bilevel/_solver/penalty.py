"""Proximal penalty methods: Algorithm 1 (double loop) and Algorithm 2 (single loop, momentum)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel._solver.f3sa import momentum, storm_oracles, zero_estimates
from bilevel.problem import (
    Problem,
    Samples,
    Schedule,
    Solver,
    StepSize,
    at,
    distance,
    fresh,
    inner_loop,
    lower_start,
    maybe,
    mover,
    samples,
    scalar,
    start,
)
from bilevel.schedules import power
from optim import _checks, parallel

__all__ = ["PenaltyState", "penalty"]


class PenaltyState(NamedTuple):
    """State of :func:`penalty`: iterates, prox points, and what momentum or optax keep."""

    problem: Problem
    count: jax.Array
    x: Any
    y: Any
    z: Any
    wy: Any
    wz: Any
    steps: Any
    previous: Any
    estimates: Samples | None


def penalty(
    alpha: StepSize,
    beta: float | Schedule,
    gamma: float | Schedule,
    sigma: float | Schedule | None = None,
    rho: float = 1.0,
    inner_steps: int = 1,
    eta: float | Schedule | None = None,
    warm_start: bool = True,
    axis_name: str | None = None,
) -> Solver:
    r"""Proximal penalty method after Kwon, Kwon, Wright and Nowak.

    With :math:`f` the upper and :math:`g` the lower function, as in the paper, and
    :math:`h_\sigma = \sigma f + g`, it descends the penalty hyper-objective
    :math:`\psi_\sigma(x) = (\min_Y h_\sigma(x, \cdot) - \min_Y g(x, \cdot)) / \sigma`, which is
    within :math:`O(\sigma)` of the hyper-objective under the proximal error bound.

    .. math::
      \begin{aligned}
        u &\leftarrow P_Y\big(u - \gamma_k (\sigma_k \nabla_y f(x_k, u) + \nabla_y g(x_k, u)
          + (u - y_k) / \rho)\big), \quad
        v \leftarrow P_Y\big(v - \gamma_k (\nabla_y g(x_k, v) + (v - z_k) / \rho)\big)
          \quad (T \text{ times}) \\
        y_{k+1} &= (1 - \beta_k) y_k + \beta_k u, \quad z_{k+1} = (1 - \beta_k) z_k + \beta_k v \\
        x_{k+1} &= P_X\big(x_k - \alpha_k (\sigma_k \nabla_x f(x_k, u)
          + \nabla_x g(x_k, u) - \nabla_x g(x_k, v))\big)
      \end{aligned}

    Algorithm 1, without ``eta``, takes 3T + 3 gradients an iteration; in its stochastic form the
    batches of the x step are large. Algorithm 2, with ``eta``, has T = 1 and replaces each of the
    six gradients by the estimate with momentum of :func:`bilevel.f3sa`, twelve gradients in all.
    :func:`bilevel.penalty_schedules` has step sizes with the paper's rates.

    The listing follows the equations that are known to us, not the paper's text line by line.

    Args:
      alpha: Step size of ``x``: a number, a schedule, or (Algorithm 1) an optax transform.
      beta: Averaging weight in (0, 1] of the prox centers, a number or a schedule.
      gamma: Inner step size, at most :math:`1 / (L + 1/\rho)`, a number or a schedule.
      sigma: :math:`\sigma_k > 0`, a number or a schedule; ``None`` for the paper's
        :math:`(k+1)^{-1/3}`, with ``eta`` :math:`(k+1)^{-1/5}`.
      rho: Proximal parameter, below the inverse of the lower level's weak convexity.
      inner_steps: T >= 1.
      eta: Momentum :math:`\eta_k \in (0, 1]` of Algorithm 2, a number or a schedule.
      warm_start: Whether the inner loop starts at the last prox points or at
        :math:`(y_k, z_k)`. Algorithm 2 always does the former.
      axis_name: Mapped axis over which gradients and metrics are averaged.

    Returns:
      A :class:`bilevel.Solver`; ``init(problem, x0, y0, z0=None)`` starts at ``z = y0`` by default.
      The batch is ``(upper_batch, lower_batch)`` or :class:`bilevel.Samples` (without the leading
      axis for Algorithm 2). Metrics, where the step of ``x`` is taken: ``upper``
      :math:`f(x, u)`, ``lower`` :math:`g(x, u)`, ``lower_gap`` :math:`g(x, u) - g(x, v)`, ``gap``
      :math:`h_\sigma(x, u) - g(x, v)`, ``multiplier`` :math:`1/\sigma_k`, ``prox_residual``
      :math:`\|(u - y_k, v - z_k)\| / \rho` and ``residual`` :math:`\|x - P_X(x - d)\|` of the
      hypergradient :math:`d \approx \nabla \psi_\sigma`.

    Raises:
      ValueError: On a hyperparameter out of range; at ``init`` on a problem with a constraint.

    Example:
      >>> import bilevel, jax, jax.numpy as jnp
      >>> problem = bilevel.Problem(
      ...     upper=lambda x, y, batch: jnp.sum((y - 1.0) ** 2) + 0.5 * jnp.sum(x**2),
      ...     lower=lambda x, y, batch: jnp.sum((y - x) ** 2),
      ...     project_x=bilevel.projections.box(0, 0.5),
      ... )
      >>> solver = bilevel.penalty(0.3, 0.8, 0.2, sigma=0.1, inner_steps=5)
      >>> state, step = solver.init(problem, jnp.zeros(1), jnp.zeros(1)), jax.jit(solver.step)
      >>> for _ in range(100):
      ...     state, metrics = step(state, None)
      >>> state.x
      Array([0.5], dtype=float32)

    References:
      Kwon, Kwon, Wright, Nowak, `On Penalty Methods for Nonconvex Bilevel Optimization and
      First-Order Stochastic Approximation <https://arxiv.org/abs/2309.01753>`_, 2024
    """
    if sigma is None:
        sigma = power(1.0, -1 / 3 if eta is None else -1 / 5)
    for name, value in (("gamma", gamma), ("sigma", sigma)):
        _checks.number(name, value, 0, open_low=True, schedule=True)
    for name, value in (("beta", beta), ("eta", 1.0 if eta is None else eta)):
        _checks.number(name, value, 0, 1, open_low=True, schedule=True)
    _checks.number("alpha", alpha, 0, open_low=True, schedule=True, transform=eta is None)
    _checks.number("rho", rho, 0, open_low=True)
    _checks.count("inner_steps", inner_steps)
    if eta is not None and inner_steps != 1:
        raise ValueError(f"inner_steps must be 1 with eta (Algorithm 2), got {inner_steps}")
    if eta is not None and not warm_start:
        raise ValueError("warm_start must be True with eta (Algorithm 2), got False")
    move_x = mover(alpha, "alpha")

    def init(problem, x0, y0, z0=None):
        for name in ("constraint", "project_xy"):
            if getattr(problem, name) is not None:
                raise ValueError(f"penalty takes no {name}: use bilevel.lv_hba")
        x, y = start(problem, x0, y0)
        z, count = lower_start(problem, y, z0), jnp.zeros((), jnp.int32)
        state = PenaltyState(
            problem, count, x, y, z, fresh(y), fresh(z), move_x.init(x), None, None
        )
        if eta is None:
            return state
        previous = (fresh(x), fresh(y), fresh(z))
        return state._replace(previous=previous, estimates=zero_estimates(x, y))

    def prox_step(problem, k, w, center, d):
        gamma_k = at(gamma, k)
        w = jax.tree.map(
            lambda w, c, d: w - jnp.asarray(gamma_k * (d + (w - c) / rho), w.dtype), w, center, d
        )
        return maybe(problem.project_y)(w)

    def finish(state, wy, wz, d, values, previous=None, estimates=None):
        """Moves the prox centers and x, and reports."""
        problem, k, x, y, z = state[:5]
        sigma_k, beta_k = at(sigma, k), at(beta, k)
        fxy, gxy, gxz = values
        project = maybe(problem.project_x)
        moved, steps = move_x.move(x, d, state.steps, k)
        metrics = {
            "upper": fxy,
            "lower": gxy,
            "lower_gap": gxy - gxz,
            "gap": sigma_k * fxy + gxy - gxz,
            "multiplier": jnp.asarray(1 / sigma_k, jnp.result_type(float)),
            "prox_residual": distance((wy, wz), (y, z)) / rho,
            "residual": distance(
                x, project(jax.tree.map(lambda p, q: p - jnp.asarray(q / sigma_k, p.dtype), x, d))
            ),
        }

        def average(c, w):
            return c + jnp.asarray(beta_k * (w - c), c.dtype)

        y, z = jax.tree.map(average, y, wy), jax.tree.map(average, z, wz)
        new = (problem, k + 1, project(moved), y, z, wy, wz, steps, previous, estimates)
        return PenaltyState(*new), metrics

    def double_loop(state, batch):
        problem, k, x, y, z = state[:5]
        sigma_k = at(sigma, k)
        f, g = scalar(problem.upper, "upper"), scalar(problem.lower, "lower")
        g_y = parallel.grad(g, 1, axis_name=axis_name)
        h_y = parallel.grad(
            lambda x, y, bf, bg: sigma_k * f(x, y, bf) + g(x, y, bg), 1, axis_name=axis_name
        )

        def inner(carry, s):
            u, v = carry
            u = prox_step(problem, k, u, y, h_y(x, u, s.f_y, s.g_y))
            return u, prox_step(problem, k, v, z, g_y(x, v, s.g_z))

        def difference(x, u, v, s):
            values = f(x, u, s.f_x), g(x, u, s.g_xy), g(x, v, s.g_xz)
            return sigma_k * values[0] + values[1] - values[2], values

        first = (state.wy, state.wz) if warm_start else (y, z)
        u, v = inner_loop(inner, first, batch, inner_steps)
        gradient = parallel.value_and_grad(difference, has_aux=True, axis_name=axis_name)
        (_, values), d = gradient(x, u, v, samples(batch))
        return finish(state, u, v, d, values)

    def single_loop(state, batch):
        problem, k, x, y, z, wy, wz, _, (x_old, wy_old, wz_old), e = state
        s, sigma_k = samples(batch), at(sigma, k)
        storm = storm_oracles(problem, momentum(eta, k), axis_name)
        e_fy, _ = storm("upper", 1, (x, wy), (x_old, wy_old), s.f_y, e.f_y)
        e_gy, _ = storm("lower", 1, (x, wy), (x_old, wy_old), s.g_y, e.g_y)
        e_gz, _ = storm("lower", 1, (x, wz), (x_old, wz_old), s.g_z, e.g_z)
        h_y = jax.tree.map(lambda a, b: jnp.asarray(sigma_k * a, b.dtype) + b, e_fy, e_gy)
        u, v = prox_step(problem, k, wy, y, h_y), prox_step(problem, k, wz, z, e_gz)
        e_fx, fxy = storm("upper", 0, (x, u), (x_old, wy), s.f_x, e.f_x)
        e_gxy, gxy = storm("lower", 0, (x, u), (x_old, wy), s.g_xy, e.g_xy)
        e_gxz, gxz = storm("lower", 0, (x, v), (x_old, wz), s.g_xz, e.g_xz)
        d = jax.tree.map(
            lambda a, b, c: jnp.asarray(sigma_k * a, b.dtype) + b - c, e_fx, e_gxy, e_gxz
        )
        estimates = Samples(e_fy, e_gy, e_gz, e_fx, e_gxy, e_gxz)
        return finish(state, u, v, d, (fxy, gxy, gxz), (x, wy, wz), estimates)

    return Solver(init, double_loop if eta is None else single_loop, axis_name)
