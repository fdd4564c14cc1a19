"""LIBSVM text files: ``label index:value ...``, indices from 1, as dense arrays."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.base import Arrays, Dataset, split
from experiments.data.files import PACKED, find, packed, read_text

SOURCE = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/"
MOST = 2**31  # Numbers of a dense array: 8 GiB.
EXACT = 2**53  # Up to here every integer is a float64 of its own.


def load(
    file: str,
    data_dir: str | Path | None,
    *,
    test: str | None = None,
    n_features: int | None = None,
    standardize: bool = False,
    seed: int = 0,
    test_fraction: float = 0.2,
    valid_fraction: float = 0.1,
) -> Dataset:
    """Returns ``data_dir/libsvm/file`` with labels 0 .. C-1 in the order of the original values.

    Labels that are not all integers make it a regression: float32 labels, ``num_classes`` 1.

    Args:
      file: Name below ``data_dir/libsvm`` or ``data_dir``, with or without the ending ``.gz``,
        ``.bz2`` or ``.xz`` of a packed file.
      data_dir: Folder of all data sets.
      test: Test file beside it; by default ``file.t`` where it exists, otherwise a split.
      n_features: At least the largest index, which is the default. For files that lack the last
        features (a1a: 123).
      standardize: Whether features get mean 0 and variance 1 over ``train``.
      seed: Of the splits.
      test_fraction: In [0, 1), where there is no test file.
      valid_fraction: Share of the rest, in [0, 1).
    """
    path = locate(file, data_dir)
    rows = parse(path, n_features)
    plain = path.name.removesuffix(path.suffix) if path.suffix in PACKED else path.name
    known = [path.with_name(name) for name in packed(test or f"{plain}.t")]
    test_path = next((p for p in known if p.exists()), known[0])
    if test is not None or test_path.exists():
        find(path.parent, [test_path.name], f"libsvm:{file}", SOURCE)
        held_out = parse(test_path, n_features)
        width = max(rows["x"].shape[1], held_out["x"].shape[1])
        rows["x"], held_out["x"] = _widen(rows["x"], width), _widen(held_out["x"], width)
    else:
        held_out = None
    classes, regression = np.unique(rows["label"]), False
    if np.any(classes != np.round(classes)):
        regression = True
    elif len(classes) < 2:
        raise ValueError(f"{path} holds one label only, {_name(classes[0])}; expected two classes")
    else:
        rows["label"] = np.searchsorted(classes, rows["label"]).astype(np.int32)
        if held_out is not None:
            unknown = np.setdiff1d(held_out["label"], classes)
            if len(unknown):
                raise ValueError(
                    f"{test_path} holds the label {_name(unknown[0])}, {path.name} none"
                )
            held_out["label"] = np.searchsorted(classes, held_out["label"]).astype(np.int32)
    if regression:
        for part in (rows, held_out or {}):
            part |= {"label": part["label"].astype(np.float32)} if part else {}
    if held_out is None:
        rows, held_out = split(rows, test_fraction, seed, stratify=not regression)
    train, valid = split(rows, valid_fraction, seed + 1, stratify=not regression)
    if standardize:
        mean, std = train["x"].mean(0), train["x"].std(0)
        std = np.where(std > 0, std, 1)
        train, valid, held_out = (
            {**part, "x": (part["x"] - mean) / std} for part in (train, valid, held_out)
        )
    return Dataset(
        f"libsvm:{file}",
        train,
        valid,
        held_out,
        (train["x"].shape[1],),
        1 if regression else len(classes),
        classes=() if regression else tuple(map(_name, classes)),
    )


def locate(file: str, data_dir: str | Path | None, folders: Sequence[str] = ("libsvm",)) -> Path:
    """Returns the path of a file, packed or not, in one of ``folders`` or in ``data_dir`` itself.

    Raises:
      FileNotFoundError: There is none; the message says where one gets it.
    """
    places = [f"{folder}/" for folder in folders] + [""]
    names = [f"{place}{name}" for place in places for name in packed(file)]
    return find(data_dir, names, f"libsvm:{file}", SOURCE)


def parse(path: Path, n_features: int | None = None, dtype: Any = np.float32) -> Arrays:
    """Returns ``{"x": dtype (n, n_features), "label": float64 (n,)}`` of one file.

    ``#`` starts a comment; empty lines are skipped; a row may have no features.

    Raises:
      ValueError: A line that does not parse; the message names file, line and token.
    """
    labels, rows, columns, values = [], [], [], []
    widest, at, most = 0, 0, float(np.finfo(dtype).max)
    for number, line in enumerate(read_text(path).split("\n"), 1):
        tokens = line.partition("#")[0].split()
        if not tokens:
            continue
        where = f"{path}, line {number}"
        labels.append(_label(tokens[0], where))
        last = 0
        for token in tokens[1:]:
            index, colon, value = token.partition(":")
            if not colon or not index.isdecimal():
                raise ValueError(f"{where}: expected index:value, got {token!r}")
            column = int(index)
            if column <= last:
                raise ValueError(f"{where}: indices must ascend from 1, got {token!r}")
            if n_features is not None and column > n_features:
                raise ValueError(f"{where}: index must be <= {n_features}, got {token!r}")
            rows.append(len(labels) - 1)
            columns.append(column - 1)
            values.append(_number(value, where, "value", most))
            last = column
        if last > widest:
            widest, at = last, number
    if not labels:
        raise ValueError(f"{path} has no rows")
    width = n_features or max(widest, 1)
    if len(labels) * width > MOST:
        raise ValueError(
            f"{path}, line {at}: the index {widest} makes a dense array of {len(labels)} x {width} "
            f"numbers, more than the {MOST} that are read"
        )
    x = np.zeros((len(labels), width), dtype)
    x[rows, columns] = values
    return {"x": x, "label": np.asarray(labels, np.float64)}


def _label(token: str, where: str) -> float:
    label = _number(token, where, "label")
    if abs(label) >= EXACT:
        raise ValueError(
            f"{where}: label must be below 2^53, beyond which integers merge, got {token}"
        )
    return label


def _name(label: float) -> str:
    return str(int(label)) if label == round(label) else f"{label:g}"


def _number(token: str, where: str, what: str, most: float = math.inf) -> float:
    try:
        number = float(token)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or abs(number) > most:
        raise ValueError(f"{where}: {what} must be a finite number, got {token!r}")
    return number


def _widen(x: np.ndarray, width: int) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, width - x.shape[1])))
