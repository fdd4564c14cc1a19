"""SABA: SOBA with variance reduction from a table of every sample's last directions."""

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
from optim import _checks, parallel

__all__ = ["SABAState", "SABATable", "saba"]


class SABATable(NamedTuple):
    """A direction at each component of a finite sum.

    Attributes:
      rows: The last direction of each component: leaves with the number of components as leading
        axis.
      mean: Their mean, without that axis.
    """

    rows: Any
    mean: Any


class SABAState(NamedTuple):
    """State of :func:`saba`.

    Attributes:
      problem: The problem.
      count: Number of iterations made, an int32 scalar.
      x: Upper variable.
      y: Lower variable.
      v: Follows the solution of the linear system, like ``y``.
      opt_x: State of the optax transform that moves ``x``; ``()`` for a step size.
      f_y: :class:`SABATable` of the lower gradients: ``lower_samples`` times ``y``.
      f_yy_v: The same of the Hessian-vector products in ``y``.
      f_xy_v: The same of the mixed products: ``lower_samples`` times ``x``.
      F_y: Of the upper gradients in ``y``: ``upper_samples`` times ``y``.
      F_x: Of the upper gradients in ``x``: ``upper_samples`` times ``x``.
    """

    problem: Problem
    count: jax.Array
    x: Any
    y: Any
    v: Any
    opt_x: Any
    f_y: SABATable
    f_yy_v: SABATable
    f_xy_v: SABATable
    F_y: SABATable
    F_x: SABATable


def saba(
    upper_samples: int,
    lower_samples: int,
    lower_step: Rate = 0.1,
    upper_step: StepSize | None = None,
    *,
    axis_name: str | None = None,
) -> Solver:
    r"""Stochastic Average Bilevel Algorithm (SABA): linear rates with constant steps.

    The steps are those of :func:`bilevel.soba`. Each of the five terms :math:`\phi` of its
    directions is replaced by the SAGA estimate over the finite sums
    :math:`f = \tfrac1n \sum_i f_i` and :math:`F = \tfrac1m \sum_j F_j`,

    .. math::
      \hat\phi = \tfrac1{|B|} \sum_{i \in B} \bigl(\phi_i(x, y, v) - T_i\bigr)
        + \tfrac1n \sum_{l=1}^n T_l, \qquad T_i \leftarrow \phi_i(x, y, v) \text{ for } i \in B

    The batch is ``((upper_ids, upper_components), (lower_ids, lower_components))``. ``ids`` is an
    integer array of shape ``(b,)`` and every leaf of ``components`` has the leading axis b:
    ``f(x, y, components[i])`` is component ``ids[i]``, one sample or one fixed block of samples.
    With ``ids`` of shape ``()`` the components have no leading axis and are one component. An id
    that is not below the number of components makes the directions NaN, at which
    :func:`bilevel.solve` stops: the table has no row for it.

    The tables take :math:`n (2 d_y + d_x) + m (d_y + d_x)` numbers and start at zero, as in the
    authors' benchmark: the first visit of a component corrects the mean by its own share.

    Args:
      upper_samples: Number m >= 1 of components of the upper function.
      lower_samples: Number n >= 1 of components of the lower function.
      lower_step: Step :math:`\rho` of ``y`` and ``v``: a number or a schedule.
      upper_step: Step :math:`\gamma` of ``x``: a number, a schedule or an optax transform; ``None``
        for ``bilevel.adaptive_step(0.004, 1000)``, which gives up the linear rate.
      axis_name: Mapped axis over which the batch is split; the tables are whole on every device.

    Returns:
      A :class:`bilevel.Solver`. Metrics as of :func:`bilevel.soba`: ``upper`` and ``lower`` of
      the batch, the others from the variance-reduced directions.

    Raises:
      ValueError: On an argument out of range, at ``init`` for a constrained lower level, and on a
        batch without ids.

    Example:
      >>> import bilevel, jax, jax.numpy as jnp
      >>> problem = bilevel.Problem(
      ...     upper=lambda x, y, b: jnp.sum((y - b) ** 2),
      ...     lower=lambda x, y, b: jnp.sum((y - x - b) ** 2),
      ... )
      >>> solver = bilevel.saba(2, 2, lower_step=0.25, upper_step=0.1)
      >>> state, step = solver.init(problem, jnp.zeros(2), jnp.zeros(2)), jax.jit(solver.step)
      >>> samples = jnp.array([1.0, 3.0])
      >>> for t in range(200):
      ...     i = jnp.array([t % 2])
      ...     state, metrics = step(state, ((i, samples[i]), (i, 0 * samples[i])))
      >>> bool(jnp.abs(state.x - 2).max() < 1e-3)  # No noise is left, with constant steps.
      True

    References:
      Dagréou, Ablin, Vaiter, Moreau, `A framework for bilevel optimization that enables stochastic
      and global variance reduction algorithms <https://arxiv.org/abs/2201.13409>`_, 2022
    """
    _checks.count("upper_samples", upper_samples)
    _checks.count("lower_samples", lower_samples)
    _checks.number("lower_step", lower_step, 0, open_low=True, schedule=True)
    upper_step = slow_step() if upper_step is None else upper_step
    move_x = mover(upper_step, "upper_step")

    def init(problem, x0, y0):
        unconstrained_lower(problem, "saba", "bilevel.implicit or bilevel.lv_hba")
        x, y = start(problem, x0, y0)
        v = jax.tree.map(jnp.zeros_like, y)
        n, m = lower_samples, upper_samples
        tables = (_empty(n, y), _empty(n, y), _empty(n, x), _empty(m, y), _empty(m, x))
        return SABAState(problem, jnp.zeros((), jnp.int32), x, y, v, move_x.init(x), *tables)

    def step(state, batch):
        problem, x, y, v = state.problem, state.x, state.y, state.v
        (upper_ids, upper_parts), (lower_ids, lower_parts) = map(_checked, batches(batch))
        # The table needs each component's own directions, so nothing is averaged here.
        own = parallel.vary((x, y, v), axis_name)
        lower_of = hessian_products(problem, None)
        upper_of = oracle(problem, "upper", (0, 1), None)

        lower, *lower_rows = _each(lambda b: lower_of(*own, b), lower_ids, lower_parts)
        upper, upper_rows = _each(lambda b: upper_of(*own[:2], b), upper_ids, upper_parts)
        rows = _gather((lower_ids.reshape(-1), *lower_rows), axis_name)
        lower_ids, f_y, f_yy_v, f_xy_v = rows
        upper_ids, F_x, F_y = _gather((upper_ids.reshape(-1), *upper_rows), axis_name)
        f_y_table, f_y = _saga(state.f_y, lower_ids, f_y)
        f_yy_v_table, f_yy_v = _saga(state.f_yy_v, lower_ids, f_yy_v)
        f_xy_v_table, f_xy_v = _saga(state.f_xy_v, lower_ids, f_xy_v)
        F_y_table, F_y = _saga(state.F_y, upper_ids, F_y)
        F_x_table, F_x = _saga(state.F_x, upper_ids, F_x)
        d_v, d_x = (optax.tree.add(a, b) for a, b in ((f_yy_v, F_y), (f_xy_v, F_x)))

        values = (parallel.pmean(jnp.mean(a), axis_name) for a in (upper, lower))
        new, metrics = moved(state, move_x, lower_step, tuple(values), f_y, d_v, d_x)
        tables = {"f_y": f_y_table, "f_yy_v": f_yy_v_table, "f_xy_v": f_xy_v_table}
        tables |= {"F_y": F_y_table, "F_x": F_x_table}
        return state._replace(**new, **tables), metrics

    return Solver(
        init, step, axis_name, name="saba", lower="strongly convex", constraints=("project_x",),
        gradients=Gradients(upper=1, lower=1, products=1), batch="components",
        step_names=("upper_step", "lower_step"),
        residuals=("residual", "lower_residual", "linear_residual"),
    )  # fmt: skip


