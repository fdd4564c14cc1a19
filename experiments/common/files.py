"""Files that are written whole or not at all, and folders that one process holds."""

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

__all__ = ["locked", "write", "write_all"]


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


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds ``folder``, which is made where it is missing, for this process alone.

    The lock ends with the process, however that ends.

    Raises:
      ValueError: Another process holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with _open_locked(path) as stream:
        stream.truncate(0)
        stream.write(f"{os.getpid()} on {platform.node()}")
        stream.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _open_locked(path: Path) -> IO[str]:
    while True:
        stream = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip() or "?"
            stream.close()
            raise ValueError(
                f"{path.parent} is in use by process {holder}; "
                "wait until that ends, or choose another --workdir"
            ) from None
        except OSError:
            return stream  # A file system that has no locks.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                return stream
        stream.close()  # The holder before removed the file between the two calls.
