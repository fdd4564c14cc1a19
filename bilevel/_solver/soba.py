"""SOBA: one stochastic step each for the lower variable, the linear system and the upper one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel import problem as common
from bilevel._solver._hessian import hessian_products
from bilevel.schedules import power
from optim import _checks

__all__ = ["SOBAState", "soba"]

Rate = float | Callable[[Any], Any]
_DEFAULT = power(0.1, -0.5)


class SOBAState(NamedTuple):
    """State of :func:`soba`; ``v`` follows the solution of the linear system."""

    problem: common.Problem
    count: jax.Array
    x: Any
    y: Any
    v: Any
    opt_x: Any


def soba(
    rho: Rate = _DEFAULT,
    gamma: common.StepSize = _DEFAULT,
    *,
    axis_name: str | None = None,
) -> common.Solver:
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
      rho: Step :math:`\rho_t > 0` of ``y`` and ``v``: a number or a schedule.
      gamma: Step :math:`\gamma_t` of ``x``: a number, a schedule or an optax transform. Both
        default to :math:`0.1\,(t + 1)^{-1/2}`, the paper's exponent.
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
      >>> solver = bilevel.soba(rho=0.25, gamma=0.1)
      >>> state, step = solver.init(problem, jnp.zeros(2), jnp.zeros(2)), jax.jit(solver.step)
      >>> for _ in range(100):
      ...     state, metrics = step(state, None)
      >>> bool(jnp.abs(state.x - 1).max() < 1e-3)
      True

    References:
      Dagréou, Ablin, Vaiter, Moreau, `A framework for bilevel optimization that enables stochastic
      and global variance reduction algorithms <https://arxiv.org/abs/2201.13409>`_, 2022
    """
    _checks.number("rho", rho, 0, open_low=True, schedule=True)
    move_x = common.mover(gamma, "gamma")

    def init(problem, x0, y0):
        common.unconstrained_lower(problem, "soba", "bilevel.implicit or bilevel.lv_hba")
        x, y = common.start(problem, x0, y0)
        v = jax.tree.map(jnp.zeros_like, y)
        return SOBAState(problem, jnp.zeros((), jnp.int32), x, y, v, move_x.init(x))

    def step(state, batch):
        problem, k, x, y, v, opt_x = state
        upper_batch, lower_batch = common.batches(batch)
        products = hessian_products(problem, axis_name)
        lower, f_y, f_yy_v, f_xy_v = products(x, y, v, lower_batch)
        gradients = common.oracle(problem, "upper", (0, 1), axis_name)
        upper, (F_x, F_y) = gradients(x, y, upper_batch)
        d_v, d_x = (common.axpy(1, a, b) for a, b in ((f_yy_v, F_y), (f_xy_v, F_x)))

        project_x, rho_k = common.maybe(problem.project_x), common.at(rho, k)
        new_x, opt_x = move_x.move(x, d_x, opt_x, k)
        metrics = {
            "upper": upper,
            "lower": lower,
            "hypergradient": optax.tree.norm(d_x),
            "residual": common.distance(x, project_x(common.axpy(-1, d_x, x))),
            "lower_residual": optax.tree.norm(f_y),
            "linear_residual": optax.tree.norm(d_v),
        }
        y, v = common.axpy(-rho_k, f_y, y), common.axpy(-rho_k, d_v, v)
        return SOBAState(problem, k + 1, project_x(new_x), y, v, opt_x), metrics

    return common.Solver(init, step, axis_name)
