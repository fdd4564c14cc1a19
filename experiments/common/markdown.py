"""Tables in Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["table"]


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], align: str = "") -> list[str]:
    """Returns the lines of a table.

    Args:
      head: The names of the columns.
      rows: The cells of each row; each is written as ``str(cell)``.
      align: A letter per column, ``"l"`` (left) or ``"r"`` (right); left where there is none.

    Example:
      >>> print("\\n".join(table(["solver", "steps"], [["soba", 10]], "lr")))
      | solver | steps |
      |---|---:|
      | soba | 10 |
    """
    marks = {"l": "---", "r": "---:"}
    ruler = "|".join(marks[a] for a in align.ljust(len(head), "l"))
    lines = [" | ".join(str(cell).replace("|", "\\|") for cell in row) for row in (head, *rows)]
    lines = [f"| {line} |" for line in lines]
    return [lines[0], f"|{ruler}|", *lines[1:]]
