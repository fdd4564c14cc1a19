"""Finished runs on disk, found by the content of what was run: main, config and seed."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from experiments.common import files

__all__ = [
    "canonical",
    "digest",
    "load",
    "plain",
    "save",
]


def canonical(value: Any) -> str:
    """The one JSON text of a value: keys sorted, no blanks, tuples as lists."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"))


def digest(main: str, config: ml_collections.ConfigDict) -> str:
    """Sixteen hex digits that name the run of one main with one config, seed included."""
    return hashlib.sha256(canonical({"main": main, "config": config}).encode()).hexdigest()[:16]


def save(folder: Path, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Stores the records of runs that ended together, ``{digest: record}``, all or none."""
    files.write_all({folder / f"{key}.json": _seal(record) for key, record in records.items()})


def load(folder: Path, keys: Iterable[str]) -> tuple[dict[str, dict[str, Any]], list[Path]]:
    """Reads the records that exist.

    Returns:
      ``({digest: record}, corrupt)``. A file that does not parse, or whose content does not match
      its checksum, is renamed to ``*.corrupt`` and listed, so that its run is made again.
    """
    found, corrupt = {}, []
    for key in keys:
        path = folder / f"{key}.json"
        try:
            sealed = json.loads(path.read_text(encoding="utf-8"))
            if sealed["checksum"] != _checksum(sealed["record"]):
                raise ValueError("the checksum does not match")
            found[key] = sealed["record"]
        except FileNotFoundError:
            continue
        except (ValueError, TypeError, KeyError):
            aside = path.with_suffix(".corrupt")
            os.replace(path, aside)
            corrupt.append(aside)
    return found, corrupt


def plain(value: Any) -> Any:
    """A value made of dicts, lists, strings and python numbers only."""
    if isinstance(value, ml_collections.ConfigDict):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | str | int | float):
        return value
    if getattr(value, "shape", None) == ():
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__} has no JSON form")


def _seal(record: Mapping[str, Any]) -> str:
    record = plain(record)
    return json.dumps({"checksum": _checksum(record), "record": record}, indent=1)


def _checksum(record: Any) -> str:
    return hashlib.sha256(canonical(record).encode()).hexdigest()
