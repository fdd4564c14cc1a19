"""Raw text as one array of character or byte tokens."""

from pathlib import Path

import numpy as np

from experiments.data.base import Dataset
from experiments.data.files import PACKED, find, read_bytes, read_text

PARTS = ("train", "valid", "test")
SOURCE = "anywhere: one UTF-8 file, or train, valid and test files in a folder"


def load(name: str, data_dir: str | Path | None, *, tokens: str = "char") -> Dataset:
    """Returns the text in ``data_dir/text/name`` or ``data_dir/name``; without one, in ``name``.

    A folder with files named after train, valid and test (``ptb.train.txt``) keeps that split.
    One file, or a folder with one file, is cut: 90 % train, 5 % valid, 5 % test, in order.
    Characters are read as by Python's ``open``: a byte-order mark is no character, and every line
    ends with one newline. Bytes are taken as they are.

    Args:
      name: File or folder.
      data_dir: Folder of all data sets.
      tokens: ``"char"``: the characters that occur, in code order; ``"byte"``: 256 bytes.
    """
    if tokens not in ("char", "byte"):
        raise ValueError(f"tokens must be char or byte, got {tokens!r}")
    if data_dir is None and Path(name).expanduser().exists():
        path = Path(name).expanduser()
    else:
        path = find(data_dir, [f"text/{name}", name], f"text:{name}", SOURCE)
    files = _files(path)
    if tokens == "byte":
        codes = [np.frombuffer(read_bytes(file), np.uint8) for file in files]
        classes: tuple[str, ...] = tuple(map(chr, range(256)))
    else:
        texts = [read_text(file) for file in files]
        points = [np.frombuffer(text.encode("utf-32-le"), np.uint32) for text in texts]
        alphabet = np.unique(np.concatenate(points))
        dtype = np.uint8 if len(alphabet) <= 256 else np.int32
        codes = [np.searchsorted(alphabet, p).astype(dtype) for p in points]
        classes = tuple(map(chr, alphabet))
    if len(codes) == 1:
        n = len(codes[0])
        codes = np.split(codes[0], [n * 90 // 100, n * 95 // 100])
    for part, array in zip(PARTS, codes, strict=True):
        if len(array) < 2:
            raise ValueError(f"{path}: the {part} part has {len(array)} tokens, expected 2 or more")
    train, valid, test = ({"tokens": c} for c in codes)
    return Dataset(f"text:{name}", train, valid, test, (), len(classes), classes=classes)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(f for f in path.iterdir() if f.suffix in (".txt", ".tokens", *PACKED))
    if len(files) == 1:
        return files
    found = []
    for part in PARTS:
        matches = [f for f in files if part in f.name.split(".")]
        if len(matches) != 1:
            raise FileNotFoundError(
                f"{path} has {len(matches)} files for {part}, expected one such as {part}.txt"
            )
        found += matches
    return found
