"""What a run leaves in its folder: config.json, metrics.jsonl, curves.png, TensorBoard events."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from tqdm import tqdm

from experiments.common import files

TIME_FIELDS = ("seconds", "examples_per_second")


# A top-level key of its config tells the main.
_MAINS = {"solver": "solve", "prune": "prune", "compare": "refine", "sets": "logreg"}


def claim_all(workdir: Path, configs: Sequence[ml_collections.ConfigDict]) -> list[Path]:
    """Returns the folders of one run, or of the runs of a population, each claimed.

    Raises:
      ValueError: The folder holds another number of runs, or as :func:`claim`; nothing is written.
    """
    many, begun = len(configs), (workdir / "checkpoints").exists()
    held = len(list(workdir.glob("run_*/config.json"))) or (workdir / "config.json").exists()
    # A kill may have left fewer claims, but no checkpoint then.
    if held > many or (begun and held != many):
        raise ValueError(
            f"{workdir} holds {held:d} runs (--seeds={held:d}), and this is --seeds={many}; "
            "choose another --workdir, or remove it"
        )
    folders = [workdir] if many == 1 else [workdir / f"run_{i}" for i in range(many)]
    for folder, config in zip(folders, configs, strict=True):
        claim(folder, config)
    return folders


def claim(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Makes ``workdir`` the folder of a run of ``config``.

    Raises:
      ValueError: The folder holds a run of another config; the message shows the difference.
      OSError: The folder cannot be written.
    """
    file = workdir / "config.json"
    new = json.loads(config.to_json_best_effort())
    if file.exists():
        try:
            old = json.loads(file.read_text())
        except ValueError:
            old = None  # Cut short by a kill at the first moment; nothing else was written yet.
        if old is not None and old != new:
            mains = [
                next((main for key, main in _MAINS.items() if key in tree), "train")
                for tree in (old, new)
            ]
            if mains[0] != mains[1]:
                raise ValueError(
                    f"{workdir} holds a run of experiments.{mains[0]}, not of {mains[1]}; "
                    "choose another --workdir, or remove it"
                )
            old, new = _flatten(old), _flatten(new)
            keys = sorted(k for k in old | new if old.get(k) != new.get(k))
            changes = "; ".join(f"{k}: {old.get(k)} there, {new.get(k)} now" for k in keys)
            raise ValueError(
                f"{workdir} holds a run of another config ({changes}); "
                "choose another --workdir, or remove it"
            )
        if old is not None:
            return
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        files.write(file, json.dumps(new, indent=2, sort_keys=True) + "\n")


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {k: v for name, x in tree.items() for k, v in _flatten(x, f"{prefix}{name}.").items()}


class MetricsFile:
    """``metrics.jsonl``: one JSON object a line, each with ``step``, written at once.

    Numbers that are not finite are written as strings, as JSON has none.

    Args:
      file: The path; ``None`` keeps the lines in memory only.
      start: Step to resume from: later lines of an earlier, killed run are removed.
    """

    def __init__(self, file: Path | None, start: int = 0):
        self.rows: list[dict[str, Any]] = []
        self._stream = None
        if file is None:
            return
        if file.exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):  # A last line cut short by a kill.
                    self.rows.append(json.loads(line))
        self.rows = [row for row in self.rows if row["step"] <= start and start > 0]
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        files.write(file, text)
        self._stream = file.open("a", encoding="utf-8")

    def write(self, **row: Any) -> None:
        """Adds a line."""
        row = {k: v if _finite(v) else str(v) for k, v in row.items()}
        self.rows.append(row)
        if self._stream is not None:
            self._stream.write(json.dumps(row) + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._stream is not None:
            self._stream.close()


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


class Clock:
    """Seconds and examples per second of a run, earlier parts of a resumed one included."""

    def __init__(self, rows: list[dict[str, Any]], examples_per_step: int):
        self._start = time.perf_counter() - (rows[-1].get("seconds", 0.0) if rows else 0.0)
        self._examples = examples_per_step
        self._last = (time.perf_counter(), rows[-1]["step"] if rows else 0)

    def read(self, step: int) -> dict[str, float]:
        """Returns the time fields of a line at ``step``; the speed is since the last reading."""
        now, (before, earlier) = time.perf_counter(), self._last
        self._last = (now, step)
        speed = (step - earlier) * self._examples / max(now - before, 1e-9)
        return {"seconds": round(now - self._start, 3), "examples_per_second": round(speed, 1)}


def progress(steps: int, start: int, label: str, quiet: bool) -> tqdm:
    """Returns the progress line: steps, time left, steps per second and the last metrics."""
    calm = 0.2 if sys.stderr.isatty() else 10.0  # A log file gets a line every ten seconds.
    return tqdm(
        total=steps,
        initial=start,
        desc=label,
        unit="step",
        mininterval=calm,
        dynamic_ncols=True,
        disable=quiet or jax.process_index() != 0,
    )


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
