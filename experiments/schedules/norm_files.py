"""Gradient norms recorded elsewhere: CSV (W&B exports included), JSONL, npy and npz files."""

import csv
import json
import math
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

from optim import _checks

# Names that are taken for the norm without being asked.
USUAL = ("gradient_norm", "grad_norm", "gnorm", "norm", "norms", "pilot_norms")


def read_norms(path: str | Path, column: str | None = None) -> np.ndarray:
    """Reads one gradient norm a step.

    A CSV file whose header is ``Step,<run> - <metric>,<...>__MIN,<...>__MAX`` (a W&B export, the
    format of the norms published with the refinement paper) is read as the authors do: its second
    column, non-finite values dropped, then the first two and the last two left out.

    Args:
      path: ``.npy`` (shape [steps]), ``.npz``, ``.jsonl`` (one object a line) or ``.csv``/``.txt``
        (with a header, or numbers alone).
      column: Name of the column, key or array; default: the only one, or one named like
        ``gradient_norm``.

    Returns:
      The norms, float64, shape [steps]. Only W&B exports are filtered.

    Raises:
      ValueError: An unreadable file, or no such column; the message names what there is.
      FileNotFoundError: There is no such file.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there is no norm file {path}")
    arrays, text = None, ""
    try:
        if path.suffix == ".npy":
            arrays = {"norm": np.load(path)}
        elif path.suffix == ".npz":
            with np.load(path) as loaded:
                arrays = dict(loaded)
        else:
            text = path.read_text(encoding="utf-8-sig")
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if arrays is not None:
        return _one_run(path, arrays, column if path.suffix == ".npz" else None)
    if path.suffix in (".jsonl", ".json"):
        return _jsonl(path, text, column)
    return _csv(path, text, column)


def _one_run(path, arrays, column):
    norms = np.asarray(arrays[_choose(path, list(arrays), column)], np.float64)
    if norms.size != max(norms.shape, default=1):
        raise ValueError(f"{path} must hold the norms of one run [steps], got shape {norms.shape}")
    return norms.reshape(-1)


def _choose(path, names, column):
    if column is not None:
        if column in names:
            return column
        raise ValueError(f"{path} has no column {column!r}; {_checks.nearest(column, names)}")
    usual = [name for name in names if name.lower() in USUAL]
    if len(usual) == 1 or len(names) == 1:
        return (usual or names)[0]
    raise ValueError(f"{path} has the columns {', '.join(names)}: choose one with --column")


def _jsonl(path, text, column):
    rows = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rows[number] = dict(json.loads(line))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: expected an object: {error}") from error
    names = list(dict.fromkeys(k for row in rows.values() for k in row))
    name = _choose(path, names, column)
    return np.array([_number(path, i, name, row[name]) for i, row in rows.items() if name in row])


def _number(path, line, name, value):
    try:
        return math.nan if value is None or value == "" else float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{path}, line {line}: expected a number in {name!r}") from None


def _csv(path, text, column):
    reader = csv.reader(text.splitlines())
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    if not rows:
        raise ValueError(f"{path} is empty")
    _, first = rows[0]
    try:
        [float(cell) for cell in first]
        header = [str(i) for i in range(len(first))]
    except ValueError:
        header = [name.strip() for name in first]
        del rows[0]
    wandb = column is None and len(header) >= 2 and header[0] == "Step" and " - " in header[1]
    name = header[1] if wandb else _choose(path, header, column)
    at = header.index(name)
    cells = [(line, row[at].strip() if at < len(row) else "none") for line, row in rows]
    norms = np.array([_number(path, line, name, cell) for line, cell in cells])
    if not wandb:
        return norms
    finite = np.isfinite(norms)
    if not finite.all():
        dropped = int((~finite).sum())
        warnings.warn(f"{path}: dropped {dropped} non-finite norms", stacklevel=3)
    return norms[finite][2:-2]
