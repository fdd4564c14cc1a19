"""Files that are written whole or not at all."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["write", "write_all"]


def write(path: Path, content: str | bytes) -> None:
    """Writes one file; a reader, or a crash, sees the old content or the new, never a part of it.

    Args:
      path: The file; its folder is made where it is missing.
      content: Bytes, or text to be written in UTF-8.

    Raises:
      OSError: The file cannot be written; what was there before is unchanged.
    """
    write_all({path: content})


def write_all(contents: Mapping[Path, str | bytes]) -> None:
    """Writes several files: none is replaced before the new content of all is on the disk.

    Raises:
      OSError: One of the files cannot be written; what was there before is unchanged.
    """
    ready: list[tuple[Path, Path]] = []
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.{os.getpid()}")
            ready.append((part, path))
            with part.open("wb") as stream:
                stream.write(content.encode() if isinstance(content, str) else content)
                stream.flush()
                os.fsync(stream.fileno())
        for part, path in ready:
            part.replace(path)
    finally:
        for part, _ in ready:  # Those of a write that failed.
            with contextlib.suppress(OSError):
                part.unlink()
