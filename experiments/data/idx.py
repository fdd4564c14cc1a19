"""MNIST and Fashion-MNIST in their IDX files, gzipped or not."""

import math
from pathlib import Path

import numpy as np

from experiments.data.base import Dataset, split
from experiments.data.files import find, read_bytes

SETS = {
    "mnist": (
        ("mnist", "MNIST/raw"),
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (0.1307, 0.3081),
    ),
    "fashion_mnist": (
        ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw"),
        "https://github.com/zalandoresearch/fashion-mnist",
        (0.2860, 0.3530),
    ),
}


def load(
    name: str, data_dir: str | Path | None, *, seed: int = 0, valid_fraction: float = 0.1
) -> Dataset:
    """Returns ``mnist`` or ``fashion_mnist``; ``valid`` is a split of the 60,000.

    Args:
      name: A key of :data:`SETS`.
      data_dir: Holds ``mnist/`` or ``fashion-mnist/`` with the four files.
      seed: Of the split.
      valid_fraction: In [0, 1).
    """
    folders, source, (mean, std) = SETS[name]
    folder = find(data_dir, folders, name, source)
    parts = []
    for prefix in ("train", "t10k"):
        image_path = find(folder, _spellings(f"{prefix}-images-idx3-ubyte"), name, source)
        label_path = find(folder, _spellings(f"{prefix}-labels-idx1-ubyte"), name, source)
        images, labels = read_idx(image_path, 3), read_idx(label_path, 1)
        if len(images) != len(labels):
            raise ValueError(f"{label_path} has {len(labels)} labels for {len(images)} images")
        if labels.max() > 9:
            raise ValueError(f"{label_path} holds the label {labels.max()}; expected 0 to 9")
        if parts and images.shape[1:] != parts[0]["image"].shape[1:3]:
            raise ValueError(
                f"{image_path} holds images of {images.shape[1:]} pixels, the training images have "
                f"{parts[0]['image'].shape[1:3]}"
            )
        parts.append({"image": images[..., None], "label": labels.astype(np.int32)})
    train, valid = split(parts[0], valid_fraction, seed, stratify=True)
    shape = (*train["image"].shape[1:3], 1)
    return Dataset(name, train, valid, parts[1], shape, 10, mean=(mean,), std=(std,))


def _spellings(name: str) -> list[str]:
    dotted = name.replace("-idx", ".idx")
    return [f"{name}.gz", name, f"{dotted}.gz", dotted]


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Returns the uint8 array of ``ndim`` axes that an IDX file holds.

    Raises:
      ValueError: Another magic number, or another size than the header says.
    """
    raw = read_bytes(path)
    magic = bytes((0, 0, 8, ndim))
    header = 4 + 4 * ndim
    if raw[:4] == magic and len(raw) < header:
        raise ValueError(
            f"{path} ends after {len(raw)} bytes, its header alone has {header}; download it again"
        )
    if raw[:4] != magic:
        raise ValueError(
            f"{path} is no IDX file of {ndim} axes of bytes: it starts with "
            f"{raw[:4].hex() or 'nothing'}, expected {magic.hex()}"
        )
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", ndim, 4))
    body = len(raw) - header
    if body != math.prod(shape) or not body:
        raise ValueError(
            f"{path} holds {body} bytes of data, expected {math.prod(shape)} for shape {shape}; "
            "download it again"
        )
    return np.frombuffer(raw, np.uint8, body, header).reshape(shape)
