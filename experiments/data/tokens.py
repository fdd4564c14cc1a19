"""Files of tokens, mapped into memory, and the command that makes them of texts.

    python -m experiments.data.tokens --text=input.txt --out=DATA/tokens/mine
    python -m experiments.data.tokens --text="books/*.txt" --vocabulary=4096 --out=DATA/tokens/mine
    python -m experiments.data.tokens --text=a.txt --tokenizer=tokenizer.json --out=DATA/tokens/mine
    python -m experiments.train --config.data.name=tokens:mine --config.data.stream --data_dir=DATA

The first takes bytes for tokens; the second learns byte pairs on the texts, by the library
``tokenizers`` (the extra ``[text]``), and the third takes a file of that library. Texts are cut in
order: 90 % train, 5 % valid, 5 % test, each text for itself.

A folder holds ``train*.bin``, ``valid*.bin`` (or ``val*.bin``) and ``test*.bin``: one part may be
many files, which follow each other by name. They are plain unsigned integers, as other projects
write them too. ``tokens.json`` says of which type and how many different ones there are.
"""

import glob
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from experiments.common import files as writing
from experiments.common import launch
from experiments.data.base import Dataset
from experiments.data.files import find, read_bytes, read_text
from optim import _checks

PARTS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
DTYPES = ("uint8", "uint16", "uint32")
SOURCE = "python -m experiments.data.tokens"
BLOCK = 2**22  # Characters that are encoded at once.


