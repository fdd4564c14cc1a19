"""CIFAR-10 and CIFAR-100 in their binary version (no pickle)."""

from pathlib import Path

import numpy as np

from experiments.data.base import Arrays, Dataset, split
from experiments.data.files import find

SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html (the binary version)"
RECORDS = {"train": 50_000, "test": 10_000}
PIXELS = 3 * 32 * 32
# Folder, files of the training and test sets, label bytes, classes, mean, std.
SETS = {
    "cifar10": (
        "cifar-10-batches-bin",
        {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]},
        1,
        10,
        ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ),
    "cifar100": (
        "cifar-100-binary",
        {"train": ["train.bin"], "test": ["test.bin"]},
        2,  # Superclass, then class.
        100,
        ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    ),
}


def load(
    name: str, data_dir: str | Path | None, *, seed: int = 0, valid_fraction: float = 0.1
) -> Dataset:
    """Returns ``cifar10`` or ``cifar100``; ``valid`` is a split of the 50,000.

    Args:
      name: A key of :data:`SETS`.
      data_dir: Holds ``cifar-10-batches-bin/`` or ``cifar-100-binary/``.
      seed: Of the split.
      valid_fraction: In [0, 1).
    """
    folder_name, files, label_bytes, classes, (mean, std) = SETS[name]
    folder = find(data_dir, [folder_name], name, SOURCE)
    parts = {}
    for part, names in files.items():
        arrays = [
            read(find(folder, [file], name, SOURCE), RECORDS[part] // len(names), label_bytes)
            for file in names
        ]
        parts[part] = {k: np.concatenate([a[k] for a in arrays]) for k in arrays[0]}
        largest = parts[part]["label"].max()
        if largest >= classes:
            raise ValueError(f"{folder} holds the label {largest}; expected 0 to {classes - 1}")
    train, valid = split(parts["train"], valid_fraction, seed, stratify=True)
    return Dataset(name, train, valid, parts["test"], (32, 32, 3), classes, mean=mean, std=std)


def read(path: Path, records: int, label_bytes: int) -> Arrays:
    """Returns the images (n, 32, 32, 3) and labels of one binary file.

    Raises:
      ValueError: The file's size is not that of ``records`` records.
    """
    size = label_bytes + PIXELS
    raw = np.fromfile(path, np.uint8)
    if len(raw) != records * size:
        raise ValueError(
            f"{path} holds {len(raw)} bytes, expected {records * size} "
            f"({records} records of {size}); download it again from {SOURCE}"
        )
    table = raw.reshape(records, size)
    image = table[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    label = table[:, label_bytes - 1].astype(np.int32)
    return {"image": np.ascontiguousarray(image), "label": label}
