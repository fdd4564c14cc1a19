"""What a layer was fed: the statistics that calibrated pruning needs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Stats", "of_sums", "stats_of"]


class Stats(NamedTuple):
    r"""What a layer was fed: sums over S examples of T tokens each.

    Attributes:
      norm: :math:`\sqrt{\sum x^2 / S}` of each input, of shape (inputs,).
      mean: Mean over examples and tokens, of shape (inputs,).
      var: Variance over examples and tokens, of shape (inputs,).
      tokens: T, which is 1 without a sequence.
      gram: :math:`\tfrac{2}{S} \sum x x^\top`, of shape (inputs, inputs), or None.
    """

    norm: jax.Array
    mean: jax.Array
    var: jax.Array
    tokens: jax.Array
    gram: jax.Array | None = None


def stats_of(x: jax.Array, *, gram: bool = True) -> Stats:
    """Returns the statistics of inputs given by hand.

    Args:
      x: Inputs of a layer, of shape (examples, ..., inputs).
      gram: Whether the Gram matrix is made, for SparseGPT.

    Raises:
      ValueError: On fewer than two axes.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.calibrated.stats_of(jnp.array([[3.0, 1.0], [4.0, 1.0]])).mean
      Array([3.5, 1. ], dtype=float32)
    """
    if jnp.ndim(x) < 2:
        raise ValueError(f"x must be (examples, ..., inputs), got shape {jnp.shape(x)}")
    flat = jnp.asarray(x).reshape(-1, x.shape[-1])
    gram_sum = flat.T @ flat if gram else None
    sums = (flat.sum(0), (flat**2).sum(0), gram_sum)
    return of_sums(sums, len(x), len(flat))


def of_sums(sums: Any, examples: int, count: int) -> Stats:
    """Returns the statistics of the sums of x, of its squares and of its outer products."""
    first, second, gram = sums
    mean = first / count
    var = jnp.maximum(second / count - mean**2, 0)
    norm = jnp.sqrt(second / examples)
    gram = None if gram is None else 2 / examples * gram
    return Stats(norm, mean, var, jnp.asarray(count / examples), gram)
