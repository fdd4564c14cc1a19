"""The parts of the page, and the page."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from benchmarks.tpu_compiler import matrix, optimizers, solvers, training, updates

COMMAND = "python -m benchmarks.tpu_compiler --out=results/tpu"


class Part(NamedTuple):
    """Programs of one kind.

    Attributes:
      names: Of its programs.
      compiled: Compiles the one of a name, and returns its row.
      table: Lines of the page, from rows by name.
    """

    names: Iterable[str]
    compiled: Callable[[str], dict[str, Any]]
    table: Callable[[dict[str, dict[str, Any]]], list[str]]


PARTS = {
    "updates": Part(updates.UPDATES, updates.update, updates.table),
    "matrix": Part(matrix.MATRIX, matrix.updated, matrix.table),
    "optimizers": Part(optimizers.OPTIMIZERS, optimizers.optimizer, optimizers.table),
    "training": Part(training.TRAINED, training.trained, training.trained_table),
    "sharded": Part(training.SHARDED, training.sharded, training.sharded_table),
    "solvers": Part(solvers.SOLVERS, solvers.solved, solvers.table),
}


def page(content: dict[str, Any]) -> str:
    """Returns the page as Markdown."""
    lines = [
        "# What the TPU compiler makes of it",
        "",
        f"`{COMMAND}`, compiled ahead of time for a TPU v5e by"
        f" {', '.join(f'{k} {v}' for k, v in sorted(content['versions'].items()))}. Nothing ran on"
        " a TPU: bytes are the compiler's count, and times of compilation are this CPU's.",
        "",
    ]
    for part, rows in content["parts"].items():
        lines += [*PARTS[part].table({r["name"]: r for r in rows}), ""]
    every = [(part, row) for part, rows in content["parts"].items() for row in rows]
    bad = [f"{r['name']} ({part})" for part, r in every if r["host_calls"] or r["float64"]]
    lines += [
        f"{len(every)} programs, {sum('cuda' in r for _, r in every)} of them lowered for CUDA too."
        f" With a call to the host or float64: {', '.join(bad) or 'none'}.",
        "",
    ]
    return "\n".join(lines)
