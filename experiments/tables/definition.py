"""What a table is: methods x settings x hyperparameter grid x seeds, and how it is reported.

A table is a file with one dict ``TABLE`` of the fields of :class:`Table`. One in ``configs/tables``
goes by its name, one of your own anywhere by its path. Whatever sets config keys is a dict from
dotted keys to values.
"""

import dataclasses
import itertools
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from experiments.common import config_files
from experiments.tables import cache, sweep
from optim import _checks

__all__ = ["Run", "Table", "definition", "load", "names", "plan"]

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "tables"
SCALES = ("cpu", "gpu", "paper")
PLOTS = ("points", "columns", "zoom", "difference", "grid", "history")


@dataclasses.dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
      name: File name in ``configs/tables``, or the path of a file of your own.
      title: Heading.
      protocol: How the numbers were made, in a few sentences. Names in braces stand for values of
        the config that all runs share: ``"{epochs} epochs of batches of {batch_size}"``.
      config: Config file of the main, with its argument: ``"configs/digits.py"`` or ``"….py:arg"``;
        of a table of your own also a file beside it.
      rows: Methods: label to a point, which is a dict from dotted config keys to values.
      metric: Name of the reported number in ``Result.final``.
      select: Name of the number that chooses hyperparameters; validation, not test.
      main: Module ``experiments.<main>`` with ``run(config, …) -> Result``, and
        ``check(config, data_dir)`` if it can tell before a run that it cannot be made.
      columns: Settings: label to a point.
      setting: What the columns are, with the unit: ``"sparsity (% of the weights)"``.
      base: One point that all runs share.
      grid: The hyperparameters tuned for each cell, as :func:`experiments.tables.sweep.read` takes
        them: axes whose product is tried, or a list of points. One grid for all rows, or a dict
        with one for each row, with equal numbers of points.
      seeds: Seeds of the reported runs.
      tune_seeds: Seeds of the runs that choose hyperparameters; all ``seeds`` if empty.
      seed_key: Config key of the seed.
      packed: Most runs in one population. Packs depend on the table alone, not on what is cached.
      direction: ``"max"`` if larger is better, of ``metric`` and of ``select``; else ``"min"``.
      baseline: Row that the others are compared with, seed by seed; the first if empty.
      unit: ``"%"`` shows fractions as percentages; anything else is printed after the metric.
      digits: Digits after the point.
      also: Further numbers of ``Result.final`` to show: heading to name.
      paper: Published numbers of the same setting: row to column to number or text.
      source: Where they are published, and how the setting compares.
      notes: Sentences under the table: what the numbers say, and what they do not.
      notes_of: Fingerprint of the runs that the notes were written about (``cells.print_of``).
        Under other runs they are not printed.
      plots: Panels of the picture. ``"points"``: seeds, mean, interval; ``"columns"``: lines over
        the settings; ``"zoom"``: the same, cut to the better half of the methods;
        ``"difference"``: paired differences to the baseline in each setting; ``"grid"``: the
        choosing metric over the first hyperparameter of the grid; ``"history"``: the reported
        runs over their steps.
      history: Names of x and y in ``Result.history`` for the panel ``"history"``.
      scales: For each scale a dict: ``about`` (what it means, on what machine), ``minutes``
        (estimate until there are measured times), and any fields above that it replaces.
    """

    name: str
    title: str
    protocol: str
    config: str
    rows: Mapping[str, sweep.Point]
    metric: str
    select: str
    scales: Mapping[str, Mapping[str, Any]]
    main: str = "train"
    columns: Mapping[str, sweep.Point] = dataclasses.field(default_factory=lambda: {"": {}})
    setting: str = ""
    base: sweep.Point = dataclasses.field(default_factory=dict)
    grid: Any = dataclasses.field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    tune_seeds: tuple[int, ...] = ()
    seed_key: str = "seed"
    packed: int = 8
    direction: str = "max"
    baseline: str = ""
    unit: str = ""
    digits: int = 3
    also: Mapping[str, str] = dataclasses.field(default_factory=dict)
    paper: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    source: str = ""
    notes: tuple[str, ...] = ()
    notes_of: str = ""
    plots: tuple[str, ...] = ("points",)
    history: tuple[str, str] = ("step", "loss")
    scale: str = "cpu"

    def __post_init__(self):
        where = f"table {self.name}"
        for field in ("seeds", "tune_seeds", "notes", "plots", "history"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        if not self.rows or not self.columns or not self.seeds:
            raise ValueError(f"{where}: rows, columns and seeds must not be empty")
        if not self.baseline:
            object.__setattr__(self, "baseline", next(iter(self.rows)))
        if self.direction not in ("max", "min"):
            raise ValueError(f"{where}: direction must be 'max' or 'min', got {self.direction!r}")
        named: dict[str, Iterable[str]] = {"baseline": [self.baseline], "paper": self.paper}
        if self._grid_by_row:
            named["grid"] = self.grid
            for row in self.rows:
                _known(where, "grid has no row", row, self.grid)
        for field, used in named.items():
            for row in used:
                _known(where, f"{field} names the unknown row", row, self.rows)
        for row in self.paper.values():
            for column in row:
                _known(where, "paper names the unknown column", column, self.columns)
        for plot in self.plots:
            _known(where, "unknown plot", plot, PLOTS)
        one = {field: self._one_each(field) for field in ("rows", "columns")}
        for field, value in (one | {"base": self._one("base", self.base)}).items():
            object.__setattr__(self, field, value)
        trials = {row: len(self.trials(row)) for row in self.rows}
        if 0 in trials.values():
            raise ValueError(f"{where}: grid must not be empty; without a grid leave it out")
        if len(set(trials.values())) > 1:
            raise ValueError(f"{where}: all rows must have the same number of trials, got {trials}")
        for field in ("seeds", "tune_seeds"):
            seeds = getattr(self, field)
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{where}: {field} holds a seed twice: {seeds}")

    def _one_each(self, field: str) -> dict[str, sweep.Point]:
        return {label: self._one(label, value) for label, value in getattr(self, field).items()}

    def _one(self, label: str, value: Any) -> sweep.Point:
        read = sweep.read(value)
        if len(read) != 1:
            raise ValueError(f"table {self.name}: {label!r} must be one point, got {value!r}")
        return read[0]

    @property
    def _grid_by_row(self) -> bool:
        return isinstance(self.grid, Mapping) and not set(self.rows).isdisjoint(self.grid)

    def trials(self, row: str) -> list[sweep.Point]:
        """The hyperparameter settings tried for a row."""
        return sweep.read(self.grid[row] if self._grid_by_row else self.grid)

    @property
    def tuning(self) -> tuple[int, ...]:
        """Seeds of the runs that choose hyperparameters."""
        return self.tune_seeds or self.seeds

    @property
    def staged(self) -> bool:
        """Whether some reported runs can only be named after hyperparameters are chosen."""
        return not set(self.seeds) <= set(self.tuning)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a table: its place, its hyperparameters, its config and the digest of both."""

    row: str
    column: str
    point: sweep.Point
    seed: int
    config: ml_collections.ConfigDict
    digest: str

    @property
    def label(self) -> str:
        """Short name for people."""
        point = [f"{k.rsplit('.', 1)[-1]}={v}" for k, v in self.point.items()]
        return " ".join(filter(None, (self.row, self.column, *point, f"seed={self.seed}")))


