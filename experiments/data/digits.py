"""The 1797 handwritten 8x8 digits that scikit-learn ships: no download."""

import importlib.util
from pathlib import Path

import numpy as np

from experiments.data.base import Dataset, split


def load(*, seed: int = 0, test_fraction: float = 0.2, valid_fraction: float = 0.1) -> Dataset:
    """Returns the digits, split by label: 360 for test, then a tenth of the rest to validate.

    Args:
      seed: Of both splits.
      test_fraction: In [0, 1).
      valid_fraction: Share of what remains, in [0, 1).
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("digits needs scikit-learn: pip install scikit-learn")
    # What load_digits reads; to import scikit-learn takes longer than to train on them.
    table = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    images, labels = table[:, :-1].reshape(-1, 8, 8, 1), table[:, -1]
    arrays = {"image": images.astype(np.uint8), "label": labels.astype(np.int32)}
    train, test = split(arrays, test_fraction, seed, stratify=True)
    train, valid = split(train, valid_fraction, seed + 1, stratify=True)
    return Dataset("digits", train, valid, test, (8, 8, 1), 10, scale=16.0)
