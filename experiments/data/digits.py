"""The 1797 handwritten 8x8 digits that scikit-learn ships: no download."""

from typing import Any

import numpy as np

from experiments.data.base import Dataset, split


def load(*, seed: int = 0, test_fraction: float = 0.2, valid_fraction: float = 0.1) -> Dataset:
    """Returns the digits, split by label: 360 for test, then a tenth of the rest to validate.

    Args:
      seed: Of both splits.
      test_fraction: In [0, 1).
      valid_fraction: Share of what remains, in [0, 1).
    """
    try:
        from sklearn.datasets import load_digits  # A slow import, for this data set alone.
    except ImportError as error:
        raise ModuleNotFoundError("digits needs scikit-learn: pip install scikit-learn") from error
    bunch: Any = load_digits()
    images = bunch.images[..., None].astype(np.uint8)
    arrays = {"image": images, "label": bunch.target.astype(np.int32)}
    train, test = split(arrays, test_fraction, seed, stratify=True)
    train, valid = split(train, valid_fraction, seed + 1, stratify=True)
    return Dataset("digits", train, valid, test, (8, 8, 1), 10, scale=16.0)
