"""The order of training and evaluation for any data set: examples, or windows of a text."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.data.base import Dataset
from experiments.data.batches import (
    Batches,
    epoch_batches,
    eval_batches,
    eval_windows,
    window_batches,
)


def size(dataset: Dataset, split: str) -> int:
    """Returns the number of examples, or of tokens, in ``train``, ``valid`` or ``test``."""
    return len(next(iter(getattr(dataset, split).values())))


def steps_per_epoch(dataset: Dataset, batch_size: int, length: int | None = None) -> int:
    """Returns how many batches ``train`` has; of a text, how many see as many tokens."""
    tokens = 1 if length is None else length
    return size(dataset, "train") // (batch_size * tokens)


def train_batches(
    dataset: Dataset, batch_size: int, seed: int, *, length: int | None = None, **processes: Any
) -> Batches:
    """Returns ``batches(start)`` for the loop: indices into ``dataset.train``.

    Args:
      dataset: Its kind decides between ``epoch_batches`` and ``window_batches``.
      batch_size: Examples or windows of the global batch.
      seed: Non-negative.
      length: Tokens that the model sees, for text.
      **processes: ``process_index`` and ``process_count``.
    """
    n = size(dataset, "train")
    if "tokens" in dataset.train:
        return window_batches(n, length or 0, batch_size, seed, **processes)
    return epoch_batches(n, batch_size, seed, **processes)


def evaluation_batches(
    dataset: Dataset, split: str, batch_size: int, *, length: int | None = None, **processes: Any
) -> Iterator[dict[str, np.ndarray]]:
    """Yields ``{"index", "weight"}`` over a split: each example, or each token of a text, once.

    ``weight`` has the shape of the labels: ``(b,)``, or ``(b, length)`` for text.

    Args:
      dataset: Its kind decides between ``eval_batches`` and ``eval_windows``.
      split: ``train``, ``valid`` or ``test``.
      batch_size: Examples or windows of the global batch.
      length: Tokens that the model sees, for text.
      **processes: ``process_index`` and ``process_count``.
    """
    n = size(dataset, split)
    if "tokens" in dataset.train:
        return eval_windows(n, length or 0, batch_size, **processes)
    return eval_batches(n, batch_size, **processes)
