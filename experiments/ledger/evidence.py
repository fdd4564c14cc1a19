"""Reads the numbers of claims out of files of results: nothing is run, nothing is typed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.ledger import derived
from experiments.tables import cells, stats

__all__ = ["Evidence"]


class Evidence:
    """The files of results in some folders; each is read once.

    Args:
      folders: Where ``NAME.json`` is looked for, the first first.
    """

    def __init__(self, *folders: Path):
        self.folders = folders
        self._files: dict[str, Any] = {}
        self._cells: dict[str, list[cells.Cell]] = {}

    def path(self, name: str) -> Path | None:
        """The file of that name, or ``None``."""
        paths = (folder / f"{name}.json" for folder in self.folders)
        return next((p for p in paths if p.is_file()), None)

    def file(self, name: str) -> Any:
        """The content of a file.

        Raises:
          ValueError: If there is none in any folder, or it is no JSON.
        """
        if name not in self._files:
            path = self.path(name)
            if path is None:
                raise ValueError(f"there is no {name}.json in {', '.join(map(str, self.folders))}")
            try:
                self._files[name] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{path} is no JSON: {error}") from error
        return self._files[name]

    def read(self, how: Mapping[str, Any]) -> list[float]:
        """The values of a number, one for each seed, or a single exact one.

        Args:
          how: One of

            - ``file, row, column, [minus | over]``: the reported metric of a cell of a table, by
              seed; less that of another row with the same seeds, or divided by it. ``also=`` takes
              one of the table's further numbers (its mean, exact) in place of the metric.
            - ``file, path, [minus | over]``: what lies in a JSON file under these keys; ``minus``
              and ``over`` are paths too.
            - ``study, metric, [where, minus | over, select, best]``: a number of a study by seed,
              of the units with the settings ``where``. Of several the best by the mean of
              ``select`` is taken, the largest or, with ``best="min"``, the smallest; ``minus`` and
              ``over`` are settings of other units, chosen in the same way.
            - ``file, function, [...]``: a function of :mod:`experiments.ledger.derived` of one or
              several files.

        Raises:
          ValueError: If the file, or what is looked for in it, is missing.
        """
        how = dict(how)
        try:
            if "function" in how:
                return self._derived(**how)
            minus, over = how.pop("minus", None), how.pop("over", None)
            if "study" in how:
                one, key = self._study, "where"
            elif "row" in how:
                one, key = self._table, "row"
            else:
                one, key = self._json, "path"
            values = one(**how)
            if minus is not None:
                return [a - b for a, b in _pairs(values, one(**{**how, key: minus}))]
            if over is not None:
                return [a / b for a, b in _pairs(values, one(**{**how, key: over}))]
            return values
        except (KeyError, IndexError, TypeError, StopIteration) as error:
            raise ValueError(f"{how}: {type(error).__name__}: {error}") from error

    def cost(self, name: str) -> float | None:
        """Seconds that a file's runs took, as measured; ``None`` where nobody did.

        Studies give seconds of the processor, tables those of the clock, summed over their runs.
        """
        content = self.file(name)
        if name.startswith("claims/"):
            return float(content["core_seconds"])
        if "table" in content:
            return float(sum(run["seconds"] for run in content["runs"]))
        if name == "logreg/results":
            return float(sum(entry["seconds"] for entry in content.values()))
        return content.get("core_seconds") if isinstance(content, dict) else None

    def _table_of(self, file: str) -> list[cells.Cell]:
        if file not in self._cells:
            self._cells[file] = cells.cells(self.file(file))
        return self._cells[file]

    def _table(self, file, row, column="", also="") -> list[float]:
        cell = next(c for c in self._table_of(file) if (c.row, c.column) == (row, column))
        return [cell.also[also].mean] if also else list(cell.values.values())

    def _json(self, file, path) -> list[float]:
        found = self.file(file)
        for key in path:
            found = found[key]
        return [float(v) for v in (found if isinstance(found, list) else [found])]

    def _study(self, study, metric, where=None, select="", best="max") -> list[float]:
        units = [
            unit
            for unit in self.file(f"claims/{study}")["units"]
            if all(unit["settings"][k] == v for k, v in (where or {}).items())
        ]
        if not units:
            raise ValueError(f"study {study}: no unit has {where}")
        if len(units) > 1 and not select:
            raise ValueError(f"study {study}: {len(units)} units have {where}; give select=")
        trials = [[row[select] for row in u["rows"]] for u in units] if select else [[0.0]]
        chosen = units[stats.choose(trials, best).index if select else 0]
        return [float(row[metric]) for row in chosen["rows"]]

    def _derived(self, file, function, **options) -> list[float]:
        names = [file] if isinstance(file, str) else list(file)
        tables = {name for name in names if "table" in self.file(name)}
        contents = (self._table_of(n) if n in tables else self.file(n) for n in names)
        found = getattr(derived, function)(*contents, **options)
        return [float(v) for v in (found if isinstance(found, Sequence) else [found])]


def _pairs(values: list[float], others: list[float]) -> list[tuple[float, float]]:
    if len(values) != len(others):
        raise ValueError(f"paired values differ in number: {len(values)} and {len(others)}")
    return list(zip(values, others, strict=True))
