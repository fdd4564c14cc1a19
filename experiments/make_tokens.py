"""Makes token files, which are mapped into memory, of texts.

  python -m experiments.make_tokens --text=input.txt --out=DATA/tokens/mine
  python -m experiments.make_tokens --text="books/*.txt" --vocabulary=4096 --out=DATA/tokens/mine
  python -m experiments.make_tokens --text=a.txt --tokenizer=tokenizer.json --out=DATA/tokens/mine
  python -m experiments.train --config.data.name=tokens:mine --config.data.stream --data_dir=DATA

The first takes bytes for tokens; the second learns byte pairs on the texts, by the library
``tokenizers`` (the extra ``[text]``), and the third takes a file of that library. Texts are cut in
order: 90 % train, 5 % valid, 5 % test, each text for itself.
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

from experiments.common import files, launch
from experiments.data.files import read_bytes, read_text
from experiments.data.tokens import DTYPES, PARTS
from optim import _checks

__all__ = ["write"]

BLOCK = 2**22  # Characters that are encoded at once.


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
        files.write(out / "tokenizer.json", codec.to_str())
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
    files.write(out / "tokens.json", json.dumps(described, indent=1) + "\n")
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
