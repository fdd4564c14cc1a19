"""How masks change during training: a cut by magnitude, an exchange of few weights."""

from typing import Any

import jax
import jax.numpy as jnp

from bilevel.pruning import masks as masks_lib
from bilevel.pruning._select import drop_smallest
from optim import _checks

__all__ = ["DROPS", "GROWTHS", "exchange", "largest", "magnitude_masks", "uniforms"]

GROWTHS = ("score", "random", "unfired")
DROPS = ("magnitude", "signed")


def magnitude_masks(masks: Any, params: Any, drop: Any, scope: str) -> Any:
    """The largest weights among those that ``masks`` keep; a weight of 0 may be one of them."""

    def rank(mask, x):
        return None if mask is None else jnp.where(mask, jnp.abs(x), -1)

    ranks = masks_lib.map_leaves(rank, masks, params)
    new = masks_lib.from_counts(ranks, drop, scope=scope, absolute=False)
    # Where fewer are dropped than are pruned already, none comes back.
    return jax.tree.map(jnp.logical_and, masks, new)


def largest(scores: jax.Array, k: jax.Array) -> jax.Array:
    """Returns a mask of the ``k`` largest scores."""
    (mask,) = drop_smallest([scores], scores.size - k, absolute=False)
    return mask


def _without_smallest(m: jax.Array, w: jax.Array, k: jax.Array) -> jax.Array:
    """``m`` without the ``k`` smallest of the magnitudes it keeps; a weight of 0 may stay."""
    (left,) = drop_smallest([jnp.where(m, jnp.abs(w), jnp.inf)], k, absolute=False)
    return left & m


