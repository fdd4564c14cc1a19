"""The picture of a table: one panel for each of its ``plots``."""

import io
import itertools
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.common.figures import COLORS, LINES, MARKERS
from experiments.tables import render, stats

__all__ = ["png"]


def png(results: Mapping[str, Any]) -> bytes:
    """Draws the panels side by side and returns the file's content."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table, cells = results["table"], render.cells(results)
    style = {"font.size": 10, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}
    style |= {"axes.spines.top": False, "axes.spines.right": False}
    with rc_context(style):
        figure = Figure(figsize=(1 + 4.6 * len(table["plots"]), 3.9), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(table["plots"]), squeeze=False)[0]
        for axis, panel in zip(axes, table["plots"], strict=True):
            _PANELS[panel](axis, table, cells, results["runs"])
        title = textwrap.fill(table["title"], int(11 * figure.get_figwidth()))
        figure.suptitle(title, fontsize=11)
        for axis in axes:
            _fit_labels(axis)
        # One legend serves all panels: a method looks the same in each.
        handles, labels = axes[0].get_legend_handles_labels()
        if len(labels) > 1:
            fit = int(figure.get_figwidth() / (0.55 + 0.085 * max(map(len, labels))))
            ncols = min(len(labels), max(fit, 1))
            figure.legend(handles, labels, loc="outside lower center", ncols=ncols)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=150, metadata={"Software": None})
    return out.getvalue()


def _fit_labels(axis):
    """Turns names below an axis that would run into each other."""
    names = [label.get_text() for label in axis.get_xticklabels()]
    if axis.get_xscale() == "linear" and sum(map(len, names)) > 45:
        axis.set_xticks(axis.get_xticks(), names, rotation=30, ha="right")


def _looks(table):
    looks = zip(itertools.cycle(COLORS), itertools.cycle(MARKERS), itertools.cycle(LINES))
    return dict(zip(table["rows"], looks, strict=False))


def _scale(table):
    return 100 if table["unit"] == "%" else 1


def _name(table, metric):
    unit = f" ({table['unit']})" if table["unit"] else ""
    return metric.replace("/", " ").replace("_", " ") + unit


def _points(axis, table, cells, runs):
    """Every seed as a dot, the mean with its 95 % interval, the paper's number as a star."""
    looks, columns = _looks(table), list(table["columns"])
    rows, scale = list(table["rows"]), _scale(table)
    width, starred = 0.8 / len(rows), []
    for cell in cells:
        if not cell.summary.n:
            continue
        color, marker, _ = looks[cell.row]
        x = columns.index(cell.column) + (rows.index(cell.row) + 0.5) * width - 0.4
        y = scale * np.array(list(cell.values.values()))
        spread = np.linspace(-0.25, 0.25, y.size) * width if y.size > 1 else [0]
        axis.plot(x + np.array(spread), y, ".", color=color, alpha=0.6, markersize=7)
        mean = scale * cell.summary.mean
        reach = [[0], [0]] if y.size < 2 else [[mean - scale * cell.summary.low]] * 2
        label = cell.row if cell.column == columns[0] else None
        axis.errorbar(x, mean, reach, fmt=marker, color=color, capsize=4, markersize=7, label=label)
        paper = table["paper"].get(cell.row, {}).get(cell.column)
        if isinstance(paper, int | float):
            label = None if starred else "paper"
            starred.append(axis.plot(x, paper, "k*", markersize=10, label=label))
    if len(columns) > 1:
        axis.set_xticks(range(len(columns)), columns)
    else:
        axis.set_xticks((np.arange(len(rows)) + 0.5) * width - 0.4, rows)
    axis.set_xlim(-0.5, len(columns) - 0.5)
    axis.set_ylabel(_name(table, table["metric"]))
    axis.set_title("seeds, mean, 95 % interval", fontsize=10)


def _columns(axis, table, cells, runs):
    """Mean and interval over the settings, one line for each method."""
    scale, columns = _scale(table), list(table["columns"])
    for row, (color, marker, line) in _looks(table).items():
        mine = [c for c in cells if c.row == row and c.summary.n]
        x = [columns.index(c.column) for c in mine]
        lows = [c.summary.mean if c.summary.n < 2 else c.summary.low for c in mine]
        highs = [c.summary.mean if c.summary.n < 2 else c.summary.high for c in mine]
        mean = scale * np.array([c.summary.mean for c in mine])
        axis.plot(x, mean, color=color, marker=marker, linestyle=line, label=row)
        band = scale * np.array(lows), scale * np.array(highs)
        axis.fill_between(x, *band, color=color, alpha=0.15, linewidth=0)
    axis.set_xticks(range(len(columns)), columns)
    axis.set_ylabel(_name(table, table["metric"]))
    axis.set_title("mean, 95 % interval", fontsize=10)


