"""Implicit differentiation of the lower level's solution (AID): the usual second-order baseline."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel._common import (
    Rate,
    StepSize,
    at,
    axpy,
    inner_loop,
    maybe,
    mover,
    oracle,
    projected_gradient,
    samples,
    smooth_lower,
    start,
    uncoupled,
)
from bilevel._solver._hessian import conjugate_gradient, hessian_products
from bilevel.problem import Gradients, Problem, Solver
from bilevel.schedules import adaptive_step
from optim import _checks

__all__ = ["ImplicitState", "implicit"]


class ImplicitState(NamedTuple):
    """State of :func:`implicit`.

    Attributes:
      problem: The problem.
      count: Number of iterations made, an int32 scalar.
      x: Upper variable.
      y: Lower variable.
      v: Solution of the linear system, like ``y``; the next system starts from it.
      opt_x: State of the optax transform that moves ``x``; ``()`` for a step size.
      opt_y: The same for ``y``.
    """

    problem: Problem
    count: jax.Array
    x: Any
    y: Any
    v: Any
    opt_x: Any
    opt_y: Any


def implicit(
    linear_solver: str = "cg",
    upper_step: StepSize | None = None,
    lower_step: StepSize = 0.1,
    *,
    inner_steps: int = 10,
    linear_steps: int = 10,
    linear_step: Rate = 0.1,
    ridge: float = 0.0,
    axis_name: str | None = None,
) -> Solver:
    r"""Hypergradient by the implicit function theorem, with warm-started inner solvers.

    .. math::
      y &\leftarrow P_Y(y - \gamma_k f_y(x, y)) \quad \text{(inner steps)} \\
      f_{yy} v &= F_y \quad \text{(linear solver, from the last } v) \\
      x &\leftarrow P_X(x - \alpha_k (F_x - f_{xy} v))

    With ``project_y`` the fixed point :math:`y = P_Y(y - \eta f_y)` is differentiated instead:
    :math:`v - w + \eta f_{yy} w = \eta F_y` with :math:`w = P_Y'^\top v`, and :math:`f_{xy} w` in
    the last line. That system is not symmetric and ``"cg"`` is refused.

    A step takes ``inner_steps`` gradients and ``linear_steps`` + 2 (``"normal_cg"``: twice that)
    Hessian-vector products of the lower function, and one gradient of the upper.
    Hessian-vector products are forward over reverse: ``lower`` must allow forward-mode
    differentiation, which ``jax.custom_vjp`` does not.

    Args:
      linear_solver: ``"cg"``: conjugate gradients, for a lower Hessian that is positive definite.
        ``"normal_cg"``: on the normal equations, for any Hessian, at twice the price.
        ``"neumann"``: the truncated Neumann series :math:`v \leftarrow v - \eta (f_{yy} v - F_y)`.
      upper_step: Step :math:`\alpha_k` in ``x``: a number, a schedule or an optax transform;
        ``None`` for :func:`bilevel.adaptive_step`.
      lower_step: Step :math:`\gamma_k` in ``y``: the same. An optax transform keeps its state from
        step to step.
      inner_steps: Number of steps in ``y``, >= 1.
      linear_steps: Number of iterations of the linear solver, >= 1.
      linear_step: Step :math:`\eta > 0` of ``"neumann"`` and of the fixed point that ``project_y``
        needs, below 2 over the largest eigenvalue of :math:`f_{yy}`: a number or a schedule.
      ridge: Number >= 0 added to the diagonal of the linear system.
      axis_name: Mapped axis to average gradients over.

    Returns:
      A :class:`bilevel.Solver`. Its batch is ``(upper_batch, lower_batch)`` or
      :class:`bilevel.Samples`, of which it uses ``g_z`` (inner steps), ``f_x`` (upper gradient)
      and ``g_xz`` (linear system). Metrics, at the new ``y`` and before ``x`` moves: ``upper``,
      ``lower``, ``hypergradient`` (the norm of :math:`d = F_x - f_{xy} v`), ``residual``
      :math:`\|x - P_X(x - d)\|`, ``lower_residual`` :math:`\|y - P_Y(y - f_y)\|` and
      ``linear_residual`` (relative; of the normal equations with ``"normal_cg"``, before the last
      iteration with ``"neumann"``).

    Raises:
      ValueError: On an argument out of range, and at ``init`` for a problem with a constraint, or
        with a ``project_y`` and ``"cg"``.

    Example:
      >>> import bilevel, jax.numpy as jnp
      >>> problem = bilevel.Problem(
      ...     upper=lambda x, y, batch: jnp.sum((y - 1.0) ** 2),
      ...     lower=lambda x, y, batch: jnp.sum((y - x) ** 2),
      ... )
      >>> solver = bilevel.implicit("cg", upper_step=0.25, lower_step=0.5, inner_steps=1)
      >>> state = solver.init(problem, jnp.zeros(2), jnp.zeros(2))
      >>> state, metrics = solver.step(state, None)
      >>> state.x
      Array([0.5, 0.5], dtype=float32)

    References:
      Pedregosa, `Hyperparameter optimization with approximate gradient
      <https://arxiv.org/abs/1602.02355>`_, 2016;
      Ji, Yang, Liang, `Bilevel Optimization: Convergence Analysis and Enhanced Design
      <https://arxiv.org/abs/2010.07962>`_, 2021
    """
    _checks.choice("linear_solver", linear_solver, ("cg", "normal_cg", "neumann"))
    _checks.count("inner_steps", inner_steps)
    _checks.count("linear_steps", linear_steps)
    _checks.number("linear_step", linear_step, 0, open_low=True, schedule=True)
    _checks.number("ridge", ridge, 0)
    upper_step = adaptive_step() if upper_step is None else upper_step
    move_x, move_y = mover(upper_step, "upper_step"), mover(lower_step, "lower_step")

    def init(problem, x0, y0):
        uncoupled(problem, "implicit")
        smooth_lower(problem, "implicit")
        if problem.project_y is not None and linear_solver == "cg":
            raise ValueError(
                "linear_solver must be normal_cg or neumann for a problem with project_y: "
                "its linear system is not symmetric"
            )
        x, y = start(problem, x0, y0)
        v = jax.tree.map(jnp.zeros_like, y)
        count = jnp.zeros((), jnp.int32)
        return ImplicitState(problem, count, x, y, v, move_x.init(x), move_y.init(y))

    def step(state, batch):
        problem, k, x = state.problem, state.count, state.x
        s = samples(batch)
        project_x, project_y = maybe(problem.project_x), maybe(problem.project_y)
        lower_y = oracle(problem, "lower", 1, axis_name)
        products, eta_k = hessian_products(problem, axis_name), at(linear_step, k)

        def inner(carry, s):
            y, opt = carry
            y, opt = move_y.move(y, lower_y(x, y, s.g_z)[1], opt, k)
            return project_y(y), opt

        y, opt_y = inner_loop(inner, (state.y, state.opt_y), batch, inner_steps)
        upper, (F_x, F_y) = oracle(problem, "upper", (0, 1), axis_name)(x, y, s.f_x)
        lower, f_y = lower_y(x, y, s.g_xz)
        system = linear_system(
            lambda v: products(x, y, v, s.g_xz)[2], problem.project_y, y, f_y, eta_k
        )
        v, linear_residual = solve(system, F_y, state.v, eta_k)
        d = optax.tree.sub(F_x, products(x, y, system.lift(v), s.g_xz)[3])
        new_x, opt_x = move_x.move(x, d, state.opt_x, k)
        metrics = {
            "upper": upper,
            "lower": lower,
            "hypergradient": optax.tree.norm(d),
            "residual": projected_gradient(problem.project_x, x, d),
            "lower_residual": projected_gradient(problem.project_y, y, f_y),
            "linear_residual": linear_residual,
        }
        new = {"count": k + 1, "x": project_x(new_x), "y": y, "v": v}
        return state._replace(**new, opt_x=opt_x, opt_y=opt_y), metrics

    def solve(system, b, v, s):
        def ridged(apply):
            return lambda u: axpy(ridge, u, apply(u))

        matvec, transposed = ridged(system.matvec), ridged(system.transposed)
        if linear_solver == "cg":
            return conjugate_gradient(matvec, b, v, linear_steps)
        if linear_solver == "normal_cg":
            return conjugate_gradient(
                lambda u: transposed(matvec(u)), transposed(b), v, linear_steps
            )

        def neumann(_, carry):
            r = optax.tree.sub(b, matvec(carry[0]))
            return axpy(s, r, carry[0]), optax.tree.norm(r)

        norm = optax.tree.norm(b)
        v, r = jax.lax.fori_loop(0, linear_steps, neumann, (v, norm))
        return v, r / jnp.where(norm > 0, norm, 1)

    # CG begins with a product for its residual; one more makes the mixed derivative.
    products = {"cg": linear_steps + 2, "normal_cg": 2 * linear_steps + 3}
    products["neumann"] = linear_steps + 1
    return Solver(
        init, step, axis_name, name="implicit", lower="strongly convex",
        constraints=("project_x", "project_y"), batch="samples", inner_steps=inner_steps,
        gradients=Gradients(upper=1, lower=inner_steps + 1, products=products[linear_solver]),
        step_names=("upper_step", "lower_step", "linear_step"),
        residuals=("residual", "lower_residual", "linear_residual"),
    )  # fmt: skip


class _System(NamedTuple):
    """The matrix A of ``A v = F_y``, its transpose, and ``w`` in the hypergradient's f_xy w."""

    matvec: Callable[[Any], Any]
    transposed: Callable[[Any], Any]
    lift: Callable[[Any], Any]


def linear_system(hessian, project_y, y, f_y, s) -> _System:
    r"""System of the fixed point :math:`y = P_Y(y - s f_y)`; f_yy itself where there is no P_Y."""
    if project_y is None:
        return _System(hessian, hessian, lambda v: v)
    point = axpy(-s, f_y, y)

    def lift(v):
        return jax.vjp(project_y, point)[1](v)[0]

    def matvec(v):
        w = lift(v)
        return jax.tree.map(lambda a, b, h: (a - b) / s + h, v, w, hessian(w))

    def transposed(v):
        moved = jax.jvp(project_y, (point,), (axpy(-s, hessian(v), v),))[1]
        return jax.tree.map(lambda a, b: (a - b) / s, v, moved)

    return _System(matvec, transposed, lift)
