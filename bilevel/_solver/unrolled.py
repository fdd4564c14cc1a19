"""Unrolled differentiation (ITD): the hypergradient of a fixed number of lower steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel._common import (
    StepSize,
    at,
    axpy,
    fresh,
    maybe,
    mover,
    onto_lower,
    oracle,
    projected_gradient,
    samples,
    scalar,
    start,
    uncoupled,
)
from bilevel._solver._hessian import hessian_products
from bilevel.problem import Gradients, Problem, Samples, Solver
from bilevel.schedules import adaptive_step
from optim import _checks

__all__ = ["UnrolledState", "unrolled"]


class UnrolledState(NamedTuple):
    """State of :func:`unrolled`.

    Attributes:
      problem: The problem.
      count: Number of iterations made, an int32 scalar.
      x: Upper variable.
      y: End of the last unrolled run, and where the next one starts.
      y0: Where each run starts with ``warm_start=False``; otherwise ``None``.
      opt_x: State of the optax transform that moves ``x``; ``()`` for a step size.
    """

    problem: Problem
    count: jax.Array
    x: Any
    y: Any
    y0: Any
    opt_x: Any


def unrolled(
    inner_steps: int = 20,
    upper_step: StepSize | None = None,
    lower_step: StepSize = 0.1,
    *,
    warm_start: bool = True,
    axis_name: str | None = None,
) -> Solver:
    r"""Differentiates the upper value through ``inner_steps`` projected steps of the lower level.

    .. math::
      y_{t+1} &= P_Y(y_t - \gamma_k f_y(x, y_t)), \quad t < T, \qquad
      p_T = F_y(x, y_T), \quad h_T = F_x(x, y_T) \\
      w_t &= P_Y'^\top p_{t+1}, \quad
      h_t = h_{t+1} - \gamma_k f_{xy}(x, y_t)\, w_t, \quad
      p_t = w_t - \gamma_k f_{yy}(x, y_t)\, w_t \\
      x &\leftarrow P_X(x - \alpha_k h_0)

    For ``problem.nonsmooth`` the prox of step :math:`\gamma_k` stands in place of :math:`P_Y`, and
    its derivative in x joins :math:`h_t` (a lasso whose penalty is learned, say).

    This is reverse-mode differentiation with the adjoint recursion written out: it keeps the T
    iterates and nothing of what the gradients computed on the way, and it is exact when gradients
    are averaged over devices. The start :math:`y_0` counts as a constant.

    A step takes T gradients and T Hessian-vector products of the lower function and one gradient of
    the upper, and stores T copies of ``y``, with ``project_y`` twice as many.
    Hessian-vector products are forward over reverse: ``lower`` must allow forward-mode
    differentiation, which ``jax.custom_vjp`` does not.

    An optax transform for ``lower_step`` starts anew in each run and is differentiated through by
    JAX itself, with all that it keeps. Model-agnostic meta-learning (MAML) is this solver with the
    initial parameters for x and what a task adds to them for y, see the second example.

    Args:
      inner_steps: Number T >= 1 of lower steps.
      upper_step: Step :math:`\alpha_k` in ``x``: a number, a schedule or an optax transform;
        ``None`` for :func:`bilevel.adaptive_step`.
      lower_step: Step :math:`\gamma_k` in ``y``: a number, a schedule of the solver's iteration, or
        an optax transform (without ``axis_name``).
      warm_start: Whether a run starts where the last one ended; otherwise at ``y0`` each time.
      axis_name: Mapped axis to average gradients over.

    Returns:
      A :class:`bilevel.Solver`. Its batch is ``(upper_batch, lower_batch)`` or
      :class:`bilevel.Samples`, of which it uses ``g_z`` (lower steps) and ``f_x``. Metrics, at
      :math:`y_T` and before ``x`` moves: ``upper``, ``lower`` (before the last lower step),
      ``hypergradient`` (the norm of :math:`d = h_0`), ``residual`` :math:`\|x - P_X(x - d)\|`
      and ``lower_residual`` :math:`\|y_T - y_{T-1}\| / \gamma_k` (the move itself for an optax
      transform).

    Raises:
      ValueError: On an argument out of range, and at ``init`` for a problem with a constraint.

    Example:
      >>> import bilevel, jax.numpy as jnp
      >>> problem = bilevel.Problem(
      ...     upper=lambda x, y, batch: jnp.sum((y - 1.0) ** 2),
      ...     lower=lambda x, y, batch: jnp.sum((y - x) ** 2),
      ... )
      >>> solver = bilevel.unrolled(1, upper_step=0.25, lower_step=0.5)
      >>> state = solver.init(problem, jnp.zeros(2), jnp.zeros(2))
      >>> state, metrics = solver.step(state, None)
      >>> state.x
      Array([0.5, 0.5], dtype=float32)

      MAML: tasks are numbers near 3, learned in two steps from the initial x.

      >>> def loss(params, task):
      ...     return jnp.mean((params - task) ** 2)
      >>> problem = bilevel.Problem(
      ...     upper=lambda x, y, tasks: loss(x + y, tasks),
      ...     lower=lambda x, y, tasks: jnp.sum((x + y - tasks) ** 2),
      ... )
      >>> solver = bilevel.unrolled(2, upper_step=1.0, lower_step=0.1, warm_start=False)
      >>> tasks = jnp.array([2.0, 4.0])
      >>> x0, y0 = jnp.zeros(1), jnp.zeros(2)
      >>> state = bilevel.solve(problem, solver, x0, y0, batch=(tasks, tasks), steps=50).state
      >>> print(f"{state.x[0]:.2f} {state.y[0]:.2f} {state.y[1]:.2f}")
      3.00 -0.36 0.36

    References:
      Finn, Abbeel, Levine, `Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks
      <https://arxiv.org/abs/1703.03400>`_, 2017;
      Franceschi, Donini, Frasconi, Pontil, `Forward and Reverse Gradient-Based Hyperparameter
      Optimization <https://arxiv.org/abs/1703.01785>`_, 2017
    """
    _checks.count("inner_steps", inner_steps)
    _checks.flag("warm_start", warm_start)
    _checks.number("lower_step", lower_step, 0, open_low=True, schedule=True, transform=True)
    optimizer = lower_step if isinstance(lower_step, optax.GradientTransformation) else None
    if optimizer is not None and axis_name is not None:
        raise ValueError("lower_step must be no optax transform with axis_name")
    upper_step = adaptive_step() if upper_step is None else upper_step
    move_x = mover(upper_step, "upper_step")

    def init(problem, x0, y0):
        uncoupled(problem, "unrolled")
        if problem.nonsmooth is not None and optimizer is not None:
            raise ValueError("lower_step must be no optax transform for a problem with nonsmooth")
        x, y = start(problem, x0, y0)
        # A cold start needs its point again; a warm one must not pay for a copy.
        again = None if warm_start else fresh(y)
        return UnrolledState(problem, jnp.zeros((), jnp.int32), x, y, again, move_x.init(x))

    def step(state, batch):
        problem, k, x = state.problem, state.count, state.x
        s, many = samples(batch), isinstance(batch, Samples)
        project_x, project_y = maybe(problem.project_x), maybe(problem.project_y)
        bounded = problem.project_y is not None or problem.nonsmooth is not None
        lower_y = oracle(problem, "lower", 1, axis_name)
        products = hessian_products(problem, axis_name)
        gamma_k = 1.0 if optimizer is not None else at(lower_step, k)

        def through_optimizer(x, y):
            assert optimizer is not None

            def forward(carry, b):
                y, opt = carry
                value, f_y = lower_y(x, y, b if many else s.g_z)
                updates, opt = optimizer.update(f_y, opt, y)
                return (project_y(optax.apply_updates(y, updates)), opt), (y, value)

            (y, _), kept = jax.lax.scan(forward, (y, optimizer.init(y)), inner, inner_steps)
            return scalar(problem.upper, "upper")(x, y, s.f_x), (y, *kept)

        def onto(x, point):
            return onto_lower(problem, x, point, gamma_k)

        def forward(y, b):
            value, f_y = lower_y(x, y, b if many else s.g_z)
            point = axpy(-gamma_k, f_y, y)
            return onto(x, point), (y, point if bounded else None, value)

        def backward(carry, at_t):
            (p, h), (y, point, b) = carry, at_t
            w = p
            if bounded:
                p_x, w = jax.vjp(onto, x, point)[1](p)
                h = optax.tree.add(h, p_x)
            _, _, f_yy_w, f_xy_w = products(x, y, w, b if many else s.g_z)
            return (axpy(-gamma_k, f_yy_w, w), axpy(-gamma_k, f_xy_w, h)), None

        inner = s.g_z if many else None
        first = state.y if warm_start else state.y0
        if optimizer is not None:
            whole = jax.value_and_grad(through_optimizer, has_aux=True)
            (upper, (y, path, values)), d = whole(x, first)
        else:
            y, (path, points, values) = jax.lax.scan(forward, first, inner, length=inner_steps)
            upper, (F_x, F_y) = oracle(problem, "upper", (0, 1), axis_name)(x, y, s.f_x)
            (_, d), _ = jax.lax.scan(
                backward, (F_y, F_x), (path, points, inner), length=inner_steps, reverse=True
            )

        new_x, opt_x = move_x.move(x, d, state.opt_x, k)
        before = jax.tree.map(lambda a: a[-1], path)
        term = problem.nonsmooth
        metrics = {
            "upper": upper,
            "lower": values[-1] if term is None else values[-1] + term.value(x, before),
            "hypergradient": optax.tree.norm(d),
            "residual": projected_gradient(problem.project_x, x, d),
            "lower_residual": optax.tree.norm(optax.tree.sub(y, before)) / gamma_k,
        }
        return state._replace(count=k + 1, x=project_x(new_x), y=y, opt_x=opt_x), metrics

    return Solver(
        init, step, axis_name, name="unrolled", lower="strongly convex",
        constraints=("project_x", "project_y", "nonsmooth"),
        batch="samples", inner_steps=inner_steps,
        gradients=Gradients(upper=1, lower=inner_steps, products=inner_steps),
        step_names=("upper_step", "lower_step"),
        residuals=("residual", "lower_residual"),
    )  # fmt: skip
