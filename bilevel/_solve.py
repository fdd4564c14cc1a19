"""Runs a solver on a problem in the jitted loop, on one device or many, resumably."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from bilevel.problem import Problem, Samples, Solver
from optim import loop

__all__ = ["Solution", "solve"]


class Solution(NamedTuple):
    """What :func:`solve` returns: the last state, and each metric as an array over the steps."""

    state: Any
    metrics: dict[str, np.ndarray]


def solve(
    problem: Problem,
    solver: Solver,
    x0: Any,
    y0: Any,
    batches: Callable[[int], Any] | None = None,
    steps: int = 1000,
    *,
    state: Any = None,
    mesh: Mesh | None = None,
    axis_name: str | None = None,
    on_metrics: Callable[[int, dict[str, np.ndarray]], None] | None = None,
    **options: Any,
) -> Solution:
    r"""Runs ``solver`` on ``problem`` until iteration ``steps``.

    Many iterations are one device call; the state is donated; metrics come back once a call. A
    run that is stopped and continued from a saved state gives the same bits.

    .. math::
      s_0 = \mathrm{init}(x_0, y_0), \qquad (s_{k+1}, m_k) = \mathrm{step}(s_k, b_k)

    Args:
      problem: The problem.
      solver: The method, as from :func:`bilevel.penalty`.
      x0: Upper start.
      y0: Lower start.
      batches: ``batches(k)`` returns an iterator over the pairs ``(upper_batch, lower_batch)`` of
        iterations ``k, k + 1, ...``: pytrees of numpy arrays with the examples on the leading
        axis, or whatever ``prepare`` makes batches of. ``None`` for a deterministic problem.
      steps: Number of the last iteration.
      state: State to continue from, instead of the start; iteration ``state.count`` is next.
      mesh: One-axis mesh, as from ``optim.parallel.data_mesh()``: batches are split over it, the
        state is replicated.
      axis_name: Name of the mesh's axis, to run the step by ``jax.shard_map`` on each device's
        share of the batch; the solver must have been made with the same ``axis_name``. By default
        the compiler splits the step.
      on_metrics: Called as ``on_metrics(k, metrics)`` after each device call.
      **options: Further options of ``optim.loop.run``: ``key``, ``data``, ``prepare``,
        ``steps_per_call``, ``scan``, ``hooks``, ``stop``.

    Returns:
      ``(state, metrics)``.

    Raises:
      optim.loop.NonFiniteError: At the first metric that is not finite, with its step and name.
      ValueError: On an ``axis_name`` that does not fit, or arguments that do not fit the problem.

    Example:
      >>> import bilevel, jax.numpy as jnp
      >>> problem = bilevel.Problem(
      ...     upper=lambda x, y, batch: jnp.sum((y - 1.0) ** 2) + 0.5 * jnp.sum(x**2),
      ...     lower=lambda x, y, batch: jnp.sum((y - x) ** 2),
      ... )
      >>> solver = bilevel.penalty(0.3, 0.8, 0.2, sigma=0.1, inner_steps=5)
      >>> state, metrics = bilevel.solve(problem, solver, jnp.zeros(1), jnp.zeros(1), steps=200)
      >>> print(f"{state.x[0]:.2f} {metrics['upper'][-1]:.2f}")
      0.65 0.31
    """
    if axis_name != solver.axis_name:
        raise ValueError(f"axis_name must be the solver's, {solver.axis_name!r}, got {axis_name!r}")
    if axis_name is not None and (mesh is None or axis_name not in mesh.axis_names):
        axes = None if mesh is None else mesh.axis_names
        raise ValueError(f"axis_name {axis_name!r} must be an axis of mesh, got {axes}")
    if state is None:
        state = solver.init(problem, x0, y0)
    rows: list[dict[str, np.ndarray]] = []

    def collect(first, values):
        rows.append(values)
        if on_metrics is not None:
            on_metrics(first, values)

    step = solver.step if axis_name is None else _mapped(solver.step, mesh, axis_name)
    first = int(state.count)
    state = loop.run(
        step, state, batches, steps, start=first, mesh=mesh, on_metrics=collect, **options
    )
    names = rows[0] if rows else {}
    return Solution(state, {k: np.concatenate([row[k] for row in rows]) for k in names})


@functools.lru_cache(maxsize=32)  # The loop compiles a step once for each function object.
def _mapped(step, mesh, axis_name):
    def specs(batch):
        shares = jax.tree.map(lambda _: PartitionSpec(axis_name), batch)
        if isinstance(batch, Samples):
            inner = [
                jax.tree.map(lambda _: PartitionSpec(None, axis_name), part) for part in batch[:3]
            ]
            shares = Samples(*inner, *shares[3:])
        return shares

    def mapped(state, batch):
        whole = PartitionSpec()
        fun = jax.shard_map(step, mesh=mesh, in_specs=(whole, specs(batch)), out_specs=whole)
        return fun(state, batch)

    return mapped