def names() -> list[str]:
    """Names of all tables, sub-folders with a slash."""
    paths = (p.relative_to(FOLDER).with_suffix("") for p in FOLDER.rglob("*.py"))
    return sorted(p.as_posix() for p in paths if p.name != "__init__")


def load(name: str, scale: str = "cpu") -> Table:
    """Reads a table at one scale.

    Args:
      name: Of a file in ``configs/tables``, or the path of a file that ends in ``.py``.
      scale: One of its scales.

    Raises:
      ValueError: If the table, the scale or a field is unknown (the nearest is named), or the table
        contradicts itself.
    """
    fields: dict[str, Any] = dict(definition(name))
    where = f"table {name}"
    scales = fields.get("scales", {})
    for known in scales:
        _known(where, "unknown scale", known, SCALES)
    _known(where, "has no scale", scale, scales)
    fields |= {k: v for k, v in scales[scale].items() if k not in ("about", "minutes")}
    known = [f.name for f in dataclasses.fields(Table)]
    for field in fields:
        _known(where, "unknown field", field, known)
    missing = [
        f.name
        for f in dataclasses.fields(Table)
        if f.name not in fields
        and f.default is f.default_factory is dataclasses.MISSING
        and f.name != "name"
    ]
    if missing:
        raise ValueError(f"{where}: missing {', '.join(missing)}")
    table = Table(**fields, name=name, scale=scale)
    return dataclasses.replace(table, protocol=_filled(table))


