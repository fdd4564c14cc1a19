"""Pictures of pruning: density by layer, overlap of masks, accuracy against sparsity and cost.

    python -m experiments.pruning_plots --out_dir=PICTURES results/pruning_digits.json
    python -m experiments.pruning_plots --out_dir=PICTURES RUN RUN RUN

The first draws a table of pruning methods: accuracy against sparsity and against seconds. The
second compares what several runs of ``experiments.prune`` left in their folders, methods or
densities: which weights they share, and the density of each layer.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

import bilevel
from experiments.common import launch
from experiments.common.figures import COLORS, LINES, MARKERS
from experiments.pruning import saved_model


def _figure(width: float, height: float):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt, *plt.subplots(figsize=(width, height), layout="constrained")


def _save(plt, figure, file: Path) -> None:
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
        axis.bar(at, values, width, label=method, color=COLORS[i % len(COLORS)])
    axis.set_xticks(np.arange(len(names)), names, rotation=30, ha="right", fontsize=8)
    axis.set_ylabel("density")
    axis.set_yscale("log")
    figure.legend(*axis.get_legend_handles_labels(), fontsize=8, loc="outside right upper")
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
    plt, figure, axis = _figure(6.4, 4.0)
    sparsity = x.startswith("sparsity")
    places, lowest = set(), 100.0
    looks = zip(itertools.cycle(COLORS), itertools.cycle(MARKERS), itertools.cycle(LINES))
    for (method, row), (color, marker, line) in zip(points.items(), looks, strict=False):
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
            color=color,
            marker=marker,
            linestyle=line,
            capsize=2,
            markersize=4,
        )
    axis.set_xscale("log")
    if sparsity:
        axis.invert_xaxis()
        axis.set_xticks(sorted(places), [f"{100 - p:.3g}" for p in sorted(places)])
        axis.minorticks_off()
    else:
        axis.xaxis.set_major_locator(plt.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(plt.ScalarFormatter())
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
    _save(plt, figure, file)


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


def main(argv: Sequence[str]) -> int:
    """Draws what the arguments name."""
    folder, paths = Path(flags.FLAGS.out_dir), [Path(a) for a in argv[1:]]
    if not paths:
        raise ValueError("give JSON files of tables, or folders of runs")
    folder.mkdir(parents=True, exist_ok=True)
    tables = [p for p in paths if p.is_file()]
    runs = [p for p in paths if not p.is_file()]
    files = [f for t in tables for f in of_table(json.loads(t.read_text("utf-8")), folder)]
    files += of_runs(runs, folder) if runs else []
    for file in files:
        print(f"wrote {file}")
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("out_dir", "runs/pictures", "Folder of the pictures.")
    app.run(lambda argv: launch.guard(lambda: main(argv)))