def _drop(m: jax.Array, w: jax.Array, k: jax.Array, drop: str) -> jax.Array:
    if drop == "magnitude":
        return _without_smallest(m, w, k)
    positive, negative = m & (w >= 0), m & (w < 0)
    half = jnp.clip((k + 1) // 2, k - negative.sum(), positive.sum())
    return _without_smallest(positive, w, half) | _without_smallest(negative, w, k - half)


def _drop_signed_of_the_authors(m: jax.Array, w: jax.Array, k: jax.Array) -> jax.Array:
    """``m`` with what their program keeps: large positive ones, and the most negative few."""
    half = (k + 1) // 2
    positive, negative = m & (w > 0), m & (w < 0)

    def smallest(alive, values):
        place = jnp.clip(half, 1, jnp.maximum(alive.sum(), 1)) - 1
        return jnp.sort(jnp.where(alive, values, jnp.inf).ravel())[place]

    most_negative = negative & (w < smallest(negative, w))
    return (positive & (w > smallest(positive, w))) | most_negative


def _grow(
    left: jax.Array,
    k: jax.Array,
    score: Any,
    uniform: Any,
    fired: Any,
    growth: str,
    exact: bool,
) -> jax.Array:
    if growth == "score":
        return left | largest(jnp.where(left, -1, jnp.abs(score)), k)
    first = jnp.zeros_like(left) if growth == "random" else ~fired & ~left
    if exact:
        return left | largest(jnp.where(left, -1, uniform + first), k)
    # In the authors' code numbers are random: each of the zeros enters with one probability.
    few = first.sum() < k
    left = left | (first & (few | largest(jnp.where(first, uniform, -1), k)))
    share = (k - first.sum()) / jnp.maximum((~left).sum(), 1)
    return left | (few & (uniform < share))


def exchange(
    masks: Any,
    params: Any,
    scores: Any,
    fraction: Any,
    *,
    growth: str = "score",
    drop: str = "magnitude",
    key: jax.Array | None = None,
    uniform: Any = None,
    fired: Any = None,
    exact: bool = True,
) -> Any:
    r"""Returns masks in which a share of each leaf has been exchanged.

    .. math::
      k_l = \lceil p \textstyle\sum m_l \rceil \text{ of the smallest } |\theta_l| \text{ leave, }
      k_l \text{ of the largest } |s_l| \text{ outside of what is left enter}

    What has just left may return. Counts are those of the mask: a weight that is kept and happens
    to be 0 is one of those that leave first.

    Args:
      masks: Masks in force, ``None`` where a leaf is not pruned.
      params: Parameters.
      scores: What those that enter are chosen by, of any sign: gradients of pruned weights too
        (RigL), a running mean of them (sparse momentum). Not read by random growth.
      fraction: Share :math:`p` in [0, 1] that is exchanged; may be traced.
      growth: ``"score"``; ``"random"``, uniformly among the zeros (SET); ``"unfired"``, uniformly
        among those that were never active, then among the others (ITOP).
      drop: ``"magnitude"``, or ``"signed"``: half of them the smallest positive and half the
        largest negative weights, as SET's paper has it.
      key: Of random growth.
      uniform: In place of ``key``: a tree of numbers in [0, 1), the largest of which enter.
      fired: Masks of what was ever active, for ``"unfired"``.
      exact: Whether as many enter as have left. False: each zero enters with the probability
        that makes the expected number right, as in ITOP's code; of those never active the first
        in the order of ``uniform`` enter, its largest. And what is as small as the largest that
        leaves by magnitude leaves with it; by sign, of the negative weights only the
        :math:`\lceil k/2 \rceil - 1` most negative stay, whatever the fraction.

    Returns:
      Boolean masks; with ``exact`` each leaf keeps its count.

    Raises:
      ValueError: On an unknown growth or drop, a fraction outside [0, 1], or what a growth needs
        and was not given.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> mask, w = jnp.array([True, True, False, False]), jnp.array([3.0, 0.5, 0.0, 0.0])
      >>> g = jnp.array([0.0, 0.1, 0.2, -9.0])
      >>> bilevel.pruning.exchange(mask, w, g, 0.5)
      Array([ True, False, False,  True], dtype=bool)

    References:
      Mocanu et al., Scalable Training of Artificial Neural Networks with Adaptive Sparse
      Connectivity, Nature Communications 2018; Evci et al., Rigging the Lottery, ICML 2020; Liu et
      al., Do We Actually Need Dense Over-Parameterization?, ICML 2021.
    """
    _checks.choice("growth", growth, GROWTHS)
    _checks.choice("drop", drop, DROPS)
    _checks.number("fraction", fraction, 0, 1)
    if growth == "unfired" and fired is None:
        raise ValueError("growth='unfired' needs fired: masks of what was ever active")
    if growth != "score" and uniform is None:
        if key is None:
            raise ValueError(f"growth={growth!r} needs a key")
        uniform = uniforms(key, masks)

    def one(m: Any, w: Any, s: Any, u: Any, f: Any) -> Any:
        if m is None:
            return None
        k = jnp.ceil(fraction * m.sum()).astype(jnp.int32)
        if not exact and drop == "signed":
            left = _drop_signed_of_the_authors(m, w, k)
        else:
            left = _drop(m, w, k, drop)
        if not exact:
            if drop == "magnitude":
                most = jnp.max(jnp.where(m & ~left, jnp.abs(w), -1))
                left &= jnp.abs(w) > most
            k = m.sum(dtype=jnp.int32) - left.sum(dtype=jnp.int32)
        return _grow(left, k, s, u, f, growth, exact)

    nothing = masks_lib.map_leaves(lambda m: None, masks)
    given = [nothing if tree is None else tree for tree in (scores, uniform, fired)]
    return masks_lib.map_leaves(one, masks, params, *given)


def uniforms(key: jax.Array, masks: Any) -> Any:
    """Returns uniform numbers for each entry of the masks."""
    leaves, treedef = jax.tree.flatten(masks)
    keys = jax.random.split(key, len(leaves))
    draws = [jax.random.uniform(k, jnp.shape(m)) for k, m in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, draws)
