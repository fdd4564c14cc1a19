"""The picture of a table: one panel for each of its ``plots``."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.common import figures
from experiments.tables import stats
from experiments.tables.cells import cells, number

__all__ = ["png"]

# More bands than this hide each other and the lines.
READABLE_BANDS = 4


def png(results: Mapping[str, Any]) -> bytes:
    """Draws the panels of a table beside each other.

    Args:
      results: The content of the table's JSON file.

    Returns:
      The content of the picture's file.
    """
    table, found = results["table"], cells(results)
    figure, axes = figures.figure(len(table["plots"]), width=4.8, height=3.9, title=table["title"])
    for axis, panel in zip(axes, table["plots"], strict=True):
        _PANELS[panel](axis, table, found, results["runs"])
        _fit_labels(axis)
    figures.legend(figure, axes[0])  # A method looks the same in each panel.
    return figures.content(figure)


def _fit_labels(axis):
    """Turns names below an axis that would run into each other."""
    names = [label.get_text() for label in axis.get_xticklabels()]
    if axis.get_xscale() == "linear" and sum(map(len, names)) > 45:
        axis.set_xticks(axis.get_xticks(), names, rotation=30, ha="right")


def _scale(table) -> float:
    return 100 if table["unit"] == "%" else 1


def _name(table, metric) -> str:
    unit = f" ({table['unit']})" if table["unit"] else ""
    return metric.replace("/", " ").replace("_", " ") + unit


def _decides(
    values: Iterable[Sequence[float]], direction: str, more: float = 0.0, least: float = 0.0
) -> tuple[float, float] | None:
    """Where an axis should end so that the better half of each group of values can be told apart.

    Args:
      values: Groups of finite numbers, such as the methods' means in each setting.
      direction: Which are better, ``"max"`` or ``"min"``.
      more: Reach beyond the median, in distances from the best value to the median of its group.
      least: What counts as such a distance at least.

    Returns:
      ``(low, high)`` with a margin, or ``None`` where all values are equal.
    """
    sign = 1 if direction == "max" else -1
    groups = [sign * np.asarray(group, float) for group in values if len(group)]
    if not groups:
        return None
    best = max(group.max() for group in groups)
    cut = min(np.median(g) - more * max(g.max() - np.median(g), least) for g in groups)
    cut = max(cut, min(group.min() for group in groups))
    margin = 0.12 * (best - cut)
    low, high = sorted((sign * (cut - margin), sign * (best + margin)))
    return (float(low), float(high)) if margin > 0 else None


def _limit(axis, limits, scale, top=None) -> None:
    if limits is not None:
        low, high = scale * np.array(limits)
        axis.set_ylim(low, high if top is None else min(high, top))


def _in_percent(table) -> float | None:
    """The highest value that an axis of percentages needs."""
    return 100.5 if table["unit"] == "%" else None


def _means(table, found) -> list[list[float]]:
    """The methods' means in each setting."""
    columns = [[c.summary for c in found if c.column == column] for column in table["columns"]]
    return [[s.mean for s in column if s.n] for column in columns]


def _points(axis, table, found, runs):
    """Every seed as a dot, the mean with its 95 % interval, the paper's number as a star."""
    looks, columns = figures.looks(table["rows"]), list(table["columns"])
    rows, scale = list(table["rows"]), _scale(table)
    width, starred, shown = 0.8 / len(rows), False, []
    # A method that fails must not press the others together.
    reach = [c.summary.high - c.summary.mean for c in found if c.summary.n > 1]
    least = float(np.median(reach)) if reach else 0.0
    limits = _decides(_means(table, found), table["direction"], more=8.0, least=least)
    for cell in found:
        if not cell.summary.n:
            continue
        look = looks[cell.row]
        x = columns.index(cell.column) + (rows.index(cell.row) + 0.5) * width - 0.4
        y = scale * np.array(list(cell.values.values()))
        mean = scale * cell.summary.mean
        label = cell.row if cell.column == columns[0] else None
        style: Any = {"fmt": look.marker, "color": look.color, "capsize": 4, "markersize": 7}
        style["label"] = label
        if limits is not None and not limits[0] <= cell.summary.mean <= limits[1]:
            axis.errorbar([], [], [], **style)  # For the legend.
            _outside(axis, x, f"{cell.row}: {mean:.{table['digits']}f}", look, table["direction"])
            continue
        if y.size > 1:
            x_of = x + np.linspace(-0.25, 0.25, y.size) * width
            axis.plot(x_of, y, ".", color=look.color, alpha=0.6, markersize=7)
        half = scale * (cell.summary.high - cell.summary.mean) if y.size > 1 else 0.0
        axis.errorbar(x, mean, half or None, **style)
        shown += [*y, mean - half, mean + half]
        paper = _leading(table["paper"].get(cell.row, {}).get(cell.column))
        if paper is not None:
            label = None if starred else "paper"
            axis.plot(x, paper, "k*", markersize=10, label=label)
            starred, shown = True, [*shown, paper]
    if len(columns) > 1:
        axis.set_xticks(range(len(columns)), columns)
        axis.set_xlabel(table.get("setting", ""))
    else:
        axis.set_xticks((np.arange(len(rows)) + 0.5) * width - 0.4, rows)
    if shown:
        margin = 0.05 * (max(shown) - min(shown)) or 1.0
        axis.set_ylim(min(shown) - margin, max(shown) + margin)
    axis.set_xlim(-0.5, len(columns) - 0.5)
    axis.set_ylabel(_name(table, table["metric"]))
    several = any(c.summary.n > 1 for c in found)
    _title(axis, "seeds (dots), mean and 95 % interval" if several else "one run each")


