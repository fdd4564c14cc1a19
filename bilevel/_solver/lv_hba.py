"""LV-HBA: constraints that couple both levels, by the proximal Lagrangian value function."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel._common import (
    Rate,
    StepSize,
    at,
    batches,
    fresh,
    maybe,
    mover,
    scalar,
    smooth_lower,
    start,
)
from bilevel.problem import Gradients, Problem, Solver
from bilevel.schedules import lv_hba_schedule
from optim import _checks, _xla_cpu, parallel

__all__ = ["LVHBAState", "lv_hba"]


class LVHBAState(NamedTuple):
    """State of :func:`lv_hba`.

    Attributes:
      problem: The problem.
      count: Number of iterations made, an int32 scalar.
      x: Upper variable.
      y: Lower variable.
      theta: Lower variable of the value function, like ``y``.
      lam: Multipliers of the constraint, of its shape; ``(0,)`` without one.
      z: Prox center of the multipliers, like ``lam``.
      opt_xy: State of the optax transform that moves ``(x, y)``; ``()`` for a step size.
    """

    problem: Problem
    count: jax.Array
    x: Any
    y: Any
    theta: Any
    lam: jax.Array
    z: jax.Array
    opt_xy: Any


def lv_hba(
    upper_step: StepSize,
    multiplier_step: Rate,
    lower_step: Rate,
    prox: float = 1.0,
    multiplier_prox: float = 1.0,
    penalty: Rate | None = None,
    project_theta: Any = None,
    axis_name: str | None = None,
) -> Solver:
    r"""Lagrangian Value function based Hessian-free Bilevel Algorithm (LV-HBA).

    .. math::
      \begin{aligned}
        \theta_{k+1} &= P_Y\big(\theta_k - \eta (\nabla_y f(x_k, \theta_k)
          + \nabla_y g(x_k, \theta_k)^\top \lambda_k + (\theta_k - y_k) / \gamma_1)\big) \\
        \lambda_{k+1} &= P_Z\big(\lambda_k - \eta (-g(x_k, \theta_k)
          + (\lambda_k - z_k) / \gamma_2)\big) \\
        d_x &= \nabla_x F(x_k, y_k) / c_k + \nabla_x f(x_k, y_k)
          - \nabla_x f(x_k, \theta_{k+1}) - \nabla_x g(x_k, \theta_{k+1})^\top \lambda_{k+1} \\
        d_y &= \nabla_y F(x_k, y_k) / c_k + \nabla_y f(x_k, y_k)
          - (y_k - \theta_{k+1}) / \gamma_1 \\
        (x_{k+1}, y_{k+1}) &= P_C\big((x_k, y_k) - \alpha (d_x, d_y)\big), \quad
        z_{k+1} = P_Z\big(z_k + (\beta / \gamma_2) (\lambda_{k+1} - z_k)\big)
      \end{aligned}

    with :math:`P_Y` = ``problem.project_y``, :math:`P_C` = ``problem.project_xy`` and
    :math:`Z = [0, r]^l` (:math:`[-r, r]^l` for an equality), :math:`r` =
    ``problem.multiplier_bound``. It takes one gradient of F, three of f and two of g an iteration.

    No step sizes suit every problem: :math:`c_k \approx (k+1)^{0.3}`, :math:`\gamma_2 \le 1` and a
    bounded :math:`r` are where to begin, and :func:`bilevel.diagnose` says whether a run is
    locally stable. The authors' LLC script (:math:`c_k = 0.025 (k+1)^{0.3}, \gamma_2 = 10`) is not.

    Deviations of the authors' scripts from the paper: the LLSC script also projects
    :math:`\theta` onto :math:`\{g(x_k, \theta) = 0\}` (``project_theta``) and leaves multipliers
    unbounded (``multiplier_bound=math.inf``); the SVM scripts never
    update ``x``.

    Args:
      upper_step: Step size :math:`\alpha` of ``(x, y)``: a number, a schedule, or an optax
        transform of the pair.
      multiplier_step: Step size :math:`\beta` of ``z``, a number >= 0 or a schedule.
      lower_step: Step size :math:`\eta` of ``theta`` and ``lam``, a number or a schedule.
      prox: Proximal parameter :math:`\gamma_1` of the lower variable, > 0.
      multiplier_prox: Proximal parameter :math:`\gamma_2` of the multipliers, > 0.
      penalty: :math:`c_k`, a number or a schedule; ``None`` for the paper's :math:`(k+1)^{0.3}`, as
        from :func:`bilevel.lv_hba_schedule`.
      project_theta: ``(theta, x) -> theta`` in place of ``problem.project_y``.
      axis_name: Mapped axis over which gradients and metrics are averaged.

    Returns:
      A :class:`bilevel.Solver`. ``init(problem, x0, y0, batch=None)`` reads from ``batch`` the
      shape of the constraint, for one that needs a batch; it starts at ``theta = y``,
      ``lam = z = 0``. Metrics: ``upper`` F and ``lower`` f at (x, y), ``gap``
      :math:`f - v_{\gamma}` with the value function at the current (theta, lam), ``feasibility``
      :math:`\max(0, g)` or :math:`|g|` (largest entry, at (x, y)), ``multiplier``
      :math:`\|\lambda\|_\infty` and ``residual`` :math:`\|(x, y)_{k+1} - (x, y)_k\| / \alpha`, the
      projected gradient (of the move itself for an optax transform), and ``stationarity``,
      :math:`c_k` times that, in units of F.

    Raises:
      ValueError: On a hyperparameter out of range; at ``init`` on a constraint without
        ``multiplier_bound`` or ``project_xy``.

    Example:
      >>> import bilevel, jax, jax.numpy as jnp
      >>> problem = bilevel.Problem(
      ...     upper=lambda x, y, batch: (x - 1.0) ** 2 + (y - 1.0) ** 2,
      ...     lower=lambda x, y, batch: (y - 2 * x) ** 2,
      ...     constraint=lambda x, y, batch: y - x,
      ...     project_xy=bilevel.projections.joint(bilevel.projections.halfspace((-1.0, 1.0))),
      ...     multiplier_bound=10.0,
      ... )
      >>> solver = bilevel.lv_hba(upper_step=0.05, multiplier_step=0.5, lower_step=0.2)
      >>> state, step = solver.init(problem, 0.5, 0.0), jax.jit(solver.step)
      >>> for _ in range(300):
      ...     state, metrics = step(state, None)
      >>> abs(float(state.x) - 1) + abs(float(state.y) - 1) < 0.1
      True

    References:
      Yao, Yu, Zeng, Zhang, `Constrained Bi-Level Optimization: Proximal Lagrangian Value Function
      Approach and Hessian-free Algorithm <https://arxiv.org/abs/2401.16164>`_, 2024
    """
    penalty = lv_hba_schedule() if penalty is None else penalty
    for name, value in (("lower_step", lower_step), ("penalty", penalty)):
        _checks.number(name, value, 0, open_low=True, schedule=True)
    _checks.number("multiplier_step", multiplier_step, 0, schedule=True)
    _checks.number("prox", prox, 0, open_low=True)
    _checks.number("multiplier_prox", multiplier_prox, 0, open_low=True)
    if project_theta is not None and not callable(project_theta):
        raise ValueError(f"project_theta must be callable or None, got {project_theta!r}")
    move = mover(upper_step, "upper_step")
    plain = not isinstance(upper_step, optax.GradientTransformation)
    gamma1, gamma2 = prox, multiplier_prox

    def init(problem, x0, y0, batch=None):
        smooth_lower(problem, "lv_hba")
        if problem.constraint is not None and problem.multiplier_bound is None:
            raise ValueError(
                "lv_hba needs multiplier_bound > 0 for a problem with a constraint, got None "
                "(math.inf leaves the multipliers unbounded)"
            )
        if problem.constraint is not None and problem.project_xy is None:
            raise ValueError("lv_hba needs project_xy for a problem with a constraint, got None")
        x, y = start(problem, x0, y0, joint=True)
        try:
            g = jax.eval_shape(_constraint(problem), x, y, batches(batch)[1])
        except Exception as error:
            if batch is None:
                error.add_note(
                    "A constraint that reads its batch needs one at the start: "
                    "state = solver.init(problem, x0, y0, batch), bilevel.solve(..., state=state)."
                )
            raise
        lam = jnp.zeros(g.shape, g.dtype)
        count = jnp.zeros((), jnp.int32)
        return LVHBAState(problem, count, x, y, fresh(y), lam, fresh(lam), move.init((x, y)))

    def step(state, batch):
        problem, k, x, y = state.problem, state.count, state.x, state.y
        theta, lam, z = state.theta, state.lam, state.z
        upper, lower = batches(batch)
        F, f = scalar(problem.upper, "upper"), scalar(problem.lower, "lower")
        g = _constraint(problem)
        c_k, eta_k, beta_k = at(penalty, k), at(lower_step, k), at(multiplier_step, k)

        def lagrangian(x, theta, lam):
            value, slack = f(x, theta, lower), g(x, theta, lower)
            return value + jnp.vdot(lam, slack).astype(value.dtype), slack

        def objective(x, y):
            values = F(x, y, upper), f(x, y, lower)
            return values[0] / c_k + values[1], values

        def gradient(fun, argnums):
            return parallel.value_and_grad(fun, argnums, has_aux=True, axis_name=axis_name)

        (_, slack), d_theta = gradient(lagrangian, 1)(x, theta, lam)
        theta = jax.tree.map(
            lambda t, d, p: t - jnp.asarray(eta_k * (d + (t - p) / gamma1), t.dtype),
            theta, d_theta, y,
        )  # fmt: skip
        if project_theta is not None:
            theta = project_theta(theta, x)
        else:
            theta = maybe(problem.project_y)(theta)
        lam = lam - jnp.asarray(eta_k * ((lam - z) / gamma2 - slack), lam.dtype)
        lam = _bounded(problem, lam)

        (_, (Fxy, fxy)), (d_x, d_y) = gradient(objective, (0, 1))(x, y)
        (value, _), d_value = gradient(lagrangian, 0)(x, theta, lam)
        d_x = jax.tree.map(jnp.subtract, d_x, d_value)
        d_y = jax.tree.map(lambda d, p, t: d - (p - t) / gamma1, d_y, y, theta)
        value += _half_square(theta, y) / gamma1 - _half_square(lam, z) / gamma2
        d, residual = (d_x, d_y), None
        sets = problem.project_x, problem.project_y, problem.project_xy
        if sets == (None, None, None) and plain:
            residual = optax.tree.norm(d)  # Of the move, which may overwrite x and y.
        moved, opt_xy = move.move((x, y), d, state.opt_xy, k)
        x_new, y_new = _project(problem, *moved)
        if residual is None:
            residual = optax.tree.norm(optax.tree.sub((x_new, y_new), (x, y)))
            residual /= at(upper_step, k) if plain else 1.0
        z = _bounded(problem, z + jnp.asarray(beta_k / gamma2 * (lam - z), z.dtype))

        violation = parallel.pmean(g(x, y, lower), axis_name)
        violation = jnp.abs(violation) if problem.equality else violation
        metrics = {
            "upper": Fxy,
            "lower": fxy,
            "gap": fxy - value,
            "feasibility": jnp.max(violation, initial=0.0),
            "multiplier": jnp.max(jnp.abs(lam), initial=0.0),
            "residual": residual,
            "stationarity": c_k * residual,
        }
        # Both read x and y, which the new ones may overwrite.
        x_new, y_new = _xla_cpu.after((x_new, y_new), value, residual)
        new = {"x": x_new, "y": y_new, "theta": theta, "lam": lam, "z": z, "opt_xy": opt_xy}
        return state._replace(count=k + 1, **new), metrics

    return Solver(
        init, step, axis_name, name="lv_hba", lower="convex",
        constraints=("project_x", "project_y", "project_xy", "constraint"),
        gradients=Gradients(upper=1, lower=3, constraint=2),
        step_names=("upper_step", "lower_step", "multiplier_step"),
        residuals=("stationarity", "feasibility"),
    )  # fmt: skip


def _constraint(problem):
    if problem.constraint is None:
        return lambda x, y, batch: jnp.zeros(0)

    def g(x, y, batch):
        value = problem.constraint(x, y, batch)
        if not isinstance(value, jax.Array | np.ndarray | np.generic):
            raise ValueError(f"constraint must return one array, got {type(value).__name__}")
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(f"constraint must return floats, got {value.dtype}")
        return jnp.asarray(value)

    return g


def _bounded(problem, lam):
    r = problem.multiplier_bound
    return lam if r is None else jnp.clip(lam, -r if problem.equality else 0.0, r)


def _project(problem, x, y):
    if problem.project_xy is not None:
        return problem.project_xy(x, y)
    return maybe(problem.project_x)(x), maybe(problem.project_y)(y)


def _half_square(a, b):
    return 0.5 * optax.tree.norm(optax.tree.sub(a, b)) ** 2
