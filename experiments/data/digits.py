"""The 1797 handwritten 8x8 digits that scikit-learn ships: no download."""

from importlib.util import find_spec
from pathlib import Path
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
    images, labels = _read()
    arrays = {"image": images, "label": labels}
    train, test = split(arrays, test_fraction, seed, stratify=True)
    train, valid = split(train, valid_fraction, seed + 1, stratify=True)
    return Dataset("digits", train, valid, test, (8, 8, 1), 10, scale=16.0)


def _read() -> tuple[np.ndarray, np.ndarray]:
    # Reading scikit-learn's file directly saves the 0.7 s that importing it takes at each start.
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("digits needs scikit-learn: pip install scikit-learn")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if path.exists():
        table = np.loadtxt(path, delimiter=",", dtype=np.float32)
        pixels, labels = table[:, :-1], table[:, -1]
    else:
        from sklearn.datasets import load_digits

        bunch: Any = load_digits()
        pixels, labels = bunch.data, bunch.target
    return pixels.reshape(-1, 8, 8, 1).astype(np.uint8), labels.astype(np.int32)