def _title(axis, text: str) -> None:
    axis.set_title(text, fontsize=10)


def _outside(axis, x, text, look, direction) -> None:
    """Names a method beyond the end of the axis, at that end."""
    high = direction == "min"
    axis.annotate(
        f"{text}, outside",
        (x, int(high)),
        xycoords=("data", "axes fraction"),
        xytext=(0, -5 if high else 5),
        textcoords="offset points",
        rotation=90,
        ha="center",
        va="top" if high else "bottom",
        fontsize=7,
        color=look.color,
    )


def _leading(value: Any) -> float | None:
    """The number that a value is, or that a text such as "72.06 ± 0.46" begins with."""
    match = re.match(r"-?\d+(\.\d+)?", str(value))
    return float(match[0]) if match else None


def _columns(axis, table, found, runs):
    """The mean over the settings, one line for each method, with its interval if there are few."""
    scale, columns = _scale(table), list(table["columns"])
    banded = max((c.summary.n for c in found), default=0) > 1
    banded = banded and len(table["rows"]) <= READABLE_BANDS
    for row, look in figures.looks(table["rows"]).items():
        mine = [c for c in found if c.row == row and c.summary.n]
        x = [columns.index(c.column) for c in mine]
        _line(axis, x, [c.summary for c in mine], scale, look, row, banded)
    axis.set_xticks(range(len(columns)), columns)
    axis.set_xlabel(table.get("setting", ""))
    axis.set_ylabel(_name(table, table["metric"]))
    _title(axis, "mean and 95 % interval" if banded else "mean")


def _line(axis, x, summaries, scale, look, label, banded, marker=True) -> None:
    mean = scale * np.array([s.mean for s in summaries])
    style = look._asdict() if marker else look._asdict() | {"marker": None}
    axis.plot(x, mean, label=label, **style)
    if banded:
        low = [scale * (s.mean if s.n < 2 else s.low) for s in summaries]
        high = [scale * (s.mean if s.n < 2 else s.high) for s in summaries]
        axis.fill_between(x, low, high, color=look.color, alpha=0.15, linewidth=0)


def _zoom(axis, table, found, runs):
    """The same, cut to the better half of the methods in every setting."""
    _columns(axis, table, found, runs)
    _limit(axis, _decides(_means(table, found), table["direction"]), _scale(table))
    _title(axis, f"the better half: {axis.get_title()}")


def _difference(axis, table, found, runs):
    """The mean difference to the baseline over the same seeds, in each setting."""
    looks, scale, columns = figures.looks(table["rows"]), _scale(table), list(table["columns"])
    others = [row for row in table["rows"] if row != table["baseline"]]
    width = 0.8 / len(others)
    compared = [c for c in found if c.difference is not None and c.difference.n]
    sizes = [abs(c.difference.mean) for c in compared]
    # Where a few are ten times the rest, these stand hollow at the border.
    limit = 1.1 * min(max(sizes), 5 * float(np.median(sizes)) or np.inf) if sizes else 0.0
    for cell in compared:
        look, mean = looks[cell.row], cell.difference.mean
        x = columns.index(cell.column) + (others.index(cell.row) + 0.5) * width - 0.4
        inside = abs(mean) <= limit
        y = scale * np.clip(mean, -0.97 * limit, 0.97 * limit)
        fill = look.color if inside else "none"
        axis.plot(x, y, look.marker, color=look.color, markerfacecolor=fill, markersize=6)
    for border in np.arange(1, len(columns)) - 0.5:
        axis.axvline(border, color="black", alpha=0.15, linewidth=0.8)
    axis.grid(visible=False, axis="x")
    axis.axhline(0, color="black", linewidth=1)
    if limit:
        axis.set_ylim(-scale * limit, scale * limit)
    axis.set_xlim(-0.5, len(columns) - 0.5)
    axis.set_xticks(range(len(columns)), columns)
    axis.set_xlabel(table.get("setting", ""))
    unit = {"%": " (points)", "": ""}.get(table["unit"], f" ({table['unit']})")
    axis.set_ylabel(f"difference of {_name(table | {'unit': ''}, table['metric'])}{unit}")
    hollow = " (hollow: outside)" if sizes and max(sizes) > limit else ""
    _title(axis, f"mean minus {table['baseline']}{hollow}")