def _zoom(axis, table, cells, runs):
    """The same, cut to the better half of the methods in every setting."""
    _columns(axis, table, cells, runs)
    crowded = len(table["rows"]) > 5  # So many bands hide the lines where methods are near.
    for band in list(axis.collections) if crowded else ():
        band.remove()
    middle, ends = [], []
    for column in table["columns"]:
        means = [c.summary.mean for c in cells if c.column == column and c.summary.n]
        if means:
            middle.append(np.median(means))
            ends += [min(means), max(means)]
    if middle:
        up = table["direction"] == "max"
        cut, best = (min(middle), max(ends)) if up else (max(middle), min(ends))
        margin = 0.15 * (best - cut)
        limits = _scale(table) * np.array([cut - margin, best + margin])
        axis.set_ylim(*sorted(limits))
    axis.set_title("the better half", fontsize=10)


def _grid(axis, table, cells, runs):
    """Best of the other hyperparameters at each value of the first; the chosen one is ringed."""
    scale, tuning = _scale(table), table["tune_seeds"] or table["seeds"]
    column, key = next(iter(table["columns"])), next(iter(runs[0]["point"]))
    for row, (color, marker, line) in _looks(table).items():
        at: dict[float, dict[str, list]] = {}
        for r in runs:
            if (r["row"], r["column"]) == (row, column) and r["seed"] in tuning:
                trial = at.setdefault(r["point"][key], {}).setdefault(str(r["point"]), [])
                trial.append(r["final"][table["select"]] if r["status"] == "done" else None)
        best = {x: list(t.values()) for x, t in sorted(at.items())}
        best = {x: t[stats.choose(t, table["direction"]).index] for x, t in best.items()}
        best = {x: [v for v in values if v is not None] for x, values in best.items()}
        known = {x: stats.summarize(values) for x, values in best.items() if values}
        mean = {x: scale * s.mean for x, s in known.items()}
        axis.plot(
            list(mean), list(mean.values()), color=color, marker=marker, linestyle=line, label=row
        )
        low = [scale * (s.mean if s.n < 2 else s.low) for s in known.values()]
        high = [scale * (s.mean if s.n < 2 else s.high) for s in known.values()]
        if table["unit"] == "%":
            low, high = np.clip(low, 0, 100), np.clip(high, 0, 100)
        axis.fill_between(list(known), low, high, color=color, alpha=0.15, linewidth=0)
        for cell in cells:
            if (cell.row, cell.column) == (row, column) and cell.chosen[key] in mean:
                x = cell.chosen[key]
                axis.plot(x, mean[x], "o", color=color, markersize=14, fillstyle="none")
    values = sorted({r["point"][key] for r in runs})
    if values[0] > 0 and values[-1] / values[0] > 5:
        axis.set_xscale("log")
    axis.set_xlabel(key.rsplit(".", 1)[-1].replace("_", " "))
    axis.set_ylabel(_name(table, table["select"]))
    where = f", {column}" if len(table["columns"]) > 1 else ""
    axis.set_title(f"tuning{where}; chosen value ringed", fontsize=10)


def _history(axis, table, cells, runs):
    """The reported runs of the first setting over their steps: mean and interval over seeds."""
    x_name, y_name = table["history"]
    column = next(iter(table["columns"]))
    for row, (color, _, line) in _looks(table).items():
        mine = [r for r in runs if (r["row"], r["column"]) == (row, column)]
        curves = [r["history"] for r in mine if r["status"] == "done" and r.get("history")]
        if not curves:
            continue
        n = min(len(c) for c in curves)
        x = [point[0] for point in curves[0][:n]]
        at = [stats.summarize([c[i][1] for c in curves]) for i in range(n)]
        axis.plot(x, [s.mean for s in at], color=color, linestyle=line, label=row)
        if len(curves) > 1:
            band = [s.low for s in at], [s.high for s in at]
            axis.fill_between(x, *band, color=color, alpha=0.15, linewidth=0)
    axis.set_xlabel(x_name)
    axis.set_ylabel(y_name.replace("/", " ").replace("_", " "))
    axis.set_title("reported runs: mean, 95 % interval", fontsize=10)


_PANELS = {
    "points": _points,
    "columns": _columns,
    "zoom": _zoom,
    "grid": _grid,
    "history": _history,
}
