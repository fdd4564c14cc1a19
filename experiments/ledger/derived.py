"""Numbers that a claim needs and no file of results holds as they are.

A function gets the content of each file; of a table its cells.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from experiments.tables import stats
from experiments.tables.cells import Cell

__all__ = [
    "at_step",
    "chosen_ratio",
    "over_experiments",
    "over_sets",
    "ranking_agreement",
    "share_below",
    "share_significant",
    "top_share",
]

# Separable sets of the logistic regressions, whose loss goes to zero: the report leaves them out.
SEPARABLE = ("wine.scale", "dna.scale")


def chosen_ratio(table: list[Cell], key: str, row: str, over: str, column: str = "") -> float:
    """A tuned hyperparameter of one method divided by that of another."""
    chosen = {c.row: c.chosen for c in table if c.column == column}
    return chosen[row][key] / chosen[over][key]


def over_experiments(
    *tables: list[Cell], row: str, minus: str, columns: Sequence[str] = ()
) -> list[float]:
    """Differences of two methods' means, one for each setting of each table."""
    found = []
    for table in tables:
        means = {(c.row, c.column): c.summary.mean for c in table}
        for column in columns or dict.fromkeys(c.column for c in table):
            found.append(means[row, column] - means[minus, column])
    return found


def top_share(*tables: list[Cell], row: str, k: int, columns: Sequence[str] = ()) -> float:
    """The share of settings in which a method is among the best ``k`` by a large metric."""
    places = []
    for table in tables:
        for column in columns or dict.fromkeys(c.column for c in table):
            means = {c.row: c.summary.mean for c in table if c.column == column}
            places.append(1 + sum(mean > means[row] for mean in means.values()))
    return float(np.mean([place <= k for place in places]))


def share_significant(*tables: list[Cell], correction: str, less: str = "") -> float:
    """The share of all paired comparisons of tables with p < 0.05.

    Args:
      *tables: Their cells.
      correction: ``"none"``, ``"table"`` (Holm within each) or ``"all"`` (Holm over all).
      less: Another correction, whose share is taken off.
    """
    if less:
        return share_significant(*tables, correction=correction) - share_significant(
            *tables, correction=less
        )
    by_table = [[c.difference.p for c in table if c.difference] for table in tables]
    by_table = [[p for p in ps if not math.isnan(p)] for ps in by_table]
    everything = [p for ps in by_table for p in ps]
    if correction == "table":
        corrected = [p for ps in by_table for p in stats.holm(ps)]
    else:
        corrected = stats.holm(everything) if correction == "all" else everything
    return float(np.mean([p < 0.05 for p in corrected]))


def over_sets(results: Mapping[str, Any], optimizer: str, schedule: str, minus: str) -> list[float]:
    """Relative differences of two schedules' mean losses, one for each logistic regression."""
    found = []
    for key, entry in results.items():
        name, its_optimizer = key.split("|")
        if its_optimizer == optimizer and name not in SEPARABLE:
            loss = {s: v["loss_mean"] for s, v in entry["schedules"].items()}
            found.append(loss[schedule] / loss[minus] - 1)
    return found


def at_step(results: Mapping[str, Any], method: str, of: str, step: int) -> list[float]:
    """An accuracy of the runs on modular addition at a step, one for each seed."""
    index = step // results["every"] - 1
    return [run[of][index] for run in results["runs"][method]]


def share_below(results: Mapping[str, Any], path: Sequence[str], bound: float) -> float:
    """The share of the numbers under these keys that are below a bound."""
    found: Any = results
    for key in path:
        found = found[key]
    return float(np.mean([v < bound for v in found]))


def ranking_agreement(
    results: Mapping[str, Any], settings: Sequence[int], studies: Sequence[int] = (0, 0)
) -> float:
    """Spearman's correlation of two rankings of the tuned methods of the comparison.

    A ranking is the mean over the workloads of the rank of a method's best value, over the first
    so many settings of a study. Methods with fewer settings than asked for are left out.

    Args:
      results: ``compare.json``.
      settings: How many settings each of the two rankings may try.
      studies: The studies that they take.
    """
    best: dict[tuple[int, int], dict[tuple[str, str], float]] = {}
    counts: dict[str, set[int]] = {}
    for run in results["runs"]:
        counts.setdefault(run["method"], set()).add(run["trial"])
        for tried, study in zip(settings, studies, strict=True):
            if run["study"] == study and run["trial"] < tried:
                seen = best.setdefault((tried, study), {})
                value = math.inf if run["final"]["diverged"] else run["final"]["best"]
                key = (run["workload"], run["method"])
                seen[key] = min(value, seen.get(key, math.inf))
    methods = [m for m, trials in counts.items() if len(trials) >= max(settings)]
    workloads = sorted({run["workload"] for run in results["runs"]})
    rankings = []
    for seen in (best[key] for key in zip(settings, studies, strict=True)):
        values = np.array([[seen[w, m] for m in methods] for w in workloads])
        rankings.append(scipy.stats.rankdata(values, axis=1).mean(0))
    return float(scipy.stats.spearmanr(*rankings).statistic)
