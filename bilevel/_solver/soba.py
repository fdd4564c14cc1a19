"""SOBA: one stochastic step each for the lower variable, the linear system and the upper one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel._common import (
    Rate,
    StepSize,
    batches,
    mover,
    oracle,
    start,
    unconstrained_lower,
)
from bilevel._solver._dagreou import moved
from bilevel._solver._hessian import hessian_products
from bilevel.problem import Gradients, Problem, Solver
from bilevel.schedules import slow_step
from optim import _checks

__all__ = ["SOBAState", "soba"]


class SOBAState(NamedTuple):
    """State of :func:`soba`.

    Attributes:
      problem: The problem.
      count: Number of iterations made, an int32 scalar.
      x: Upper variable.
      y: Lower variable.
      v: Follows the solution of the linear system, like ``y``.
      opt_x: State of the optax transform that moves ``x``; ``()`` for a step size.
    """

    problem: Problem
    count: jax.Array
    x: Any
    y: Any
    v: Any
    opt_x: Any


def soba(
    lower_step: Rate = 0.1,
    upper_step: StepSize | None = None,
    *,
    axis_name: str | None = None,
) -> Solver:
    r"""Stochastic Bilevel Algorithm (SOBA).

    .. math::
      y^{t+1} &= y^t - \rho_t f_y(x^t, y^t) \\
      v^{t+1} &= v^t - \rho_t (f_{yy}(x^t, y^t)\, v^t + F_y(x^t, y^t)) \\
      x^{t+1} &= P_X(x^t - \gamma_t (f_{xy}(x^t, y^t)\, v^t + F_x(x^t, y^t)))

    All three directions are taken at the same point and with the same batches. A step takes one
    gradient and one Hessian-vector product of the lower function, and one gradient of the upper.
    Hessian-vector products are forward over reverse: ``lower`` must allow forward-mode
    differentiation, which ``jax.custom_vjp`` does not.
    The paper's lower variable is :math:`z`; it has no projection, ``project_x`` is ours.

    Args:
      lower_step: Step :math:`\rho_t > 0` of ``y`` and ``v``: a number or a schedule. The
        paper's schedule falls as :math:`(t + 1)^{-1/2}`: ``bilevel.power(0.1, -0.5)``.
      upper_step: Step :math:`\gamma_t` of ``x``: a number, a schedule or an optax transform;
        ``None`` for ``bilevel.adaptive_step(0.004, 1000)``.
      axis_name: Mapped axis to average gradients over.

    Returns:
      A :class:`bilevel.Solver`. Metrics, before the step: ``upper``, ``lower``,
      ``hypergradient`` (the norm of the direction d in ``x``), ``residual``
      :math:`\|x - P_X(x - d)\|`, ``lower_residual`` :math:`\|f_y\|` and ``linear_residual``
      :math:`\|f_{yy} v + F_y\|`.

    Raises:
      ValueError: On an argument out of range, and at ``init`` for a constrained lower level.

    Example:
      >>> import bilevel, jax, jax.numpy as jnp
      >>> problem = bilevel.Problem(
      ...     upper=lambda x, y, batch: jnp.sum((y - 1.0) ** 2),
      ...     lower=lambda x, y, batch: jnp.sum((y - x) ** 2),
      ... )
      >>> solver = bilevel.soba(lower_step=0.25, upper_step=0.1)
      >>> state, step = solver.init(problem, jnp.zeros(2), jnp.zeros(2)), jax.jit(solver.step)
      >>> for _ in range(100):
      ...     state, metrics = step(state, None)
      >>> bool(jnp.abs(state.x - 1).max() < 1e-3)
      True

    References:
      Dagréou, Ablin, Vaiter, Moreau, `A framework for bilevel optimization that enables stochastic
      and global variance reduction algorithms <https://arxiv.org/abs/2201.13409>`_, 2022
    """
    upper_step = slow_step() if upper_step is None else upper_step
    _checks.number("lower_step", lower_step, 0, open_low=True, schedule=True)
    move_x = mover(upper_step, "upper_step")

    def init(problem, x0, y0):
        unconstrained_lower(problem, "soba", "bilevel.implicit or bilevel.lv_hba")
        x, y = start(problem, x0, y0)
        v = jax.tree.map(jnp.zeros_like, y)
        return SOBAState(problem, jnp.zeros((), jnp.int32), x, y, v, move_x.init(x))

    def step(state, batch):
        problem, x, y, v = state.problem, state.x, state.y, state.v
        upper_batch, lower_batch = batches(batch)
        products = hessian_products(problem, axis_name)
        lower, f_y, f_yy_v, f_xy_v = products(x, y, v, lower_batch)
        gradients = oracle(problem, "upper", (0, 1), axis_name)
        upper, (F_x, F_y) = gradients(x, y, upper_batch)
        d_v, d_x = (optax.tree.add(a, b) for a, b in ((f_yy_v, F_y), (f_xy_v, F_x)))
        new, metrics = moved(state, move_x, lower_step, (upper, lower), f_y, d_v, d_x)
        return state._replace(**new), metrics

    return Solver(
        init, step, axis_name, name="soba", lower="strongly convex", constraints=("project_x",),
        gradients=Gradients(upper=1, lower=1, products=1),
        step_names=("upper_step", "lower_step"),
        residuals=("residual", "lower_residual", "linear_residual"),
    )  # fmt: skip