def _empty(n, like) -> SABATable:
    rows = jax.tree.map(lambda a: jnp.zeros((n, *a.shape), a.dtype), like)
    return SABATable(rows, jax.tree.map(jnp.zeros_like, like))


def _checked(part):
    if not (isinstance(part, (tuple, list)) and len(part) == 2):
        raise ValueError(
            "batch must be ((upper_ids, upper_components), (lower_ids, lower_components)), got "
            f"{jax.tree.structure(part)} for one level"
        )
    ids, components = jnp.asarray(part[0]), part[1]
    if not jnp.issubdtype(ids.dtype, jnp.integer) or ids.ndim > 1:
        raise ValueError(f"ids must be integers of shape (b,) or (), got {ids.dtype}{ids.shape}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(components):
        if ids.ndim and jnp.shape(leaf)[:1] != ids.shape:
            raise ValueError(
                f"components{jax.tree_util.keystr(path)} must have the leading axis of ids, "
                f"{ids.shape[0]}, got shape {jnp.shape(leaf)}"
            )
    return ids, components


def _each(fun, ids, components):
    """Returns ``fun`` of each component, on a leading axis."""
    if ids.ndim:
        return jax.vmap(fun)(components)
    return jax.tree.map(lambda a: a[None], fun(components))


def _gather(tree, axis_name):
    """Returns the leading axes of all devices joined, as a value that is the same on each."""
    if axis_name is None:
        return tree
    n, i = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)

    def join(a):
        whole = jax.lax.psum(jnp.zeros((n, *a.shape), a.dtype).at[i].set(a), axis_name)
        return whole.reshape(-1, *a.shape[1:])

    return jax.tree.map(join, tree)


def _saga(table: SABATable, ids, new) -> tuple[SABATable, Any]:
    """Returns the table with ``new`` at ``ids``, and the SAGA direction."""
    # A component that was drawn twice replaces its row, and moves the mean, once.
    share = 1 / jnp.sum(ids[:, None] == ids[None, :], 1)

    def one(rows, mean, row):
        change = row - rows.at[ids].get(mode="fill", fill_value=jnp.nan)
        weight = share.astype(row.dtype).reshape(-1, *[1] * (row.ndim - 1)) / rows.shape[0]
        direction = jnp.mean(change, 0) + mean
        return rows.at[ids].set(row), mean + jnp.sum(weight * change, 0), direction

    leaves = jax.tree.map(one, table.rows, table.mean, new)
    rows, mean, direction = jax.tree.transpose(
        jax.tree.structure(table.mean), jax.tree.structure((0, 0, 0)), leaves
    )
    return SABATable(rows, mean), direction
