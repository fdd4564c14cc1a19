"""Pictures of a bilevel run: objective against time and gradients, residuals, learned weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import figures

__all__ = ["draw"]

_RESIDUALS = (
    ("feasibility", "feasibility"),
    ("residual", "projected gradient"),
    ("gap", "penalty gap"),
    ("lower_residual", "lower gradient"),
)


def draw(
    rows: Sequence[Mapping[str, Any]], groups: Mapping[str, Any] | None, file: Path, title: str
) -> None:
    """Draws a run.

    Args:
      rows: Lines of ``metrics.jsonl``.
      groups: Arrays to draw as histograms, such as the weights of clean and flipped samples.
      file: The PNG to write.
      title: Above the picture.
    """
    figure, axes = figures.figure(3 + bool(groups), width=3.6, height=3.4, title=title)
    for axis, key, label in (
        (axes[0], "seconds", "time of the solver (s)"),
        (axes[1], "gradients", "gradient evaluations"),
    ):
        line(axis, rows, key, "objective", "o-", markersize=3)
        axis.locator_params(axis="x", nbins=4)
        axis.set(xlabel=label, ylabel="hyper-objective")
    axis = axes[2]
    for (key, label), look in zip(
        _RESIDUALS, figures.looks(dict(_RESIDUALS)).values(), strict=True
    ):
        shown = look._asdict() | ({"marker": ""} if len(rows) > 30 else {})
        line(axis, rows, "step", key, label=label, markersize=3, **shown)
    if axis.lines:
        axis.set_yscale("log")
        axis.legend(fontsize=8)
    axis.set(xlabel="step", ylabel="residual")
    if groups:
        axis = axes[3]
        values = np.concatenate([np.ravel(v) for v in groups.values()])
        bins = np.linspace(values.min() - 1e-6, values.max() + 1e-6, 31)
        for (name, value), hatch in zip(groups.items(), ("", "//", ".."), strict=False):
            axis.hist(np.ravel(value), bins, alpha=0.6, label=name, hatch=hatch)
        axis.set(xlabel="learned upper variable", ylabel="number of entries")
        axis.legend(fontsize=8)
    figures.save(figure, file, dpi=110)


def line(axis, rows, x: str, y: str, *style: str, **more: Any) -> None:
    """Draws ``y`` against ``x`` over the rows that hold both as numbers."""
    points = [(r[x], r[y]) for r in rows if isinstance(r.get(x), float | int) and _plain(r.get(y))]
    if points:
        axis.plot(*zip(*points, strict=True), *style, **more)


def _plain(value: Any) -> bool:
    return isinstance(value, float | int) and np.isfinite(value)
