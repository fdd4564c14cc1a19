"""How often each method is best, and among the best three: table 1 of the REX paper.

python -m experiments.ranks rex_digits_sgdm rex_digits_adam
python -m experiments.ranks --out_dir=runs/tables rex_fashion_sgdm
"""

import json
from pathlib import Path

import numpy as np
from absl import app, flags

from experiments.common import launch
from experiments.tables import definition, render

# Table 1 of the paper, over its 28 experiments: Top-1 and Top-3 in %.
PAPER = {"Linear Schedule": (11, 70), "Cosine Schedule": (6, 64), "REX": (70, 92)}
LOW = ("1%", "5%", "10%")


def ranks(results) -> dict[str, dict[tuple[str, str], int]]:
    """{what is ranked: {(method, setting): rank from 1}}; ties share the better rank."""
    table = results["table"]
    kinds = {table["metric"]: table["direction"] == "max"}
    kinds |= {heading: "accuracy" in name for heading, name in table["also"].items()}
    found: dict[str, dict[tuple[str, str], int]] = {kind: {} for kind in kinds}
    all_cells = render.cells(results)
    for column in table["columns"]:
        here = [c for c in all_cells if c.column == column]
        for kind, larger in kinds.items():
            values = []
            for c in here:
                summary = c.summary if kind == table["metric"] else c.also[kind]
                value = summary.mean if summary.n else np.nan
                values.append(-value if larger else value)
            order = np.where(np.isnan(values), np.inf, values)
            for c, value in zip(here, order, strict=True):
                found[kind][c.row, column] = 1 + int((order < value).sum())
    return found


def report(all_results: list, low: tuple[str, ...] = LOW) -> str:
    """Returns the Markdown of Top-1 and Top-3 shares, low and high budgets apart."""
    merged: dict[str, list[tuple[str, str, int]]] = {}
    for results in all_results:
        for kind, places in ranks(results).items():
            merged.setdefault(kind, []).extend((row, c, r) for (row, c), r in places.items())
    names = [r["table"]["name"] for r in all_results]
    command = f"python -m experiments.ranks {' '.join(names)}"
    lines = [
        "# How often each schedule is best",
        "",
        f"Tables: {', '.join(names)}",
        f"(`{command}`).",
        "",
    ]
    for kind, entries in merged.items():
        methods = list(dict.fromkeys(row for row, _, _ in entries))
        columns = len(entries) // len(methods)
        lines += [f"## By {kind} ({columns} experiments)", ""]
        lines.append(
            "| | Top-1 low | Top-3 low | Top-1 high | Top-3 high | Top-1 | Top-3 | mean rank "
            "| paper Top-1, Top-3 |"
        )
        lines.append("|---|" + "---:|" * 8)
        for method in methods:
            own = [(c in low, r) for row, c, r in entries if row == method]
            parts = [[r for is_low, r in own if is_low], [r for is_low, r in own if not is_low]]
            cells = [_share(part, k) for part in (*parts, [r for _, r in own]) for k in (1, 3)]
            paper = "{} %, {} %".format(*PAPER[method]) if method in PAPER else ""
            mean = np.mean([r for _, r in own])
            lines.append(f"| {method} | {' | '.join(cells)} | {mean:.2f} | {paper} |")
        lines.append("")
    lines.append(
        f"Low budgets: {', '.join(low)}. Methods with equal means share a rank. The paper's shares "
        "are over its own 28 experiments (RN20, RN50, WRN, VGG, VAE, YOLO, BERT)."
    )
    return "\n".join(lines) + "\n"


def _share(ranks_of, k) -> str:
    return f"{100 * np.mean([r <= k for r in ranks_of]):.0f} %" if ranks_of else "–"


def main(argv: list[str]) -> int:
    """Prints the shares, and writes them with ``--write``."""
    folder = Path(flags.FLAGS.out_dir)
    found = []
    for name in argv[1:]:
        path = render.path(name, flags.FLAGS.scale, folder)
        if not path.exists():
            raise ValueError(
                f"there is no {path}: run python -m experiments.reproduce --table={name} first"
            )
        found.append(json.loads(path.read_text(encoding="utf-8")))
    if not found:
        raise ValueError("name the tables to rank: python -m experiments.ranks TABLE ...")
    text = report(found)
    print(text)
    if flags.FLAGS.write is not None:
        Path(flags.FLAGS.write).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("out_dir", str(definition.ROOT / "results"), "Folder of the tables' JSON.")
    flags.DEFINE_enum("scale", "cpu", definition.SCALES, "Scale of the tables.")
    flags.DEFINE_string("write", None, "Also write the Markdown to this file.")
    app.run(lambda argv: launch.guard(lambda: main(argv)))
