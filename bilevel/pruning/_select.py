"""Exact selection of the j smallest of many numbers, without sorting them.

A mask needs only the threshold between dropped and kept scores. It is found by counting: each
pass over the scores halves, or better, the interval that holds the threshold. Starting from a
small sample's quantiles, and interpolating, a few passes find it exactly, where a full sort of 25
million numbers takes seconds on a CPU (``benchmarks/pruning.py`` has the measurement).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from optim import _xla_cpu

__all__ = [
    "Threshold",
    "drop_smallest",
    "drop_smallest_on_host",
    "find",
    "keys",
    "largest_in_groups",
    "on_host",
]

_SAMPLE = 4096
_LARGE = 2**20
_BLOCK = 2**16


def largest_in_groups(groups: jax.Array, n: Any) -> jax.Array:
    """Marks the ``n`` largest of each row of (rows, M), of equal ones the later.

    By counting what is above each: M comparisons per number, in place of a sort. ``n`` may be
    traced.
    """
    one, other = groups[:, :, None], groups[:, None, :]
    place = jnp.arange(groups.shape[1])
    later = place[None, None, :] > place[None, :, None]
    above = (other > one) | ((other == one) & later)
    return above.sum(-1) < n


class Threshold(NamedTuple):
    """Keys below ``key`` are dropped, and the first ``ties`` (by index) of those equal to it."""

    key: jax.Array
    ties: jax.Array


def keys(x: jax.Array, absolute: bool) -> jax.Array:
    """Returns integers ordered as ``|x|`` (as ``x`` when not ``absolute``); NaN is the largest."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.float32)
    signed = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}[x.dtype.itemsize]
    bits = lax.bitcast_convert_type(x, signed)
    top = jnp.iinfo(signed).max
    magnitude = bits & jnp.asarray(top, signed)
    if absolute:
        return magnitude
    # Negative floats count down from zero; -0.0 and 0.0 share the key 0.
    return jnp.where(bits < 0, -magnitude, magnitude)


def _value(key: jax.Array, dtype) -> jax.Array:
    """The float of a key: the inverse of :func:`keys`."""
    magnitude = lax.bitcast_convert_type(jnp.abs(key), dtype)
    return jnp.where(key < 0, -magnitude, magnitude)


def _sample(leaves: list[jax.Array], stride: int) -> jax.Array:
    return jnp.sort(jnp.concatenate([k.ravel()[::stride] for k in leaves]))


