"""Finding and reading files, with errors of one line that say what to do."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Sequence
from pathlib import Path

# How a file is unpacked, by the end of its name.
PACKED = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}


def find(data_dir: str | Path | None, names: Sequence[str], what: str, source: str) -> Path:
    """Returns the first of ``names`` that exists in ``data_dir``.

    Args:
      data_dir: Folder of all data sets; ``~`` is the home folder.
      names: Paths below it, the preferred one first.
      what: Name of the data set, for the message.
      source: Where one gets the files.

    Raises:
      ValueError: ``data_dir`` is None.
      FileNotFoundError: None of ``names`` exists.
    """
    if data_dir is None:
        raise ValueError(f"{what} needs --data_dir, a folder that holds {names[0]} ({source})")
    folder = Path(data_dir).expanduser()
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"{folder / names[0]} not found; get it from {source}")


def packed(name: str) -> list[str]:
    """Returns the names that a file may have: as it is, or packed."""
    return [name, *(f"{name}{end}" for end in PACKED)]


def read_bytes(path: Path) -> bytes:
    """Returns the file's bytes, unpacked where it ends in .gz, .bz2 or .xz."""
    raw = path.read_bytes()
    unpack = PACKED.get(path.suffix)
    if unpack is None:
        return raw
    try:
        return unpack(raw)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        kind = {".gz": "gzip"}.get(path.suffix, path.suffix[1:])
        raise ValueError(
            f"{path} is no complete {kind} file ({error}); download it again"
        ) from error


def read_text(path: Path) -> str:
    """Returns the text of a UTF-8 file, without a byte-order mark, each line ended by one newline.

    Raises:
      ValueError: The file is not UTF-8; the message says where.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 at byte {error.start}; convert it (a text can also be read with "
            "--config.data.options.tokens=byte)"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