class Tokens(Sequence):
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

    def __getitem__(self, where: Any) -> np.ndarray:
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
      ValueError: A file of odd length, or neither ``tokens.json`` nor the two arguments.
      FileNotFoundError: The folder, or a part of it.
    """
    if data_dir is None and Path(name).expanduser().exists():
        folder = Path(name).expanduser()
    else:
        folder = find(data_dir, [f"tokens/{name}", name], f"tokens:{name}", SOURCE)
    dtype, vocabulary = _described(folder, dtype, vocabulary)
    parts = {}
    for part, names in PARTS.items():
        paths = sorted(p for n in names for p in folder.glob(f"{n}*.bin"))
        if paths:
            parts[part] = Tokens(dict.fromkeys(paths), dtype, vocabulary)
    if "train" not in parts or "valid" not in parts:
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:6]) or "nothing"
        raise FileNotFoundError(
            f"{folder} needs files train*.bin and valid*.bin (or val*.bin), it holds {found}"
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
    return Dataset(f"tokens:{name}", *arrays, (), vocabulary)


def _described(folder: Path, dtype: str | None, vocabulary: int) -> tuple[str, int]:
    file, said = folder / "tokens.json", {}
    if file.is_file():
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is no JSON: {error}") from error
    dtype, vocabulary = dtype or said.get("dtype"), vocabulary or said.get("vocabulary", 0)
    if dtype is None or not vocabulary:
        raise ValueError(
            f"{folder} has no tokens.json with dtype and vocabulary; give them as "
            "--config.data.options.dtype=uint16 --config.data.options.vocabulary=N"
        )
    _checks.choice("dtype", dtype, DTYPES)
    _checks.count("vocabulary", vocabulary, 2)
    return dtype, vocabulary


def write(
    texts: Sequence[Path], out: Path, *, tokenizer: Path | None = None, vocabulary: int = 0
) -> dict[str, int]:
    """Writes the tokens of texts into a folder, and returns how many each part has.

    Args:
      texts: UTF-8 files, possibly packed (``.gz``, ``.bz2``, ``.xz``); for bytes any files.
      out: The folder; its files are replaced.
      tokenizer: A ``tokenizer.json`` of the library ``tokenizers``; ``None`` takes bytes, or
        learns byte pairs if ``vocabulary`` is given.
      vocabulary: Size of the vocabulary to learn, at least 257; 0: none is learned.
    """
    if tokenizer is not None and vocabulary:
        raise ValueError("give tokenizer, a file, or vocabulary, to learn one, not both")
    out.mkdir(parents=True, exist_ok=True)
    codec = None
    if tokenizer is not None or vocabulary:
        codec = _codec(tokenizer) if tokenizer is not None else _learn(texts, vocabulary)
        writing.write(out / "tokenizer.json", codec.to_str())
    size = 256 if codec is None else codec.get_vocab_size()
    dtype = next(d for d in DTYPES if size <= np.iinfo(d).max + 1)
    counts = dict.fromkeys(PARTS, 0)
    streams = {part: (out / f"{part}.bin").open("wb") for part in PARTS}
    try:
        for text in texts:
            for part, tokens in _parts(text, codec):
                counts[part] += len(tokens)
                streams[part].write(np.asarray(tokens, np.dtype(dtype).newbyteorder("<")).tobytes())
    finally:
        for stream in streams.values():
            stream.close()
    described = {"dtype": dtype, "vocabulary": size, "tokens": counts}
    described["tokenizer"] = "bytes" if codec is None else "tokenizer.json"
    writing.write(out / "tokens.json", json.dumps(described, indent=1) + "\n")
    return counts


def _parts(text: Path, codec: Any) -> Iterator[tuple[str, Any]]:
    """The tokens of the parts of a text, which is cut before it is encoded."""
    whole: Any = read_bytes(text) if codec is None else read_text(text)
    cuts = [0, len(whole) * 90 // 100, len(whole) * 95 // 100, len(whole)]
    for part, (start, stop) in zip(PARTS, itertools.pairwise(cuts), strict=True):
        if codec is None:
            yield part, np.frombuffer(whole[start:stop], np.uint8)
            continue
        for at in range(start, stop, BLOCK):
            block = whole[at : min(at + BLOCK, stop)]
            yield part, codec.encode(block, add_special_tokens=False).ids


def _library() -> Any:
    try:
        import tokenizers  # For texts in byte pairs alone.
    except ImportError as error:
        raise ValueError("byte pairs need the extra text: pip install -e '.[text]'") from error
    return tokenizers


def _codec(path: Path) -> Any:
    library = _library()
    if not path.is_file():
        raise FileNotFoundError(f"tokenizer: there is no file {path}")
    try:
        return library.Tokenizer.from_file(str(path))
    except Exception as error:  # The library raises nothing narrower.
        raise ValueError(f"{path} is no file of the library tokenizers: {error}") from error


def _learn(texts: Sequence[Path], vocabulary: int) -> Any:
    _checks.count("vocabulary", vocabulary, 257)
    library = _library()
    codec = library.Tokenizer(library.models.BPE())
    codec.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    codec.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Only what is trained on may tell which pairs there are.
    trained = (text[: len(text) * 90 // 100] for text in map(read_text, texts))
    lines = (line for text in trained for line in text.splitlines(keepends=True))
    codec.train_from_iterator(lines, trainer)
    return codec


def main(argv) -> None:
    """Reads texts, writes tokens."""
    del argv
    flag = flags.FLAGS
    texts = sorted({Path(p) for pattern in flag.text for p in glob.glob(pattern)})
    if not texts:
        raise ValueError(f"text: no file is called {', '.join(flag.text)}")
    tokenizer = None if flag.tokenizer is None else Path(flag.tokenizer)
    counts = write(texts, Path(flag.out), tokenizer=tokenizer, vocabulary=flag.vocabulary)
    for part, count in counts.items():
        print(f"{Path(flag.out) / part}.bin: {count} tokens")


if __name__ == "__main__":
    flags.DEFINE_list("text", None, "Files, also as patterns, between commas.", required=True)
    flags.DEFINE_string("out", None, "Folder for the tokens.", required=True)
    flags.DEFINE_string("tokenizer", None, "A tokenizer.json; by default bytes.")
    flags.DEFINE_integer("vocabulary", 0, "Size of a vocabulary of byte pairs to learn.")
    sys.exit(launch.guard(lambda: app.run(main)))
