"""Finding and reading files, with errors of one line that say what to do."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path


def find(data_dir: str | Path | None, names: Sequence[str], what: str, source: str) -> Path:
    """Returns the first of ``names`` that exists in ``data_dir``.

    Args:
      data_dir: Folder of all data sets.
      names: Paths below it, the preferred one first.
      what: Name of the data set, for the message.
      source: Where one gets the files.

    Raises:
      ValueError: ``data_dir`` is None.
      FileNotFoundError: None of ``names`` exists.
    """
    if data_dir is None:
        raise ValueError(f"{what} needs --data_dir, a folder that holds {names[0]} ({source})")
    for name in names:
        path = Path(data_dir) / name
        if path.exists():
            return path
    raise FileNotFoundError(f"{Path(data_dir) / names[0]} not found; get it from {source}")


def read_bytes(path: Path) -> bytes:
    """Returns the file's bytes, unpacked where it ends in .gz."""
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no complete gzip file ({error}); download it again") from error
