"""Pictures of pruning: density by layer, overlap of masks, accuracy against sparsity and cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import bilevel

# Distinguishable in print and by colour-blind readers (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "os^Dv<>P"


def _figure(width: float, height: float):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt, *plt.subplots(figsize=(width, height))


def _save(plt, figure, file: Path) -> None:
    figure.tight_layout()
    part = file.with_name(f".{file.name}")
    figure.savefig(part, format="png", dpi=110)
    plt.close(figure)
    part.replace(file)


def layers(reports: Mapping[str, bilevel.Report], file: Path) -> None:
    """Draws the density of each prunable layer, a group of bars for each method."""
    first = next(iter(reports.values()))
    names = [r.path for r in first.layers if r.prunable]
    plt, figure, axis = _figure(max(4.0, 0.5 * len(names) * len(reports)), 3.4)
    width = 0.8 / len(reports)
    for i, (method, report) in enumerate(reports.items()):
        values = [r.density for r in report.layers if r.prunable]
        at = np.arange(len(names)) + (i - (len(reports) - 1) / 2) * width
        axis.bar(at, values, width, label=method, color=COLOURS[i % len(COLOURS)])
    axis.set_xticks(np.arange(len(names)), names, rotation=30, ha="right", fontsize=8)
    axis.set_ylabel("density")
    axis.set_yscale("log")
    axis.legend(fontsize=8)
    _save(plt, figure, file)


def overlap(masks: Mapping[str, Any], file: Path) -> np.ndarray:
    """Draws, and returns, the intersection over union of the masks of each pair of methods."""
    names = list(masks)
    values = np.array(
        [[float(bilevel.masks.iou(masks[a], masks[b])) for b in names] for a in names]
    )
    plt, figure, axis = _figure(1.5 + 0.7 * len(names), 1.2 + 0.7 * len(names))
    axis.imshow(values, vmin=0, vmax=1, cmap="cividis")
    for i, row in enumerate(values):
        for j, v in enumerate(row):
            axis.text(j, i, f"{v:.2f}", ha="center", va="center", color="w" if v < 0.6 else "k")
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_title("overlap of masks (IoU)", fontsize=10)
    _save(plt, figure, file)
    return values


def against(
    points: Mapping[str, Sequence[tuple[float, Sequence[float]]]], file: Path, x: str, log: bool
) -> None:
    """Draws accuracy (mean and standard deviation over seeds) against sparsity or seconds.

    Args:
      points: Method to pairs of x and the accuracies of its seeds, in [0, 1].
      file: Picture to write.
      x: Label of the horizontal axis.
      log: Whether that axis is logarithmic.
    """
    plt, figure, axis = _figure(5.2, 3.6)
    for i, (method, row) in enumerate(points.items()):
        values = [100 * np.asarray(v) for _, v in row]
        axis.errorbar(
            [p for p, _ in row],
            [v.mean() for v in values],
            [v.std(ddof=len(v) > 1) for v in values],
            label=method,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            capsize=2,
            markersize=4,
        )
    if log:
        axis.set_xscale("log")
    axis.set_xlabel(x)
    axis.set_ylabel("test accuracy (%)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    _save(plt, figure, file)
