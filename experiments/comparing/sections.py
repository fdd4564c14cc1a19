"""Sections of the page of a comparison that need no score: best values, variants, oracles."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.common import markdown as md

__all__ = ["best_values", "on_variants", "oracles", "values"]


def values(content: Mapping[str, Any]) -> np.ndarray:
    """Returns the best value of each method on each workload.

    Args:
      content: Of the JSON file.

    Returns:
      Shape (methods, workloads): the median over the studies of the best evaluation of all trials.
    """
    rows, columns = list(content["methods"]), list(content["workloads"])
    found = np.full((len(rows), len(columns), 1 + max(r["study"] for r in content["runs"])), np.inf)
    for r in content["runs"]:
        place = rows.index(r["method"]), columns.index(r["workload"]), r["study"]
        found[place] = min(found[place], r["final"].get("best", np.inf))
    return np.median(found, -1)


def best_values(content: Mapping[str, Any], order: np.ndarray) -> list[str]:
    """The section on how near to the targets each method came."""
    rows, columns = list(content["methods"]), list(content["workloads"])
    found = values(content)
    target = np.array([content["targets"][c]["target"] for c in columns])
    over = np.median(found / target, 1)
    table = [
        [
            rows[m],
            *(
                f"**{v:.4g}**" if v == found[:, w].min() else f"{v:.4g}"
                for w, v in enumerate(found[m])
            ),
            f"{over[m]:.2f}",
        ]
        for m in order
    ]
    table.append(["target", *(f"{t:.4g}" for t in target), "1"])
    return [
        "## The best value within the budget",
        "",
        *md.table(["", *columns, "over the target"], table, "l" + "r" * (len(columns) + 1)),
        "",
        "Median over studies of the best evaluation of all settings; smaller is better. Over the"
        " target: the median over the workloads of these values as multiples of the targets, which"
        " were tuned with 20 settings: a little above 1 is a near miss.",
    ]


def on_variants(content: Mapping[str, Any], order: np.ndarray) -> list[str]:
    """The section on the best settings of a workload on a changed one."""
    rows, variants = list(content["methods"]), content["variants"]
    if not variants:
        return []
    found = {name: _worsening(content, name) for name in variants}
    table = [[rows[m], *(f"{found[name][m]:.2f}" for name in variants)] for m in order]
    return [
        "## The same settings on a changed problem",
        "",
        *md.table(["", *variants], table, "l" + "r" * len(variants)),
        "",
        "The best setting of each study, trained again on a variant with the same seed: its best"
        " value there as a multiple of that on the workload, median over studies. "
        + " ".join(f"{name}: {v['about']}" for name, v in variants.items()),
        "",
    ]


def _worsening(content, variant) -> list[float]:
    """The value on a variant over that of the same setting on its workload, by method."""
    of = content["variants"][variant]["of"]
    here = {
        (r["method"], r["study"], r["trial"]): r["final"].get("best", math.inf)
        for r in content["runs"]
        if r["workload"] == of
    }
    ratios: dict[str, list[float]] = {name: [] for name in content["methods"]}
    for r in content["variants"][variant]["runs"]:
        before = here[r["method"], r["study"], r["trial"]]
        ratios[r["method"]].append(r["final"].get("best", math.inf) / before)
    return [float(np.median(several)) for several in ratios.values()]


def oracles(content: Mapping[str, Any]) -> list[str]:
    """The section on what other kinds of evaluations would cost."""
    kinds = ("gradient", "JVP", "HVP")
    costs = content["oracles"]
    table = [[name, *(f"{costs[name][kind]:.1f}" for kind in kinds)] for name in costs]
    middle = [f"{np.median([cost[kind] for cost in costs.values()]):.1f}" for kind in kinds]
    return [
        "## What an evaluation costs",
        "",
        *md.table(["in forward passes", *kinds], [*table, ["median", *middle]], "lrrr"),
        "",
        "Measured in turns. By the usual count a gradient is 3 forward passes, a Jacobian-vector"
        " product 2 and a Hessian-vector product 6.",
        "",
    ]