def _grid(axis, table, found, runs):
    """Best of the other hyperparameters at each value of the first; the chosen one is ringed."""
    scale, tuning = _scale(table), table["tune_seeds"] or table["seeds"]
    column, key = next(iter(table["columns"])), next(iter(runs[0]["point"]))
    banded = len(tuning) > 1 and len(table["rows"]) <= READABLE_BANDS
    means = []
    for row, look in figures.looks(table["rows"]).items():
        at: dict[float, dict[str, list]] = {}
        for r in runs:
            if (r["row"], r["column"]) == (row, column) and r["seed"] in tuning:
                trial = at.setdefault(r["point"][key], {}).setdefault(str(r["point"]), [])
                trial.append(number(r, table["select"]))
        best = {x: list(t.values()) for x, t in sorted(at.items())}
        best = {x: t[stats.choose(t, table["direction"]).index] for x, t in best.items()}
        best = {x: [v for v in values if v is not None] for x, values in best.items()}
        known = {x: stats.summarize(values) for x, values in best.items() if values}
        _line(axis, list(known), list(known.values()), scale, look, row, banded)
        means.append([s.mean for s in known.values()])
        for cell in found:
            if (cell.row, cell.column) == (row, column) and cell.chosen[key] in known:
                x = cell.chosen[key]
                y = scale * known[x].mean
                axis.plot(x, y, "o", color=look.color, markersize=14, fillstyle="none")
    _limit(axis, _decides(means, table["direction"]), scale, _in_percent(table))
    values = sorted({r["point"][key] for r in runs})
    if values[0] > 0 and values[-1] / values[0] > 5:
        axis.set_xscale("log")
    axis.set_xlabel(key.rsplit(".", 1)[-1].replace("_", " "))
    axis.set_ylabel(_name(table, table["select"]))
    where = f" in {column}" if len(table["columns"]) > 1 else ""
    spread = ("mean and 95 % interval" if banded else "mean") if len(tuning) > 1 else "one seed"
    _title(axis, f"tuning{where}, the better half: {spread}; chosen ringed")


def _history(axis, table, found, runs):
    """The reported runs of the first setting over their steps: mean and interval over seeds."""
    x_name, y_name = table["history"]
    column = next(iter(table["columns"]))
    banded, late = False, []
    for row, look in figures.looks(table["rows"]).items():
        mine = [r for r in runs if (r["row"], r["column"]) == (row, column)]
        curves = [r["history"] for r in mine if r["status"] == "done" and r.get("history")]
        if not curves:
            continue
        n = min(len(c) for c in curves)
        x = [point[0] for point in curves[0][:n]]
        at = [stats.summarize([c[i][1] for c in curves]) for i in range(n)]
        here = len(curves) > 1 and len(table["rows"]) <= READABLE_BANDS
        _line(axis, x, at, 1, look, row, here, marker=False)
        banded |= here
        late.append([s.mean for s in at[n // 5 :]])
    if late:  # The first steps, where all fall from one height, do not set the scale.
        low, high = min(map(min, late)), max(map(max, late))
        axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axis.set_xlabel(f"{x_name} (updates of the parameters)" if x_name == "step" else x_name)
    same_unit = table["metric"].rpartition("/")[2] == y_name.rpartition("/")[2]
    axis.set_ylabel(_name(table if same_unit else table | {"unit": ""}, y_name))
    _title(axis, "reported runs: mean" + " and 95 % interval" * banded)


_PANELS = {
    "points": _points,
    "columns": _columns,
    "zoom": _zoom,
    "difference": _difference,
    "grid": _grid,
    "history": _history,
}
