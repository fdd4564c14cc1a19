"""What a data set is, and its deterministic splits."""

import math
from dataclasses import dataclass
from typing import Any

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


def from_arrays(
    name: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    valid: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    valid_fraction: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Returns the data set of arrays that you have.

    Args:
      name: For messages.
      train: Inputs and labels: uint8 images (n, height, width, channels) or (n, height, width), or
        numbers (n, ...), which are taken as float32 (uint8 as 0 to 1); and integers (n,) from 0.
      test: The same, to test on.
      valid: The same, to validate on; ``None`` splits ``valid_fraction`` off ``train``.
      valid_fraction: In [0, 1).
      seed: Of the split.

    Returns:
      A :class:`Dataset`. Pixels are divided by 255; their mean and standard deviation per channel
      are those of ``train``.

    Raises:
      ValueError: Inputs and labels of another length or shape, inputs that are not finite, or
        labels that are no classes.

    Example:
      >>> x, y = np.zeros((20, 5)), np.arange(20) % 2
      >>> from_arrays("mine", (x, y), (x, y)).num_classes
      2
    """
    given = {"train": train, "test": test} | ({} if valid is None else {"valid": valid})
    parts = {part: _arrays(f"{name}: {part}", *pair) for part, pair in given.items()}
    shape = parts["train"]["x"].shape[1:]
    for part, arrays in parts.items():
        if arrays["x"].shape[1:] != shape:
            raise ValueError(
                f"{name}: {part} has examples of shape {arrays['x'].shape[1:]}, not {shape}"
            )
    if valid is None:
        parts["train"], parts["valid"] = split(parts["train"], valid_fraction, seed, stratify=True)
    classes = 1 + max(int(arrays["label"].max(initial=0)) for arrays in parts.values())
    look: dict[str, Any] = {}
    if parts["train"]["x"].dtype == np.uint8:
        pixels = parts["train"]["x"] / 255.0
        axes = tuple(range(pixels.ndim - 1))
        std = pixels.std(axes)
        look = {"mean": tuple(pixels.mean(axes)), "std": tuple(np.where(std > 0, std, 1.0))}
        parts = {k: {"image": a["x"], "label": a["label"]} for k, a in parts.items()}
    return Dataset(name, parts["train"], parts["valid"], parts["test"], shape, classes, **look)


def _arrays(where: str, x: np.ndarray, label: np.ndarray) -> Arrays:
    x, label = np.asarray(x), np.asarray(label)
    if not len(x) or label.shape != (len(x),):
        raise ValueError(
            f"{where} must have one label per example, got {x.shape} and {label.shape}"
        )
    if not np.issubdtype(label.dtype, np.integer):
        raise ValueError(f"{where} must have integer labels from 0, got {label.dtype}")
    for extreme in (label.min(), label.max()):
        if not 0 <= extreme < 2**31 - 1:  # They are kept in int32.
            raise ValueError(
                f"{where} must have integer labels from 0 below 2^31 - 1, got {extreme}"
            )
    if x.dtype == np.uint8 and x.ndim in (3, 4):
        x = x[..., None] if x.ndim == 3 else x
    elif x.dtype == np.uint8:
        x = x / np.float32(255)
    else:
        x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise ValueError(f"{where} must have finite inputs, got NaN or infinity")
    return {"x": x, "label": label.astype(np.int32)}
