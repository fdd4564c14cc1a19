"""How masks change during training: a cut by magnitude, an exchange of few weights."""

from typing import Any

import jax
import jax.numpy as jnp

from bilevel.pruning import masks as masks_lib
from bilevel.pruning._select import drop_smallest

__all__ = ["exchange", "magnitude_masks"]


def magnitude_masks(masks: Any, params: Any, drop: Any, scope: str) -> Any:
    """The largest weights among those that ``masks`` keep; a weight of 0 may be one of them."""

    def rank(mask, x):
        return None if mask is None else jnp.where(mask, jnp.abs(x), -1)

    ranks = masks_lib.map_leaves(rank, masks, params)
    new = masks_lib.from_counts(ranks, drop, scope=scope, absolute=False)
    # Where fewer are dropped than are pruned already, none comes back.
    return jax.tree.map(jnp.logical_and, masks, new)


def exchange(masks: Any, params: Any, grads: Any, fraction: Any) -> Any:
    """In each leaf a share leaves by magnitude, and as many enter by the size of the gradient."""

    def one(m, w, g):
        if m is None:
            return None
        k = jnp.ceil(fraction * m.sum()).astype(jnp.int32)
        (left,) = drop_smallest([jnp.where(m, jnp.abs(w), jnp.inf)], k, absolute=False)
        left &= m
        (grown,) = drop_smallest([jnp.where(left, -1, jnp.abs(g))], m.size - k, absolute=False)
        return left | grown

    return masks_lib.map_leaves(one, masks, params, grads)