def definition(name: str) -> dict[str, Any]:
    """The dict ``TABLE`` of a file, as it stands."""
    path = Path(name).expanduser()
    if not _is_path(name):
        _known("", "there is no table", name, names())
        path = FOLDER / f"{name}.py"
    table = getattr(config_files.module(path), "TABLE", None)
    if not isinstance(table, dict):
        raise ValueError(f"{path} has no dict TABLE")
    return table


def _is_path(name: str) -> bool:
    return name.endswith(".py")


def plan(table: Table) -> list[Run]:
    """The runs that choose hyperparameters, which include the reported ones if seeds are equal.

    Raises:
      ValueError: If an expression sets an unknown key, or two runs are the same.
    """
    runs, seen = [], {}
    base = base_config(table)
    for row, column in itertools.product(table.rows, table.columns):
        for point in table.trials(row):
            for seed in table.tuning:
                new = run(table, base, row, column, point, seed)
                old = seen.setdefault(new.digest, new)
                if old is not new:
                    raise ValueError(
                        f"duplicate runs: {old.label!r} and {new.label!r} are the same"
                    )
                runs.append(new)
    return runs


def base_config(table: Table) -> ml_collections.ConfigDict:
    """The config that all runs of a table start from."""
    return config_files.override(config_files.load(_config_name(table)), table.base)


def config_file(table: Table) -> Path:
    """Returns the config file of a table, without its argument."""
    return config_files.split(_config_name(table))[0]


def _config_name(table: Table) -> str:
    """The config file with its argument, at its place."""
    beside = str(Path(table.name).expanduser().parent / table.config)
    if _is_path(table.name) and config_files.split(beside)[0].is_file():
        return beside
    return str(ROOT / table.config)


def run(
    table: Table,
    base: ml_collections.ConfigDict,
    row: str,
    column: str,
    point: sweep.Point,
    seed: int,
) -> Run:
    """One run of a table."""
    parts = [table.rows[row], table.columns[column], point, {table.seed_key: seed}]
    (keys,) = sweep.product(*([part] for part in parts))
    config = config_files.override(base, keys)
    return Run(row, column, point, seed, config, cache.digest(table.main, config))


class _Words(string.Formatter):
    """Numbers without trailing zeros, the parts of a tuple joined by hyphens."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, list | tuple):
            return "-".join(map(str, value))
        default = "g" if isinstance(value, float) else ""
        return super().format_field(value, format_spec or default)


def _filled(table: Table) -> str:
    """The protocol with the values of the config that all runs share."""
    config = base_config(table)
    try:
        return _Words().vformat(table.protocol, (), {key: config[key] for key in config})
    except (AttributeError, KeyError, IndexError, ValueError) as error:
        raise ValueError(f"table {table.name}: in protocol: {error}") from error


def _known(where: str, problem: str, name: str, known) -> None:
    known = list(known)
    if name not in known:
        hint = _checks.nearest(name, known)
        raise ValueError(f"{where}{': ' if where else ''}{problem} {name!r}; {hint}")
