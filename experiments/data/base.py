"""What a data set is, and its deterministic splits."""

import math
from dataclasses import dataclass

import numpy as np

from optim import _checks

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Dataset:
    """Arrays of a data set with what a model and ``prepare`` need to know.

    ``train``, ``valid`` and ``test`` hold ``{"image": uint8 (n, h, w, c), "label"}``,
    ``{"x": float32 (n, d), "label"}``, or ``{"tokens": (n,)}`` for text.

    Attributes:
      input_shape: Shape of one example as the model sees it; ``()`` for text, whose length is
        the caller's.
      num_classes: Number of labels; the vocabulary for text; 1 for regression.
      scale: What a pixel is divided by before ``mean`` and ``std`` apply.
      mean: Per channel, of pixels in [0, 1].
      std: Per channel, of pixels in [0, 1].
      classes: What label ``i`` stands for: original label, or character of token ``i``.
    """

    name: str
    train: Arrays
    valid: Arrays
    test: Arrays
    input_shape: tuple[int, ...]
    num_classes: int
    scale: float = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    classes: tuple[str, ...] = ()


def take(arrays: Arrays, index: np.ndarray) -> Arrays:
    """Returns the rows ``index`` of every array."""
    return {name: value[index] for name, value in arrays.items()}


def split(arrays: Arrays, fraction: float, seed: int, *, stratify: bool) -> tuple[Arrays, Arrays]:
    """Splits off ``ceil(fraction * n)`` random rows; order is kept within both parts.

    Args:
      arrays: Arrays of equal length.
      fraction: Share of the second part, in [0, 1).
      seed: The split depends on it and on the labels alone.
      stratify: Whether each label keeps its share, to within one row.

    Returns:
      ``(rest, part)``.
    """
    _checks.number("the split's fraction", fraction, 0, 1, open_high=True)
    n = len(next(iter(arrays.values())))
    order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(n)
    if stratify:  # The i-th of a label's m rows gets rank (i + 1/2) / m: a prefix is balanced.
        label = arrays["label"][order]
        rank = np.empty(n)
        for value in np.unique(label):
            where = np.flatnonzero(label == value)
            rank[where] = (np.arange(len(where)) + 0.5) / len(where)
        order = order[np.argsort(rank, kind="stable")]
    k = math.ceil(round(float(fraction) * n, 6))
    return take(arrays, np.sort(order[k:])), take(arrays, np.sort(order[:k]))
