"""Data sets by name, read from the files users have; see :class:`Dataset`."""

from pathlib import Path
from typing import Any

from experiments.data import digits
from experiments.data.base import Dataset, nearest
from experiments.data.batches import epoch_batches, eval_batches
from experiments.data.prepare import prepare

__all__ = ["Dataset", "epoch_batches", "eval_batches", "load", "prepare"]

NAMES = ("digits",)


def load(name: str, data_dir: str | Path | None = None, **options: Any) -> Dataset:
    """Returns the data set of that name.

    Args:
      name: ``digits``.
      data_dir: Folder that holds one folder a data set; ``digits`` needs none.
      **options: Arguments of the loader, such as ``seed`` and ``valid_fraction``.

    Raises:
      ValueError: Unknown name (the nearest are listed), or a corrupt file.
      FileNotFoundError: A missing file or folder; the message says how to get it.

    Example:
      >>> load("digits").test["image"].shape
      (360, 8, 8, 1)
    """
    if name == "digits":
        return digits.load(**options)
    raise ValueError(f"unknown data set {name!r}; the nearest are {nearest(name, NAMES)}")
