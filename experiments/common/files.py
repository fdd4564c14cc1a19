"""Files that are written whole or not at all, and folders that one process holds."""

import contextlib
import fcntl
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

__all__ = ["locked", "naming", "read_json", "write", "write_all"]


def write(path: Path, content: str | bytes) -> None:
    """Writes one file; a reader, or a crash, sees the old content or the new, never a part of it.

    Args:
      path: The file; its folder is made where it is missing.
      content: Bytes, or text to be written in UTF-8.

    Raises:
      OSError: The file cannot be written; what was there before is unchanged.
    """
    write_all({path: content})


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names the file in an error of writing, which says no more than that the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


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
            with naming(path), part.open("wb") as stream:
                stream.write(content.encode() if isinstance(content, str) else content)
                stream.flush()
                os.fsync(stream.fileno())
        for part, path in ready:
            part.replace(path)
    finally:
        for part, _ in ready:  # Those of a write that failed.
            with contextlib.suppress(OSError):
                part.unlink()


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object that a JSON file holds.

    Raises:
      ValueError: The file holds something else, or only a part of it; the message names it.
      OSError: It cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}; put it back, or remove it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


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
