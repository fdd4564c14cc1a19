"""Numbers of the result files, for the pages and for the README's table; none is typed.

python -m docs.numbers    # writes the README's table again
"""

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
BEGIN, END = "<!-- results: python -m docs.numbers -->", "<!-- end of results -->"


def cell(name: str, row: str, column: str = "") -> dict[str, str]:
    """Returns the line of one cell of a table, by field.

    Raises:
      ValueError: There is no such file or cell.
    """
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        raise ValueError(f"there is no results/{name}.csv")
    with path.open(encoding="utf-8") as stream:
        found = [r for r in csv.DictReader(stream) if (r["row"], r["column"]) == (row, column)]
    if len(found) != 1:
        raise ValueError(f"results/{name}.csv has no cell {row!r}, {column!r}")
    return found[0]


def number(text: str) -> str:
    """Returns one number of a result file.

    Args:
      text: ``FILE KEY ... FORMAT``; the file lies under ``results/``. In a CSV file the keys are
        row, column (where there is one) and field; in a JSON file the path of keys or indices.
        A format that ends with ``%`` takes the number, which must be a share, as a percentage.

    Raises:
      ValueError: There is no such file or number.

    Example:
      >>> number("digits_optimizers.csv Lion n .0f")
      '5'
    """
    name, *keys, form = shlex.split(text)
    if name.endswith(".csv"):
        *where, field = keys
        found = cell(name.removesuffix(".csv"), *where)
        if field not in found:
            raise ValueError(f"results/{name} has no field {field!r}, but {', '.join(found)}")
        value: Any = float(found[field])
    else:
        if not (RESULTS / name).exists():
            raise ValueError(f"there is no results/{name}")
        value = json.loads((RESULTS / name).read_text(encoding="utf-8"))
        for key in keys:
            try:
                value = value[int(key)] if isinstance(value, list) else value[key]
            except (KeyError, IndexError) as error:
                raise ValueError(f"results/{name} has no {key!r} of {keys}") from error
    return f"{value:{form}}".replace("%", " %")


class Shown(NamedTuple):
    """A line of the README's table: one cell beside its baseline."""

    what: str
    table: str
    row: str
    baseline: str
    column: str = ""
    digits: int = 1
    also: str = ""  # A field in which the methods differ too.
    unit: str = "bytes per parameter"


SHOWN = (
    Shown("AdamP, digits, accuracy", "digits_optimizers", "AdamP", "AdamW"),
    Shown("Lion, MNIST, accuracy", "mnist_optimizers", "Lion", "AdamW",
          also="state bytes per parameter"),
    Shown("FRUGAL, tinyshakespeare, loss", "frugal_tinyshakespeare", "FRUGAL 0.25", "AdamW",
          digits=3, also="state bytes per parameter"),
    Shown("REX, ResNet-20 on CIFAR-10, 1 % of the epochs, accuracy", "rex_cifar10_sgdm", "REX",
          "Cosine Schedule", "1%"),
    Shown("BiP, digits, 98 % sparse, accuracy", "pruning_digits", "BiP", "IMP", "98 %",
          also="gradients", unit="gradients"),
    Shown("F2SA, MNIST, half of the labels wrong, accuracy", "bilevel/bilevel_cleaning_mnist",
          "F2SA", "no cleaning", "MNIST"),
)  # fmt: skip


def readme_table() -> str:
    """Returns the README's table of results, from the files of the tables."""

    def shown(line: Shown, row: str) -> str:
        found = cell(line.table, row, line.column)
        accuracy = "accuracy" in found["metric"]
        values = [100**accuracy * float(found[k]) for k in ("mean", "std") if found[k]]
        text = " ± ".join(f"{v:.{line.digits}f}" for v in values) + " %" * accuracy
        if line.also:
            text += f", {float(found[line.also]):.0f} {line.unit}"
        return text

    lines = ["| measured here | result | baseline | paper | page |", "|---|---|---|---|---|"]
    for line in SHOWN:
        paper = cell(line.table, line.row, line.column)["paper"] or "–"
        page = f"[{line.table.split('/')[-1]}](results/{line.table}.md)"
        baseline = f"{line.baseline}: {shown(line, line.baseline)}"
        lines.append(f"| {line.what} | {shown(line, line.row)} | {baseline} | {paper} | {page} |")
    return "\n".join(lines)


def main() -> None:
    """Writes the table between the README's markers."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    between = re.compile(f"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", re.DOTALL)
    path.write_text(between.sub(lambda _: readme_table() + "\n", text, count=1), encoding="utf-8")


if __name__ == "__main__":
    main()
