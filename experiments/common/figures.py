"""How every picture is drawn: one look, no display, and files that are written whole.

The colors are those of Okabe and Ito, which can be told apart with any color vision; markers and
line styles say the same again, for print without color.
"""

import io
import itertools
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common import files

__all__ = ["COLORS", "LINES", "MARKERS", "Look", "content", "figure", "legend", "looks", "save"]

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
COLORS += ("#882255", "#999933", "#332288", "#777777")  # Of Paul Tol's muted scheme.
# Cycles of unequal lengths: no two of many names look the same.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1)))


class Look(NamedTuple):
    """How one method looks in every panel."""

    color: str
    marker: str
    linestyle: Any


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Returns a color, a marker and a line style for each name.

    Example:
      >>> looks(["adamw", "lion"])["lion"]
      Look(color='#D55E00', marker='s', linestyle='--')
    """
    cycles = zip(itertools.cycle(COLORS), itertools.cycle(MARKERS), itertools.cycle(LINES))
    return dict(zip(names, itertools.starmap(Look, cycles), strict=False))


def figure(
    columns: int = 1, rows: int = 1, *, width: float = 4.6, height: float = 3.6, title: str = ""
) -> tuple[Any, list[Any]]:
    """Returns a figure and its axes, row by row.

    It is a ``Figure`` of its own: without ``pyplot`` there is neither a display nor a global
    state, and nothing has to be closed.

    Args:
      columns: Number of panels beside each other.
      rows: Number of panels above each other.
      width: Inches of one panel.
      height: Inches of one panel.
      title: Stands above the whole figure, in as many lines as it takes.
    """
    from matplotlib.figure import Figure  # Only those who draw pay for it.

    made = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(made.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.title.set_fontsize(10)
    if title:
        made.suptitle(textwrap.fill(title, max(20, int(12 * made.get_figwidth()))), fontsize=11)
    return made, axes


def legend(made: Any, axis: Any) -> None:
    """Puts one legend, that of ``axis``, below the whole figure; a single name needs none."""
    handles, labels = axis.get_legend_handles_labels()
    if len(labels) > 1:
        fit = int(made.get_figwidth() / (0.55 + 0.085 * max(map(len, labels))))
        made.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), fit) or 1)


def content(made: Any, suffix: str = ".png", dpi: int = 150) -> bytes:
    """Returns the file of a figure: the same bytes for the same picture."""
    out = io.BytesIO()
    # The date of a PDF or SVG, and the version of matplotlib in a PNG, would change the bytes.
    stamp = {".png": {"Software": None}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    made.savefig(out, format=suffix[1:], dpi=dpi, metadata=stamp.get(suffix))
    return out.getvalue()


def save(made: Any, path: Path, dpi: int = 150) -> None:
    """Writes the picture; the suffix of ``path`` decides its format."""
    files.write(path, content(made, path.suffix, dpi))
