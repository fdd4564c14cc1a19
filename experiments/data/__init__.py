"""Data sets by name, read from the files users have, as :class:`experiments.data.Dataset`."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.data import cifar, digits, idx, libsvm, text, tokens
from experiments.data.base import Dataset, from_arrays
from experiments.data.batches import (
    epoch_batches,
    eval_batches,
    eval_windows,
    evaluation_batches,
    size,
    steps_per_epoch,
    streamed,
    streamed_windows,
    train_batches,
    window_batches,
)
from experiments.data.prepare import prepare
from optim import _checks

__all__ = [
    "DATASETS",
    "FILES",
    "Dataset",
    "epoch_batches",
    "eval_batches",
    "eval_windows",
    "evaluation_batches",
    "from_arrays",
    "load",
    "prepare",
    "size",
    "steps_per_epoch",
    "streamed",
    "streamed_windows",
    "train_batches",
    "window_batches",
]

#: How each data set is loaded, by name, as ``load(data_dir, **options)``. Add your own here.
DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": lambda data_dir, **options: digits.load(**options),
    **{name: functools.partial(idx.load, name) for name in idx.SETS},
    **{name: functools.partial(cifar.load, name) for name in cifar.SETS},
}
# Those that read one file: load(file, data_dir, **options), for the names "libsvm:FILE", ...
FILES: dict[str, Callable[..., Dataset]] = {
    "libsvm": libsvm.load,
    "text": text.load,
    "tokens": tokens.load,
}


def load(name: str, data_dir: str | Path | None = None, **options: Any) -> Dataset:
    """Returns the data set of that name.

    Args:
      name: ``digits`` (comes with scikit-learn), ``mnist``, ``fashion_mnist``, ``cifar10``,
        ``cifar100``, another key of :data:`DATASETS`, ``libsvm:FILE``, ``text:PATH`` or
        ``tokens:FOLDER``.
      data_dir: Folder with one folder per data set: ``mnist/``, ``fashion-mnist/``,
        ``cifar-10-batches-bin/``, ``cifar-100-binary/``, ``libsvm/``, ``text/``,
        ``tokens/``.
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
        if name in DATASETS:
            return DATASETS[name](data_dir, **options)
        if kind in FILES and path:
            return FILES[kind](path, data_dir, **options)
    except TypeError as error:
        if "unexpected keyword" in str(error):
            raise ValueError(f"data set {name!r}: {error}") from error
        raise
    known = [*DATASETS, *(f"{kind}:FILE" for kind in FILES)]
    raise ValueError(f"unknown data set {name!r}; {_checks.nearest(name, known)}")
