"""Pictures, tables and TensorBoard events of supervised runs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import figures

__all__ = ["draw_curves", "summary", "write_events"]

# Of each panel: its title, the label of its axis, and the lines with their names in the legend.
PANELS = (
    (
        "loss",
        "mean cross-entropy (nats)",
        {"loss": "training batches", "valid/loss": "validation set", "test/loss": "test set"},
    ),
    (
        "accuracy",
        "accuracy (%)",
        {
            "accuracy": "training batches",
            "valid/accuracy": "validation set",
            "test/accuracy": "test set",
        },
    ),
    ("learning rate", "learning rate", {"lr": "learning rate"}),
    (
        "norms",
        "Euclidean norm",
        {"gradient_norm": "gradient", "update_norm": "update", "parameter_norm": "parameters"},
    ),
)


def draw_curves(rows: Sequence[Mapping[str, Any]], file: Path, title: str) -> None:
    """Draws loss, accuracy, learning rate and norms against the step.

    A value that is not finite, or was never measured, is not drawn; a panel that is left without
    any says so.

    Args:
      rows: Lines of ``metrics.jsonl``.
      file: The picture to write.
      title: Stands above it.
    """
    present = {key for row in rows for key in row}
    panels = [panel for panel in PANELS if present & panel[2].keys()]
    figure, axes = figures.figure(max(len(panels), 1), width=3.6, height=3.4, title=title)
    for axis, (name, label, lines) in zip(axes, panels, strict=False):
        points = {key: _points(rows, key, 100 if name == "accuracy" else 1) for key in lines}
        looks = figures.looks(lines)
        for key, (steps, values) in points.items():
            if steps:
                style = looks[key]._asdict()
                if len(steps) > 15:  # Few points are marked, so that a single one can be seen.
                    style["marker"] = ""
                axis.plot(steps, values, **style, markersize=4, label=lines[key])
        drawn = [v for _, values in points.values() for v in values]
        if not drawn:
            axis.text(0.5, 0.5, "no finite value", ha="center", transform=axis.transAxes)
            axis.set(xticks=[], yticks=[])
        elif name in ("loss", "norms") and 0 < 10 * min(drawn) < max(drawn):
            axis.set_yscale("log")
        else:
            axis.ticklabel_format(axis="y", scilimits=(-2, 4))
        axis.margins(y=0.12)
        axis.set(xlabel="step", ylabel=label)
        axis.set_title(name, fontsize=10)
        if len(axis.lines) > 1:
            axis.legend(fontsize=8)
    figures.save(figure, file, dpi=110)


def _points(
    rows: Sequence[Mapping[str, Any]], key: str, scale: float
) -> tuple[list[int], list[float]]:
    """Steps and values of the lines that hold a finite number."""
    found = [(row["step"], row[key]) for row in rows if _is_finite(row.get(key))]
    return [step for step, _ in found], [scale * value for _, value in found]


def _is_finite(value: Any) -> bool:
    return isinstance(value, float | int) and math.isfinite(value)


def summary(finals: Sequence[Mapping[str, float]]) -> str:
    """Returns the table at the end of a run: loss and accuracy on each split, mean ± std.

    Those on the training set are means over the last logged steps.
    """
    lines = [f"{'':8}{'loss':>18}{'accuracy':>18}"]
    for split in ("train", "valid", "test"):
        cells = []
        for name in ("loss", "accuracy"):
            values = [final[f"{split}/{name}"] for final in finals if f"{split}/{name}" in final]
            if values:
                scale, digits = (100, 2) if name == "accuracy" else (1, 4)
                mean, std = scale * np.mean(values), scale * np.std(values, ddof=len(values) > 1)
                spread = f" ± {std:.{digits}f}" if len(values) > 1 else ""
                cells.append(f"{mean:.{digits}f}{spread}{' %' if scale == 100 else ''}")
        if cells:
            lines.append(f"{split:8}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def write_events(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Writes every line as TensorBoard scalars; events of an earlier part are replaced."""
    from tensorboardX import SummaryWriter

    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        for row in rows:
            for key, value in row.items():
                if key != "step" and isinstance(value, float | int):
                    writer.add_scalar(key, value, row["step"])