def _guesses(leaves: list[jax.Array], j: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """Two keys that the j-th smallest probably lies between, from a strided sample."""
    sample = _sample(leaves, -(-n // _SAMPLE))
    m = sample.size
    share = j / n
    slack = 2.0 * jnp.sqrt(share * (1 - share) * m) + 1.0  # Two standard deviations of the rank.
    low = jnp.clip(jnp.floor(share * m - slack), 0, m - 1).astype(jnp.int32)
    high = jnp.clip(jnp.ceil(share * m + slack), 0, m - 1).astype(jnp.int32)
    return sample[low], sample[high]


def find(leaves: list[jax.Array], j: jax.Array | int, dtype) -> Threshold:
    """Returns the threshold that drops exactly ``j`` of the keys in ``leaves``.

    Args:
      leaves: Integer keys of :func:`keys`, all of one dtype, any shapes.
      j: How many to drop, 0 to the number of keys; may be traced.
      dtype: The float type that the keys came from.

    Returns:
      The :class:`Threshold`.
    """
    n = sum(k.size for k in leaves)
    info = jnp.iinfo(leaves[0].dtype)
    j = jnp.asarray(j, jnp.int32)

    if n <= _SAMPLE:
        ordered = _sample(leaves, 1)
        key = ordered[jnp.minimum(j, n - 1)] + (j == n)
        return Threshold(key, jnp.where(j == n, 0, j - jnp.searchsorted(ordered, key)))

    def count(t):
        return sum(_xla_cpu.count_true(k < t) for k in leaves)

    class Search(NamedTuple):
        low: jax.Array  # count(low) <= j
        high: jax.Array  # count(high) >= j
        at_low: jax.Array
        at_high: jax.Array
        pivot: jax.Array
        turn: jax.Array

    def propose(s: Search) -> jax.Array:
        # Interpolate between the values; a distribution that defeats that is bisected by key, so
        # that the passes stay below ten and twice the number of bits.
        a, b = _value(s.low, dtype), _value(s.high, dtype)
        share = (j - s.at_low).astype(dtype) / (s.at_high - s.at_low).astype(dtype)
        inside = keys(a + (b - a) * share, absolute=False)
        middle = (s.low >> 1) + (s.high >> 1)
        bisect = ((s.turn > 10) & (s.turn % 2 == 0)) | ~jnp.isfinite(b - a)
        pivot = jnp.where(bisect, middle, inside)
        return jnp.clip(pivot, s.low + 1, s.high - 1)

    def narrow(s: Search) -> Search:
        c = count(s.pivot)
        below = c <= j
        return s._replace(
            low=jnp.where(below, s.pivot, s.low),
            at_low=jnp.where(below, c, s.at_low),
            high=jnp.where(below, s.high, s.pivot),
            at_high=jnp.where(below, s.at_high, c),
            turn=s.turn + 1,
        )

    def unfinished(s: Search) -> jax.Array:
        return (s.at_low < j) & (s.at_high > j) & (s.high - 1 > s.low)

    first, second = _guesses(leaves, j, n)
    full = jnp.asarray(info.max, first.dtype)
    s = Search(-full, full, jnp.int32(0), jnp.int32(n), first, jnp.int32(0))
    s = narrow(s)
    s = narrow(s._replace(pivot=jnp.clip(second, s.low + 1, s.high - 1), turn=jnp.int32(0)))
    s = lax.while_loop(unfinished, lambda s: narrow(s._replace(pivot=propose(s))), s)
    exact_high = s.at_high == j
    key = jnp.where(exact_high, s.high, s.low)
    return Threshold(key, jnp.where(exact_high, 0, j - s.at_low))


def drop_smallest(leaves: list[jax.Array], j: jax.Array | int, absolute: bool) -> list[jax.Array]:
    """Returns boolean masks that are False at exactly the ``j`` smallest of all ``leaves``.

    Equal numbers are dropped in the order of their index (first leaf first, C order within a
    leaf), as a stable ascending sort would.

    Args:
      leaves: Scores; any shapes.
      j: How many to drop; may be traced.
      absolute: Whether to compare magnitudes.
    """
    if not leaves:
        return []
    common = jnp.result_type(*leaves)
    if not jnp.issubdtype(common, jnp.floating):
        common = jnp.dtype(np.float32)
    ordered = [keys(x.astype(common), absolute) for x in leaves]
    key, ties = find(ordered, j, common)

    def without_ties():
        return [k >= key for k in ordered]

    def with_ties():
        kept, seen = [], jnp.int32(0)
        for k in ordered:
            equal = (k == key).ravel()
            rank = seen + jnp.cumsum(equal, dtype=jnp.int32)
            kept.append((k > key) | (equal & (rank > ties)).reshape(k.shape))
            seen = rank[-1] if k.size else seen
        return kept

    return lax.cond(ties == 0, without_ties, with_ties)


def on_host(leaves: list[Any]) -> bool:
    """Whether numpy's partition is the faster way: many concrete floats in a CPU's memory."""
    if any(isinstance(x, jax.core.Tracer) for x in leaves):
        return False
    single = all(not isinstance(x, jax.Array) or len(x.devices()) == 1 for x in leaves)
    floats = all(x.dtype in (np.float32, np.float64) for x in leaves)
    large = sum(x.size for x in leaves) >= _LARGE
    return jax.default_backend() == "cpu" and single and floats and large


def drop_smallest_on_host(leaves: list[Any], j: int, absolute: bool) -> list[jax.Array]:
    """:func:`drop_smallest` in numpy: the same masks, in a fraction of the time."""
    views = [np.asarray(x) for x in leaves]
    if j == sum(x.size for x in views):
        return [jnp.zeros(x.shape, bool) for x in views]
    magnitude = np.abs if absolute else np.asarray
    flat = [x.reshape(-1) for x in views]
    threshold, ties = _nth_smallest(flat, j, magnitude)
    masks = []
    for x in flat:
        mask = np.empty(x.shape, bool)
        for part in _blocks(x):
            np.logical_not(magnitude(x[part]) < threshold, out=mask[part])  # NaN is the largest.
        if ties:
            first = np.flatnonzero(magnitude(x) == threshold)[:ties]
            mask[first] = False
            ties -= len(first)
        masks.append(mask)
    return [jnp.asarray(m.reshape(x.shape)) for m, x in zip(masks, views, strict=True)]


def _blocks(x: np.ndarray) -> Iterator[slice]:
    """Parts that fit in a core's cache, where several passes cost little more than one."""
    return (slice(i, i + _BLOCK) for i in range(0, x.size, _BLOCK))


def _nth_smallest(flat: list[np.ndarray], j: int, magnitude: Callable) -> tuple[Any, int]:
    """The number that ``j`` others come before, and how many of those equal it.

    A sample brackets it; what lies in the bracket is partitioned, the rest only counted.
    """
    n = sum(x.size for x in flat)
    sample = np.sort(magnitude(np.concatenate([x[:: -(-n // (4 * _SAMPLE))] for x in flat])))
    share, m = j / n, sample.size
    slack = 4 * np.sqrt(share * (1 - share) * m) + 2
    low = sample[int(np.clip(share * m - slack, 0, m - 1))]
    high = sample[int(np.clip(share * m + slack, 0, m - 1))]
    below, near = 0, []
    for x in flat:
        for part in _blocks(x):
            y = magnitude(x[part])
            below += np.count_nonzero(y < low)
            near.append(y[(y >= low) & (y <= high)])
    middle, rank = np.concatenate(near), j - below
    if not 0 <= rank < middle.size:  # The sample was unlucky, or holds NaN.
        middle, rank = magnitude(np.concatenate(flat)), j
    middle.partition(rank)
    return middle[rank], int((middle[:rank] == middle[rank]).sum())
