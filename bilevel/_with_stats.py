"""Solvers of problems whose functions read and write statistics of a model."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel._common import batches
from bilevel.problem import Problem, Samples, Solver
from optim import parallel

__all__ = ["StatsState", "with_stats"]


class StatsState(NamedTuple):
    """State of a solver made by :func:`with_stats`; ``count``, ``x`` and ``y`` are the inner ones.

    Attributes:
      problem: The problem, part of the structure.
      stats: Statistics of the model, in the shapes given.
      inner: State of the solver itself.
    """

    problem: Problem
    stats: Any
    inner: Any

    # Fields of this name would hide `tuple.count`; what the callers of solvers read are these.
    @property
    def count(self) -> jax.Array:  # pyrefly: ignore[bad-override]
        """Number of iterations made."""
        return self.inner.count

    @property
    def x(self) -> Any:
        """Upper variable."""
        return self.inner.x

    @property
    def y(self) -> Any:
        """Lower variable."""
        return self.inner.y


@dataclasses.dataclass(frozen=True)
class _Reading:
    """A function of the problem as the inner solver sees it: its batch is (stats, batch)."""

    function: Callable[..., Any]
    writes: bool = False

    def __call__(self, x: Any, y: Any, batch: Any) -> Any:
        stats, batch = batch
        # Variables of NNX may be written only where they were made: these are made here.
        value = self.function(x, y, jax.tree.map(lambda a: a, stats), batch)
        return value[0] if self.writes else value


@functools.lru_cache(maxsize=32)  # One object for each problem: a new one would compile anew.
def _plain(problem: Problem) -> Problem:
    constraint = problem.constraint
    return dataclasses.replace(
        problem,
        upper=_Reading(problem.upper),
        lower=_Reading(problem.lower, writes=True),
        constraint=None if constraint is None else _Reading(constraint),
        has_stats=False,
    )


def with_stats(solver: Solver) -> Solver:
    r"""Returns ``solver`` for problems with statistics, such as those of BatchNorm.

    .. math::
      (x_{k+1}, y_{k+1}) = \mathrm{step}(x_k, y_k;\, s_k), \qquad
      s_{k+1} = S(x_{k+1}, y_{k+1}, s_k, b_k)

    The functions of a ``Problem(..., has_stats=True)`` take the statistics before the batch, and
    the lower one returns the new ones:

    * ``upper(x, y, stats, batch) -> scalar``, and the constraint alike,
    * ``lower(x, y, stats, batch) -> (scalar, new_stats)``.

    All evaluations of a step see the same statistics, which count as constants; they are renewed
    once, by one more forward pass of the lower function at the new point and on the lower batch.

    Args:
      solver: Any solver of this package that takes a pair of batches or :class:`bilevel.Samples`.

    Returns:
      A solver with the same name and costs. ``init(problem, x0, y0, stats=...)`` takes the first
      statistics; run it by ``bilevel.solve(problem, solver, None, None, state=state)``. The state
      is a :class:`StatsState`.

    Raises:
      ValueError: On a solver of numbered components or of pruning, which has statistics of its
        own; at ``init`` on a problem without statistics.

    Example:
      >>> import bilevel, jax.numpy as jnp
      >>> problem = bilevel.Problem(
      ...     upper=lambda x, y, stats, batch: jnp.sum((y - 1.0) ** 2),
      ...     lower=lambda x, y, stats, batch: (jnp.sum((y - x) ** 2), 0.9 * stats + 0.1 * y[0]),
      ...     has_stats=True,
      ... )
      >>> solver = bilevel.with_stats(bilevel.implicit(upper_step=0.25, lower_step=0.5))
      >>> state = solver.init(problem, jnp.zeros(1), jnp.zeros(1), stats=jnp.zeros(()))
      >>> state = bilevel.solve(problem, solver, None, None, state=state, steps=100).state
      >>> print(f"{state.x[0]:.3f} {state.stats:.3f}")
      1.000 1.000
    """
    if solver.batch not in ("pair", "samples") or solver.export is not None:
        raise ValueError(
            "with_stats takes a solver of batches in pairs, got "
            f"{solver.name} (batch={solver.batch!r})"
        )

    def init(problem, x0, y0, *args, stats, **options):
        if not problem.has_stats:
            raise ValueError("problem has no statistics: Problem(..., has_stats=True)")
        stats = jax.tree.map(jnp.array, stats)
        if args:  # LV-HBA reads the shape of its constraint from a batch.
            args = (_packed(args[0], stats, solver), *args[1:])
        return StatsState(problem, stats, solver.init(_plain(problem), x0, y0, *args, **options))

    def step(state, batch):
        inner = state.inner._replace(problem=_plain(state.problem))
        inner, metrics = solver.step(inner, _packed(batch, state.stats, solver))
        lower = batch.g_xz if isinstance(batch, Samples) else batches(batch)[1]
        _, stats = state.problem.lower(inner.x, inner.y, state.stats, lower)
        stats = parallel.pmean(stats, solver.axis_name)
        return state._replace(stats=stats, inner=inner), metrics

    return solver._replace(init=init, step=step)


def _packed(batch: Any, stats: Any, solver: Solver) -> Any:
    if not isinstance(batch, Samples):
        return tuple((stats, part) for part in batches(batch))
    inner = stats
    if solver.inner_steps:  # Those of the inner steps have a leading axis.
        many = lambda a: jnp.broadcast_to(a, (solver.inner_steps, *jnp.shape(a)))  # noqa: E731
        inner = jax.tree.map(many, stats)
    first = [(inner, part) for part in batch[:3]]
    return Samples(*first, *((stats, part) for part in batch[3:]))
