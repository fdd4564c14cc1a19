"""Finished runs on disk, found by the content of what was run: main, config and seed."""

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_collections

__all__ = [
    "canonical",
    "digest",
    "load",
    "machine",
    "plain",
    "save",
    "source",
    "versions",
    "write",
]


def canonical(value: Any) -> str:
    """The one JSON text of a value: keys sorted, no blanks, tuples as lists."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"))


def digest(main: str, config: ml_collections.ConfigDict) -> str:
    """Sixteen hex digits that name the run of one main with one config, seed included."""
    return hashlib.sha256(canonical({"main": main, "config": config}).encode()).hexdigest()[:16]


def write(path: Path, content: str | bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old content or the new, never a part."""
    os.replace(_prepare(path, content), path)


def save(folder: Path, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Stores the records of runs that ended together, ``{digest: record}``, all or none."""
    ready = [(_prepare(folder / f"{key}.json", _seal(r)), key) for key, r in records.items()]
    for temporary, key in ready:
        os.replace(temporary, folder / f"{key}.json")


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


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    import flax
    import jax
    import jaxlib
    import numpy
    import optax

    modules = {"jax": jax, "jaxlib": jaxlib, "optax": optax, "flax": flax, "numpy": numpy}
    found = {name: str(module.__version__) for name, module in modules.items()}
    return {"python": platform.python_version(), **found}


def machine() -> str:
    """The kind of machine, such as ``2 cores of AMD EPYC, CPU only``."""
    import jax

    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return f"{cores} core{'s' * (cores > 1)} of {name}, CPU only"


def source() -> str:
    """Eight hex digits over the code of this project, to tell results of another version."""
    root, sha = Path(__file__).parents[2], hashlib.sha256()
    for folder in ("optim", "bilevel", "experiments"):
        for path in sorted((root / folder).rglob("*.py")):
            sha.update(path.read_bytes())
    return sha.hexdigest()[:8]


def _seal(record: Mapping[str, Any]) -> str:
    record = plain(record)
    return json.dumps({"checksum": _checksum(record), "record": record}, indent=1)


def _checksum(record: Any) -> str:
    return hashlib.sha256(canonical(record).encode()).hexdigest()


def _prepare(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    return temporary
