"""Pictures, tables and TensorBoard events of supervised runs."""

from pathlib import Path
from typing import Any

import numpy as np


def draw_curves(rows: list[dict[str, Any]], file: Path, title: str) -> None:
    """Draws loss, accuracy, learning rate and norms against the step."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [
        ("loss", ("loss", "valid/loss")),
        ("accuracy", ("accuracy", "valid/accuracy")),
        ("learning rate", ("lr",)),
        ("norms", ("gradient_norm", "update_norm", "parameter_norm")),
    ]
    present = {k for row in rows for k in row}
    panels = [(name, [k for k in keys if k in present]) for name, keys in panels]
    panels = [(name, keys) for name, keys in panels if keys]
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.2), squeeze=False)
    for axis, (name, keys) in zip(axes[0], panels, strict=True):
        for key, style in zip(keys, ("-", "--", ":"), strict=False):
            points = [(r["step"], r[key]) for r in rows if isinstance(r.get(key), float | int)]
            marker = "o" if key.startswith("valid/") else None
            axis.plot(*zip(*points, strict=True), style, label=key, marker=marker, markersize=3)
        axis.set_xlabel("step")
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.3)
        if name in ("loss", "norms"):
            axis.set_yscale("log")
        if len(keys) > 1:
            axis.legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    part = file.with_name(f".{file.name}")
    figure.savefig(part, format="png", dpi=110)
    plt.close(figure)
    part.replace(file)


def summary(finals: list[dict[str, float]]) -> str:
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


def write_events(rows: list[dict[str, Any]], folder: Path) -> None:
    """Writes every line as TensorBoard scalars; events of an earlier part are replaced."""
    from tensorboardX import SummaryWriter

    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        for row in rows:
            for key, value in row.items():
                if key != "step" and isinstance(value, float | int):
                    writer.add_scalar(key, value, row["step"])
