"""Shapes of models, for measurements that allocate nothing."""

from typing import Any

import jax
import numpy as np

__all__ = ["elements", "transformer"]


def transformer(width: int, layers: int, vocabulary: int) -> dict[str, Any]:
    """Returns the shapes of a transformer, about ``12 width**2`` parameters per layer.

    Example:
      >>> elements(transformer(1024, 2, 256)) / 1e6
      25.440256
    """
    matrices = {"q": (1, 1), "k": (1, 1), "v": (1, 1), "o": (1, 1), "up": (1, 4), "down": (4, 1)}
    layer = {k: (a * width, b * width) for k, (a, b) in matrices.items()}
    layer |= {"norm_1": (width,), "norm_2": (width,), "bias": (4 * width,)}
    shapes = {"embedding": (vocabulary, width), **{f"layer_{i}": layer for i in range(layers)}}
    return jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s, np.float32),
        shapes,
        is_leaf=lambda s: isinstance(s, tuple),
    )


def elements(tree: Any) -> int:
    """Returns the number of elements of all leaves."""
    return sum(x.size for x in jax.tree.leaves(tree))
