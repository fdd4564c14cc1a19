"""Files of tokens, mapped into memory: a text of any size.

A folder holds ``train*.bin``, ``valid*.bin`` (or ``val*.bin``) and ``test*.bin``: one part may be
many files, which follow each other by name. They are plain unsigned integers, as other projects
write them too; :mod:`experiments.make_tokens` makes them of texts. ``tokens.json`` says of which
type they are and how many different ones there are.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.base import Dataset
from experiments.data.files import find
from optim import _checks

PARTS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
DTYPES = ("uint8", "uint16", "uint32")
SOURCE = "python -m experiments.make_tokens"


class Tokens:
    """The tokens of some files, one after the other, of which only what is asked for is read.

    Args:
      paths: The files.
      dtype: Of the numbers in them.
      vocabulary: Tokens must be below it.

    Raises:
      ValueError: A file whose length is no multiple of a token's bytes.
    """

    def __init__(self, paths: Sequence[Path], dtype: str, vocabulary: int):
        self.paths, self.dtype, self.vocabulary = list(paths), np.dtype(dtype), vocabulary
        self.shape: tuple[int, ...] = ()
        self._maps = [self._map(path) for path in self.paths]
        self._ends = np.cumsum([len(m) for m in self._maps])
        self.shape = (int(self._ends[-1]),)

    def _map(self, path: Path) -> np.ndarray:
        size, width = path.stat().st_size, self.dtype.itemsize
        if size % width:
            raise ValueError(
                f"{path} has {size} bytes, no multiple of the {width} of a token ({self.dtype}); "
                "is it cut, or of another type?"
            )
        if not size:  # Nothing can be mapped.
            return np.zeros(0, self.dtype)
        return np.memmap(path, self.dtype.newbyteorder("<"), mode="r")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, where: slice) -> np.ndarray:
        """The tokens of a slice without a step."""
        start, stop, _ = where.indices(len(self))
        parts = []
        for i in range(int(np.searchsorted(self._ends, start, "right")), len(self._maps)):
            first = self._ends[i] - len(self._maps[i])
            if first >= stop:
                break
            part = self._maps[i][max(start - first, 0) : stop - first]
            if part.max(initial=0) >= self.vocabulary:
                raise ValueError(
                    f"{self.paths[i]} has the token {part.max()}, expected tokens below "
                    f"{self.vocabulary}; is it of another type than {self.dtype}?"
                )
            parts.append(part)
        return np.concatenate([np.zeros(0, self.dtype), *parts])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)


def load(
    name: str, data_dir: str | Path | None, *, dtype: str | None = None, vocabulary: int = 0
) -> Dataset:
    """Returns the folder ``data_dir/tokens/name`` or ``data_dir/name``; without one, ``name``.

    Args:
      name: A folder of ``.bin`` files. Without a test part, the second half of valid is it.
      data_dir: Folder of all data sets.
      dtype: uint8, uint16 or uint32, where no ``tokens.json`` says so.
      vocabulary: Number of different tokens, where no ``tokens.json`` says so.

    Raises:
      ValueError: A file of odd length, other lengths than ``tokens.json`` says, or neither of it
        and the two arguments.
      FileNotFoundError: The folder, or a part of it.
    """
    if data_dir is None and Path(name).expanduser().exists():
        folder = Path(name).expanduser()
    else:
        folder = find(data_dir, [f"tokens/{name}", name], f"tokens:{name}", SOURCE)
    paths = {
        part: sorted({p for n in names for p in folder.glob(f"{n}*.bin")})
        for part, names in PARTS.items()
    }
    if not paths["train"] or not paths["valid"]:
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:6]) or "nothing"
        raise FileNotFoundError(
            f"{folder} needs files train*.bin and valid*.bin (or val*.bin), it holds {found}"
        )
    dtype, vocabulary, counts = _described(folder, dtype, vocabulary)
    parts = {part: Tokens(found, dtype, vocabulary) for part, found in paths.items() if found}
    for part, tokens in parts.items():
        if len(tokens) != counts.get(part, len(tokens)):
            raise ValueError(
                f"{folder / part}*.bin have {len(tokens)} tokens of {dtype}, tokens.json says "
                f"{counts[part]}; is one of the files cut, or of another type or text?"
            )
    train, valid = parts["train"], parts["valid"][:]
    if "test" in parts:
        test = parts["test"][:]
    else:
        valid, test = np.split(valid, [len(valid) // 2])
    for part, tokens in (("train", train), ("valid", valid), ("test", test)):
        if len(tokens) < 2:
            raise ValueError(
                f"{folder}: the {part} part has {len(tokens)} tokens, expected 2 or more"
            )
    arrays: Any = [{"tokens": tokens} for tokens in (train, valid, test)]
    return Dataset(f"tokens:{name}", arrays[0], arrays[1], arrays[2], (), vocabulary)


def _described(folder: Path, dtype: str | None, vocabulary: int) -> tuple[str, int, dict[str, int]]:
    """Type, vocabulary and the tokens of each part, as far as ``tokens.json`` says them."""
    file, said = folder / "tokens.json", {}
    if file.is_file():
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is no JSON: {error}") from error
        if not isinstance(said, dict):
            raise ValueError(f"{file} must hold dtype and vocabulary, it holds {said!r}")
    dtype, vocabulary = dtype or said.get("dtype"), vocabulary or said.get("vocabulary", 0)
    if dtype is None or not vocabulary:
        raise ValueError(
            f"{folder} has no tokens.json with dtype and vocabulary; give them as "
            "--config.data.options.dtype=uint16 --config.data.options.vocabulary=N"
        )
    _checks.choice("dtype", dtype, DTYPES)
    _checks.count("vocabulary", vocabulary, 2)
    counts = said.get("tokens")
    return dtype, vocabulary, counts if isinstance(counts, dict) else {}
