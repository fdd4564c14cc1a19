"""Pictures of a bilevel run: objective against time and gradients, residuals, learned weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = 3 + bool(groups)
    figure, axes = plt.subplots(1, panels, figsize=(4 * panels, 3.2), squeeze=False)
    for axis, key, label in (
        (axes[0, 0], "seconds", "seconds of the solver"),
        (axes[0, 1], "gradients", "gradient evaluations"),
    ):
        line(axis, rows, key, "objective", "o-", markersize=3)
        axis.set_xlabel(label)
        axis.xaxis.set_major_locator(plt.MaxNLocator(4))
        axis.set_title("hyper-objective", fontsize=10)
    axis = axes[0, 2]
    for (key, label), style in zip(_RESIDUALS, ("-", "--", "-.", ":"), strict=True):
        line(axis, rows, "step", key, style, label=label)
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_title("residuals", fontsize=10)
    axis.legend(fontsize=8)
    if groups:
        axis = axes[0, 3]
        values = np.concatenate([np.ravel(v) for v in groups.values()])
        bins = np.linspace(values.min() - 1e-6, values.max() + 1e-6, 31)
        for (name, value), hatch in zip(groups.items(), ("", "//", ".."), strict=False):
            axis.hist(np.ravel(value), bins, alpha=0.6, label=name, hatch=hatch)
        axis.set_title("learned upper variable", fontsize=10)
        axis.legend(fontsize=8)
    for axis in axes[0]:
        axis.grid(alpha=0.3)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    part = file.with_name(f".{file.name}")
    figure.savefig(part, format="png", dpi=110)
    plt.close(figure)
    part.replace(file)


def line(axis, rows, x: str, y: str, style: str, **more: Any) -> None:
    """Draws ``y`` against ``x`` over the rows that hold both as numbers."""
    points = [(r[x], r[y]) for r in rows if isinstance(r.get(x), float | int) and _plain(r.get(y))]
    if points:
        axis.plot(*zip(*points, strict=True), style, **more)


def _plain(value: Any) -> bool:
    return isinstance(value, float | int) and np.isfinite(value)
