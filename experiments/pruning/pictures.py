"""Pictures of pruning: density by layer, overlap of masks, accuracy against sparsity and cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import bilevel
from experiments.common import figures
from experiments.pruning import saved_model

__all__ = ["against", "layers", "of_runs", "of_table", "overlap"]


def layers(reports: Mapping[str, bilevel.Report], file: Path) -> None:
    """Draws the density of each prunable layer, a group of bars for each method."""
    first = next(iter(reports.values()))
    names = [r.path for r in first.layers if r.prunable]
    figure, (axis,) = figures.figure(width=max(4.0, 0.5 * len(names) * len(reports)), height=3.4)
    width = 0.8 / len(reports)
    for i, (method, report) in enumerate(reports.items()):
        values = [r.density for r in report.layers if r.prunable]
        at = np.arange(len(names)) + (i - (len(reports) - 1) / 2) * width
        axis.bar(at, values, width, label=method, color=figures.COLORS[i % len(figures.COLORS)])
    axis.set_xticks(np.arange(len(names)), names, rotation=30, ha="right", fontsize=8)
    axis.set_ylabel("density")
    axis.set_yscale("log")
    figure.legend(*axis.get_legend_handles_labels(), fontsize=8, loc="outside right upper")
    figures.save(figure, file)


def overlap(masks: Mapping[str, Any], file: Path) -> np.ndarray:
    """Draws, and returns, the intersection over union of the masks of each pair of methods."""
    names = list(masks)
    values = np.array(
        [[float(bilevel.masks.iou(masks[a], masks[b])) for b in names] for a in names]
    )
    width, height = 1.5 + 0.7 * len(names), 1.2 + 0.7 * len(names)
    figure, (axis,) = figures.figure(width=width, height=height)
    axis.grid(False)
    axis.imshow(values, vmin=0, vmax=1, cmap="cividis")
    for i, row in enumerate(values):
        for j, v in enumerate(row):
            axis.text(j, i, f"{v:.2f}", ha="center", va="center", color="w" if v < 0.6 else "k")
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_title("overlap of masks (IoU)", fontsize=10)
    figures.save(figure, file)
    return values


def against(
    points: Mapping[str, Sequence[tuple[float, Sequence[float]]]], file: Path, x: str
) -> None:
    """Draws accuracy (mean and standard deviation over seeds) against sparsity or seconds.

    Accuracies are spaced by the logarithm of the error, so that 98 and 99 % are as far apart as
    20 and 60 %. Sparsities are spaced by the logarithm of what is kept.

    Args:
      points: Method to pairs of x and the accuracies of its seeds, in [0, 1]. A method whose x are
        all zero (a dense model's sparsity) is a horizontal line.
      file: Picture to write.
      x: Label of the horizontal axis: one that starts with ``sparsity`` is in %, any other has a
        logarithmic axis.
    """
    figure, (axis,) = figures.figure(width=6.4, height=4.0)
    from matplotlib import ticker  # Only those who draw pay for it.

    sparsity = x.startswith("sparsity")
    places, lowest = set(), 100.0
    looks = figures.looks(points)
    for method, row in points.items():
        values = [100 * np.asarray(v) for _, v in row]
        lowest = min(lowest, *(v.mean() for v in values))
        if not any(at for at, _ in row):
            axis.axhline(values[0].mean(), color="gray", label=method)
            continue
        places |= {100 - at for at, _ in row}
        axis.errorbar(
            [100 - at if sparsity else at for at, _ in row],
            [v.mean() for v in values],
            [v.std(ddof=len(v) > 1) for v in values],
            label=method,
            **looks[method]._asdict(),
            capsize=2,
            markersize=4,
        )
    axis.set_xscale("log")
    if sparsity:
        axis.invert_xaxis()
        axis.set_xticks(sorted(places), [f"{100 - p:.3g}" for p in sorted(places)])
        axis.minorticks_off()
    else:
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ticker.ScalarFormatter())
    to, back = (lambda a: -np.log10(np.clip(100 - a, 0.3, None))), (lambda t: 100 - 10**-t)
    axis.set_yscale("function", functions=(to, back))
    ticks = (0, 20, 50, 70, 80, 90, 95, 97, 98, 99, 99.5)
    top = max(v for row in points.values() for _, seeds in row for v in seeds) * 100
    axis.set_yticks([t for t in ticks if lowest - 20 < t < top])
    axis.set_ylim(max(lowest - 5, 0), min(top + 0.3, 99.8))
    axis.set_xlabel(x)
    axis.set_ylabel("test accuracy (%)")
    axis.grid(alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), fontsize=7, loc="outside right upper")
    figures.save(figure, file)


def of_table(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws a table's ``sparsity.png`` and ``seconds.png`` from the content of its JSON file."""
    name, table = results["table"]["name"], results["table"]
    files = []
    for key, label in (("sparsity", "sparsity (%)"), ("seconds", "seconds after dense training")):
        points: dict[str, list[tuple[float, list[float]]]] = {}
        for row in table["rows"]:
            for column in table["columns"]:
                finals = [
                    r["final"]
                    for r in results["runs"]
                    if (r["row"], r["column"], r["status"]) == (row, column, "done")
                ]
                dense = all(f["density"] == 1 for f in finals)
                if not finals or (key == "seconds" and dense):
                    continue
                at = [100 * (1 - f["density"]) if key == "sparsity" else f[key] for f in finals]
                accuracies = [f["test/accuracy"] for f in finals]
                points.setdefault(row, []).append((float(np.mean(at)), accuracies))
        files.append(folder / f"{name}_{key}.png")
        against(points, files[-1], label)
    return files


def of_runs(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Draws ``overlap.png`` and ``layers.png`` of runs whose masks are of one model."""
    left = {run.name: saved_model.load(run) for run in runs}
    if len(left) < len(runs):
        raise ValueError(f"two of the runs have one name: {', '.join(r.name for r in runs)}")
    first = next(iter(left.values()))
    for name, (params, _, _) in left.items():
        if {k: v.shape for k, v in params.items()} != {k: v.shape for k, v in first[0].items()}:
            raise ValueError(f"{name} is a run of another model than {runs[0].name}")
    overlap({name: masks for name, (_, _, masks) in left.items()}, folder / "overlap.png")
    reports = {name: bilevel.sparsity_report(p, m) for name, (p, _, m) in left.items()}
    layers(reports, folder / "layers.png")
    return [folder / "overlap.png", folder / "layers.png"]
