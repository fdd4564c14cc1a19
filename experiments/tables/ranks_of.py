"""Ranks of the methods of tables, and the shares of first places: table 1 of the REX paper."""

import numpy as np

from experiments.common import markdown
from experiments.tables import stats
from experiments.tables.cells import Results, cells

__all__ = ["ranks", "report"]

# Table 1 of the paper, over its 28 experiments: Top-1 and Top-3 in %.
PAPER = {"Linear Schedule": (11, 70), "Cosine Schedule": (6, 64), "REX": (70, 92)}
LOW = ("1%", "5%", "10%")


def ranks(results: Results) -> dict[str, dict[tuple[str, str], int]]:
    """Ranks the methods of a table in each setting.

    Args:
      results: The content of the table's JSON file.

    Returns:
      ``{what is ranked: {(method, setting): rank from 1}}``. Methods with equal means share the
      better rank; those of which no run finished come last.
    """
    table = results["table"]
    kinds = {table["metric"]: table["direction"] == "max"}
    kinds |= {heading: "accuracy" in name for heading, name in table["also"].items()}
    found: dict[str, dict[tuple[str, str], int]] = {kind: {} for kind in kinds}
    all_cells = cells(results)
    for column in table["columns"]:
        here = [c for c in all_cells if c.column == column]
        for kind, larger in kinds.items():
            values = []
            for c in here:
                summary = c.summary if kind == table["metric"] else c.also[kind]
                value = summary.mean if summary.n else np.nan
                values.append(-value if larger else value)
            order = np.where(np.isnan(values), np.inf, values)
            for c, value in zip(here, order, strict=True):
                found[kind][c.row, column] = 1 + int((order < value).sum())
    return found


def report(all_results: list[Results], low: tuple[str, ...] = LOW) -> str:
    """Returns the Markdown of Top-1 and Top-3 shares, low and high budgets apart.

    Args:
      all_results: The contents of the tables' JSON files; each setting is an experiment.
      low: The settings that count as low budgets.
    """
    merged: dict[str, list[tuple[str, str, int]]] = {}
    for results in all_results:
        for kind, places in ranks(results).items():
            merged.setdefault(kind, []).extend((row, c, r) for (row, c), r in places.items())
    names = [r["table"]["name"] for r in all_results]
    command = f"python -m experiments.ranks {' '.join(names)}"
    lines = [
        "# How often each schedule is best",
        "",
        f"Tables: {', '.join(names)}",
        f"(`{command}`).",
        "",
    ]
    for kind, entries in merged.items():
        methods = list(dict.fromkeys(row for row, _, _ in entries))
        columns = len(entries) // len(methods)
        lines += [f"## By {kind} ({columns} experiments)", ""]
        head = ["", "Top-1 low", "Top-3 low", "Top-1 high", "Top-3 high", "Top-1", "Top-3"]
        head += ["mean rank", "paper Top-1, Top-3"]
        rows = []
        for method in methods:
            own = [(c in low, r) for row, c, r in entries if row == method]
            parts = [[r for is_low, r in own if is_low], [r for is_low, r in own if not is_low]]
            shares = [_share(part, k) for part in (*parts, [r for _, r in own]) for k in (1, 3)]
            paper = "{} %, {} %".format(*PAPER[method]) if method in PAPER else ""
            mean = np.mean([r for _, r in own])
            rows.append([method, *shares, f"{mean:.2f}", paper])
        lines += [*markdown.table(head, rows, "l" + "r" * 8), ""]
        lines += _apart(entries, methods)
    lines.append(
        f"Low budgets: {', '.join(low)}. Methods with equal means share a rank. The paper's shares "
        "are over its own 28 experiments (RN20, RN50, WRN, VGG, VAE, YOLO, BERT)."
    )
    return "\n".join(lines) + "\n"


def _apart(entries: list[tuple[str, str, int]], methods: list[str]) -> list[str]:
    """How far apart mean ranks must be; experiments on one data set are not independent."""
    places = [[r for row, _, r in entries if row == method] for method in methods]
    if len(methods) < 3 or len(places[0]) < 2:
        return []
    test = stats.friedman(np.transpose(places))
    p = "< 0.001" if test.p < 0.001 else f"{test.p:.3f}"
    return [
        f"Friedman's test: p {p}. Two methods differ at the 5 % level if their mean ranks are more"
        f" than {test.critical_difference:.2f} apart (Nemenyi's critical difference).",
        "",
    ]


def _share(places: list[int], k: int) -> str:
    return f"{100 * np.mean([r <= k for r in places]):.0f} %" if places else "–"
