"""The first number that is not finite, in a metric or in the state, ends a run."""

import math

import jax
import jax.numpy as jnp
import numpy as np


class NonFiniteError(FloatingPointError):
    """A metric or a leaf of the state became NaN or infinite.

    In a population it is raised once no run is left that is finite, and is about the last one.

    Attributes:
      step: The first step at which it happened, counted from 1.
      metric: Name of the metric, or path of the leaf, such as ``state['params']['w']``.
      value: Value of the metric; ``None`` for a leaf.
    """

    def __init__(self, step: int, metric: str, value: float | None = None):
        self.step, self.metric, self.value = step, metric, value
        if value is None:
            super().__init__(
                f"{metric} is not finite after step {step}, though every metric of that step is"
            )
        else:
            hint = " (one that is infinite on purpose belongs in the state)"
            hint = hint if math.isinf(value) else ""
            super().__init__(f"{metric} is {value} at step {step}{hint}")


class Alive:
    """Which runs go on: a run ends at its first number that is not finite, the last by an error.

    Args:
      states: The state of each run, or that of all of them where they are vectorized.
      count: Number of runs.
      vectorized: Whether the runs are on a leading axis of one state.
    """

    def __init__(self, states, count: int, vectorized: bool):
        self._alive = np.ones(count, bool)
        self._axis = count if vectorized else None
        self._at_start = self._broken(states)  # A best value so far may begin at infinity.

    def check_metrics(self, first: int, runs) -> None:
        """Looks at the metrics of each run, of the steps from ``first`` on."""
        self._drop([_bad_metric(first, metrics) for metrics in runs])

    def check_states(self, t: int, states) -> None:
        """Looks for leaves that are not finite after step ``t`` and were at the start."""
        errors: list[NonFiniteError | None] = []
        for now, before in zip(self._broken(states), self._at_start, strict=True):
            new = [leaf for leaf in now if leaf not in before]
            errors.append(NonFiniteError(t, new[0]) if new else None)
        self._drop(errors)

    def _broken(self, states) -> list[list[str]]:
        return [leaves for state in states for leaves in _broken_leaves(state, self._axis)]

    def _drop(self, errors) -> None:
        for r, error in enumerate(errors):
            if self._alive[r] and error is not None:
                self._alive[r] = False
                if not self._alive.any():
                    raise error


def _broken_leaves(state, replicas) -> list[list[str]]:
    """For each run the paths of the leaves of its state that are not finite."""
    found: list[list[str]] = [[] for _ in range(replicas or 1)]
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        if jnp.issubdtype(x.dtype, jnp.inexact):
            on_host = x.is_fully_addressable and jax.default_backend() == "cpu"  # No copy.
            finite = (np if on_host else jnp).isfinite(x)
            finite = np.asarray(finite.all(tuple(range(1 if replicas else 0, x.ndim))))
            for r in np.flatnonzero(~np.atleast_1d(finite)):
                found[r].append("state" + jax.tree_util.keystr(path))
    return found


def _bad_metric(first, values) -> NonFiniteError | None:
    """The error of the first metric that is not finite, if there is one."""
    bad = {k: np.flatnonzero(~np.isfinite(v)) for k, v in values.items()}
    bad = {k: rows[0] for k, rows in bad.items() if rows.size}
    if not bad:
        return None
    name = min(bad, key=bad.__getitem__)
    return NonFiniteError(first + int(bad[name]) + 1, name, float(values[name][bad[name]]))
