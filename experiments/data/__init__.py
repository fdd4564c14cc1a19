"""Data sets by name, read from the files users have; see :class:`Dataset`."""

from pathlib import Path
from typing import Any

from experiments.data import cifar, digits, idx, libsvm, text
from experiments.data.base import Dataset
from experiments.data.batches import (
    epoch_batches,
    eval_batches,
    eval_windows,
    streamed,
    window_batches,
)
from experiments.data.feeds import evaluation_batches, size, steps_per_epoch, train_batches
from experiments.data.prepare import prepare
from optim import _checks

__all__ = [
    "Dataset",
    "epoch_batches",
    "eval_batches",
    "eval_windows",
    "evaluation_batches",
    "load",
    "prepare",
    "size",
    "steps_per_epoch",
    "streamed",
    "train_batches",
    "window_batches",
]

NAMES = ("digits", *idx.SETS, *cifar.SETS, "libsvm:FILE", "text:PATH")


def load(name: str, data_dir: str | Path | None = None, **options: Any) -> Dataset:
    """Returns the data set of that name.

    Args:
      name: ``digits`` (comes with scikit-learn), ``mnist``, ``fashion_mnist``, ``cifar10``,
        ``cifar100``, ``libsvm:FILE`` or ``text:PATH``.
      data_dir: Folder with one folder a data set: ``mnist/``, ``fashion-mnist/``,
        ``cifar-10-batches-bin/``, ``cifar-100-binary/``, ``libsvm/``, ``text/``.
      **options: Arguments of the loader, such as ``valid_fraction``, ``seed`` or ``tokens``.

    Raises:
      ValueError: Unknown name (the nearest are listed) or option, or a corrupt file.
      FileNotFoundError: A missing file or folder; the message says how to get it.

    Example:
      >>> load("digits").test["image"].shape
      (360, 8, 8, 1)
    """
    kind, _, path = name.partition(":")
    try:
        if name == "digits":
            return digits.load(**options)
        if name in idx.SETS:
            return idx.load(name, data_dir, **options)
        if name in cifar.SETS:
            return cifar.load(name, data_dir, **options)
        if kind == "libsvm" and path:
            return libsvm.load(path, data_dir, **options)
        if kind == "text" and path:
            return text.load(path, data_dir, **options)
    except TypeError as error:
        if "unexpected keyword" in str(error):
            raise ValueError(f"data set {name!r}: {error}") from error
        raise
    raise ValueError(f"unknown data set {name!r}; {_checks.nearest(name, NAMES)}")
