"""Picture and table of schedules."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from optim.schedules.budget import whole_steps

__all__ = ["plot_schedules", "tabulate_schedules"]

_MOST_POINTS = 20001


def _values(schedules, steps):
    """{label: float64 array like ``steps``} of any set of schedules, tables and constants."""
    if callable(schedules):
        schedules = [schedules]
    if not isinstance(schedules, Mapping):
        pairs = [
            item
            if isinstance(item, tuple) and isinstance(item[0], str)
            else (f"schedule {i}", item)
            for i, item in enumerate(schedules)
        ]
        schedules = dict(pairs)
    if not schedules:
        raise ValueError("schedules must not be empty")
    in_int32 = steps[-1] < 2**31
    counts = jnp.asarray(steps, jnp.int32 if in_int32 else float)

    def evaluate(schedule):
        if not callable(schedule):
            table = np.atleast_1d(np.asarray(schedule, np.float64))
            return table[np.minimum(steps, len(table) - 1)]
        values = np.asarray(schedule(counts), np.float64)
        return np.broadcast_to(values, steps.shape)  # A constant schedule ignores its input.

    return {label: evaluate(schedule) for label, schedule in schedules.items()}


def _spread(num_steps, points):
    """At most so many steps from 0 to ``num_steps``, evenly spaced."""
    last = whole_steps("num_steps", num_steps)
    return np.unique(np.linspace(0, last, min(points, last + 1)).round().astype(np.int64))


def tabulate_schedules(schedules: Any, num_steps: int = 1000, *, rows: int = 11) -> str:
    """Returns a Markdown table of schedules at evenly spaced steps.

    Args:
      schedules: A dict or sequence as in :func:`plot_schedules`.
      num_steps: The table covers steps 0 to ``num_steps``.
      rows: Number of rows, at least 2.

    Returns:
      The table, with one column per schedule.

    Raises:
      ValueError: If there is no schedule or a number is too small.

    Example:
      >>> import optim
      >>> print(optim.tabulate_schedules({"rex": optim.rex_schedule(1.0, 10)}, 10, rows=3))
      | step | rex |
      |---:|---:|
      | 0 | 1 |
      | 5 | 0.666667 |
      | 10 | 0 |
    """
    steps = _spread(num_steps, whole_steps("rows", rows, 2))
    values = _values(schedules, steps)
    lines = [f"| step | {' | '.join(values)} |", "|---:|" + "---:|" * len(values)]
    for i, t in enumerate(steps):
        lines.append(f"| {t} | " + " | ".join(f"{v[i]:.6g}" for v in values.values()) + " |")
    return "\n".join(lines)


def plot_schedules(
    schedules: Any,
    num_steps: int = 1000,
    *,
    path: str | Path | None = None,
    title: str = "",
) -> Any:
    """Draws schedules over their steps; needs matplotlib.

    Args:
      schedules: ``{label: schedule}``, or a sequence of schedules or ``(label, schedule)`` pairs.
        A schedule is a function of the step, an array with one value a step, or a number.
      num_steps: Steps 0 to ``num_steps`` are drawn, at most 20001 of them; take the largest
        ``decay_steps``.
      path: File to save the picture to (``.png``, ``.pdf``, ...).
      title: Title of the picture.

    Returns:
      The ``matplotlib`` figure, drawn without a display.

    Raises:
      ValueError: If there is no schedule or ``num_steps < 1``.

    Example:
      >>> import optim
      >>> rex, linear = optim.rex_schedule(0.1, 100), optim.sampled_schedule("linear", 0.1, 100)
      >>> figure = optim.plot_schedules({"rex": rex, "linear": linear}, 100)
    """
    steps = _spread(num_steps, _MOST_POINTS)
    values = _values(schedules, steps)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:  # optim itself does not need matplotlib.
        raise ImportError("plot_schedules needs matplotlib: pip install matplotlib") from error

    # A Figure of its own: no pyplot, so no display and no global state.
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="learning rate", title=title)
    for label, v in values.items():
        # Steps as holds: what the optimizer sees.
        axes.plot(steps, v, drawstyle="steps-post", label=label, linewidth=1.2)
    axes.set_ylim(bottom=min(0.0, min(v.min() for v in values.values())))
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
