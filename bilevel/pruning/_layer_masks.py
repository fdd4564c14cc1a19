"""Masks of one matrix from its scores: by row, by groups of a row, by shares of a row.

A matrix is (outputs, inputs), as in the papers; a kernel of Flax is its transpose.
"""

import jax
import jax.numpy as jnp

from bilevel.pruning import masks as masks_lib
from optim import _checks

__all__ = ["pattern", "row_masks", "share_masks"]


def row_masks(
    scores: jax.Array, density: float | None = None, structure: str | None = None
) -> jax.Array:
    """Returns masks of the largest scores of each row, or of each M consecutive ones of a row.

    Args:
      scores: Of shape (outputs, inputs).
      density: Share that each row keeps, in (0, 1].
      structure: ``"N:M"``: N are kept of each M. (The authors' programs count the zeros: their
        1:4 is 3:4 here.)

    Raises:
      ValueError: Unless exactly one of density and structure is given and fits.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.calibrated.row_masks(jnp.array([[1.0, 4.0, 2.0, 3.0]]), structure="1:2")
      Array([[False,  True, False,  True]], dtype=bool)
    """
    m, drop = pattern(scores.shape[-1], density, structure)
    groups = scores.reshape(*scores.shape[:-1], -1, m)
    rank = jnp.argsort(jnp.argsort(groups, axis=-1, stable=True), axis=-1, stable=True)
    return (rank >= drop).reshape(scores.shape)


def share_masks(scores: jax.Array, density: float, *, tolerance: float = 1e-3) -> jax.Array:
    r"""Returns masks in which each row drops one share of its scores: Wanda's variant.

    .. math::
      \text{row } i \text{ drops its smallest scores, as many as add up to at most }
      \alpha \textstyle\sum_j s_{ij}

    with the share :math:`\alpha` found by bisection on [0, 0.8] from 0.4, until the density of all
    rows together is met to ``tolerance`` or the interval is narrower than 0.001, as the authors do:
    the density is not exact.

    Args:
      scores: Of shape (outputs, inputs), >= 0.
      density: Share that is kept, in (0, 1].
      tolerance: >= 0.

    Raises:
      ValueError: On an argument outside its range.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> scores = jnp.array([[1.0, 2.0, 3.0, 90.0], [5.0, 6.0, 7.0, 8.0]])
      >>> bilevel.calibrated.share_masks(scores, 0.5).sum(1)
      Array([1, 3], dtype=int32)

    References:
      Sun et al., A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024.
    """
    _checks.number("density", density, 0, 1, open_low=True)
    _checks.number("tolerance", tolerance, 0)
    ascending = jnp.sort(scores, axis=-1)
    running, total = jnp.cumsum(ascending, axis=-1), scores.sum(-1, keepdims=True)

    def dropped(alpha: float) -> jax.Array:
        count = (running <= total * alpha).sum(-1, keepdims=True)
        most = jnp.take_along_axis(ascending, jnp.maximum(count - 1, 0), axis=-1)
        return (scores <= most) & (count > 0)

    alpha, low, high = 0.4, 0.0, 0.8
    drop = dropped(alpha)
    while abs(float(drop.mean()) - (1 - density)) > tolerance and high - low >= 0.001:
        if float(drop.mean()) > 1 - density:
            alpha, high = (alpha + low) / 2, alpha
        else:
            alpha, low = (alpha + high) / 2, alpha
        drop = dropped(alpha)
    return ~drop


def pattern(inputs: int, density: float | None, structure: str | None) -> tuple[int, int]:
    """Returns the size of a group and how many of it are dropped."""
    if (density is None) == (structure is None):
        raise ValueError(f"one of density and structure is needed, got {density} and {structure!r}")
    if structure is None:
        _checks.number("density", density, 0, 1, open_low=True)
        return inputs, int((1 - float(density or 1)) * inputs)
    pair = masks_lib.Cut(structure=structure).n_of_m
    if pair is None:
        raise ValueError(f"structure must be 'N:M' (such as '2:4'), got {structure!r}")
    if inputs % pair[1]:
        raise ValueError(f"structure {structure!r} needs a multiple of {pair[1]} inputs: {inputs}")
    return pair[1], pair[1] - pair[0]
