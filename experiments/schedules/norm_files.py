"""Gradient norms recorded elsewhere: CSV (W&B exports included), JSONL, npy and npz files."""

import csv
import json
import math
import warnings
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
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path), np.float64).reshape(-1)
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                return np.asarray(arrays[_choose(path, arrays.files, column)], np.float64)
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if path.suffix in (".jsonl", ".json"):
        return _jsonl(path, text, column)
    return _csv(path, text, column)


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
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    names = list(dict.fromkeys(k for row in rows for k in row))
    name = _choose(path, names, column)
    return np.array([float(row[name]) for row in rows if name in row])


def _csv(path, text, column):
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if not rows:
        raise ValueError(f"{path} is empty")
    try:
        [float(cell) for cell in rows[0]]
        header = [str(i) for i in range(len(rows[0]))]
    except ValueError:
        header = [name.strip() for name in rows.pop(0)]
    wandb = column is None and len(header) >= 2 and header[0] == "Step" and " - " in header[1]
    name = header[1] if wandb else _choose(path, header, column)
    at, values = header.index(name), []
    for number, row in enumerate(rows, 2):
        try:
            values.append(float(row[at]) if row[at].strip() else math.nan)
        except (ValueError, IndexError):
            raise ValueError(f"{path}, line {number}: expected a number in {name!r}") from None
    norms = np.array(values)
    if not wandb:
        return norms
    finite = np.isfinite(norms)
    if not finite.all():
        dropped = int((~finite).sum())
        warnings.warn(f"{path}: dropped {dropped} non-finite norms", stacklevel=3)
    return norms[finite][2:-2]
