"""The cells of a table: hyperparameters chosen, statistics of one method in one setting."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.tables import stats

__all__ = ["Cell", "Results", "cells", "chosen_point", "number", "print_of"]

Results = Mapping[str, Any]


class Cell(NamedTuple):
    """What a table says about one method in one setting.

    Attributes:
      row: Label of the method.
      column: Label of the setting.
      chosen: The hyperparameters with the best mean of the choosing metric.
      edge: Those of them that lie at the edge of the grid, ``{key: "lowest" | "highest"}``.
      trials: Number of points of the grid.
      values: The reported metric of the chosen point, by seed; runs that finished only.
      summary: Of ``values``.
      difference: To the baseline, seed by seed; ``None`` for the baseline itself.
      p: Of the difference, corrected for all comparisons of the table (Holm); NaN without one.
      also: Summaries of the table's further numbers, by heading.
      diverged: Runs of the cell that diverged, tuning included.
      failed: Runs that failed.
      runs: All runs of the cell.
    """

    row: str
    column: str
    chosen: dict[str, Any]
    edge: dict[str, str]
    trials: int
    values: dict[int, float]
    summary: stats.Summary
    difference: stats.Paired | None
    p: float
    also: dict[str, stats.Summary]
    diverged: int
    failed: int
    runs: int


def cells(results: Results) -> list[Cell]:
    """Chooses hyperparameters and computes the statistics of every cell, in the table's order.

    Args:
      results: The content of a table's JSON file.

    Returns:
      One cell for each row and column.
    """
    table = results["table"]
    found: dict[tuple[str, str], Cell] = {}
    baseline_first = sorted(table["rows"], key=lambda row: row != table["baseline"])
    for row in baseline_first:
        for column in table["columns"]:
            runs = [r for r in results["runs"] if (r["row"], r["column"]) == (row, column)]
            baseline = found.get((table["baseline"], column))
            found[row, column] = _cell(table, row, column, runs, baseline)
    in_order = [found[row, column] for row in table["rows"] for column in table["columns"]]
    corrected = stats.holm([c.difference.p if c.difference else math.nan for c in in_order])
    return [c._replace(p=p) for c, p in zip(in_order, corrected, strict=True)]


def chosen_point(table: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the hyperparameters of a cell: best mean of ``select`` over the tuning seeds."""
    tuning = table["tune_seeds"] or table["seeds"]
    points = _points(runs)
    trials = [
        [number(r, table["select"]) for r in runs if r["point"] == p and r["seed"] in tuning]
        for p in points
    ]
    return points[stats.choose(trials, table["direction"]).index]


def print_of(results: Results) -> str:
    """Returns the fingerprint of a table's numbers: eight hex digits over every run.

    Sentences about a table hold for the runs they were written about. The fingerprint tells whether
    these are the same: every run's place, hyperparameters, seed, status and the numbers that the
    table reads, to four digits.
    """
    table = results["table"]
    names = [table["metric"], table["select"], *table["also"].values()]
    lines = []
    for r in results["runs"]:
        numbers = [number(r, name) for name in names]
        place = [r["row"], r["column"], r["point"], r["seed"], r["status"]]
        lines.append(json.dumps([place, [None if x is None else f"{x:.4g}" for x in numbers]]))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:8]


def _cell(table, row, column, runs, baseline) -> Cell:
    points = _points(runs)
    chosen = chosen_point(table, runs)
    reported = [r for r in runs if r["point"] == chosen and r["seed"] in table["seeds"]]
    values = {r["seed"]: number(r, table["metric"]) for r in reported}
    values = {seed: v for seed, v in sorted(values.items()) if v is not None}
    difference = None
    if baseline is not None:
        both = [s for s in values if s in baseline.values]
        difference = stats.paired([values[s] for s in both], [baseline.values[s] for s in both])
    also = {}
    for heading, name in table["also"].items():
        numbers = [number(r, name) for r in reported]
        also[heading] = stats.summarize([v for v in numbers if v is not None])
    status = [r["status"] for r in runs]
    return Cell(
        row=row,
        column=column,
        chosen=chosen,
        edge=stats.at_edge(chosen, points),
        trials=len(points),
        values=values,
        summary=stats.summarize(list(values.values())),
        difference=difference,
        p=math.nan,  # Known once all cells are.
        also=also,
        diverged=status.count("diverged"),
        failed=status.count("failed"),
        runs=len(runs),
    )


def _points(runs) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = []
    for r in runs:
        if r["point"] not in points:
            points.append(r["point"])
    return points


def number(run: Mapping[str, Any], name: str) -> float | None:
    """Returns a metric of a finished run; ``None`` for one that diverged or failed.

    Raises:
      ValueError: If the run reports no such number; those that it reports are named.
    """
    if run["status"] != "done":
        return None
    if name == "seconds" and name not in run["final"]:
        return run["seconds"]
    if name not in run["final"]:
        raise ValueError(f"runs report no {name!r}; there are: {', '.join(sorted(run['final']))}")
    return run["final"][name]
