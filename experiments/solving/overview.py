"""A table of all solvers, made from the solvers themselves: what each asks for and what it costs.

python -m experiments.solving.overview
"""

from collections.abc import Callable
from typing import NamedTuple

import bilevel
from experiments.common import markdown

__all__ = ["ROWS", "Row", "table"]


class Row(NamedTuple):
    """A solver of the table.

    Attributes:
      call: How it is called.
      method: Whose it is and what it does.
      make: ``make(T, K)`` with T inner steps and K linear steps, where it has those.
    """

    call: str
    method: str
    make: Callable[[int, int], bilevel.Solver]


ROWS = (
    Row(
        "penalty",
        "Kwon et al. 2024, Algorithm 1: prox-penalty, double loop",
        lambda T, K: bilevel.penalty(inner_steps=T),
    ),
    Row(
        "penalty(momentum=...)",
        "Algorithm 2: single loop, momentum",
        lambda T, K: bilevel.penalty(momentum=0.5),
    ),
    Row(
        "f2sa",
        "Kwon et al. 2023: growing multiplier",
        lambda T, K: bilevel.f2sa(inner_steps=T),
    ),
    Row("f3sa", "the same with momentum, no inner steps", lambda T, K: bilevel.f3sa()),
    Row(
        "implicit",
        "implicit differentiation (AID); CG, or a Neumann series",
        lambda T, K: bilevel.implicit(inner_steps=T, linear_steps=K),
    ),
    Row(
        "unrolled",
        "unrolled differentiation (ITD), MAML",
        lambda T, K: bilevel.unrolled(inner_steps=T),
    ),
    Row("soba", "Dagréou et al. 2022: single loop", lambda T, K: bilevel.soba()),
    Row("saba", "the same with variance reduction", lambda T, K: bilevel.saba(1, 1)),
    Row(
        "lv_hba",
        "Yao et al. 2024: proximal Lagrangian value function",
        lambda T, K: bilevel.lv_hba(**bilevel.lv_hba_steps()),
    ),
    Row(
        "bip",
        "Zhang et al. 2022: masks by their hypergradient",
        lambda T, K: bilevel.bip(0.1, 1.0, 0.5, lower_steps=T),
    ),
    Row(
        "hydra", "Sehwag et al. 2020: masks on fixed weights", lambda T, K: bilevel.hydra(0.1, 0.5)
    ),
    Row(
        "sparse_training",
        "training under masks: IMP, GMP, RigL, GraNet, masks at the start",
        lambda T, K: bilevel.sparse_training(0.1),
    ),
)
_SETS = {
    "project_x": "x in X",
    "project_y": "y in Y",
    "constraint": "g(x, y) <= 0 or = 0",
    "nonsmooth": "h(x, y)",
}
_BATCHES = {
    "pair": "a pair",
    "samples": "a pair, or `Samples`",
    "components": "numbered components",
    "one": "one",
}


def table() -> list[str]:
    """Returns the lines of the table, in Markdown.

    A Hessian-vector product counts as two gradients. T are the inner steps, K the linear ones.
    """
    head = ["solver", "method", "lower level", "keeps", "batch", "steps", "gradients"]
    return markdown.table(head, [_cells(row) for row in ROWS])


def _cells(row: Row) -> list[str]:
    solver = row.make(1, 1)
    pruning = solver.export is not None
    return [
        f"`{row.call}`",
        row.method,
        "-" if pruning else solver.lower,
        "masks" if pruning else ", ".join(v for k, v in _SETS.items() if k in solver.constraints),
        _BATCHES[solver.batch],
        ", ".join(f"`{name}`" for name in solver.step_names),
        _gradients(row),
    ]


def _gradients(row: Row) -> str:
    """Returns the cost of a step, which is linear in T and K, as a formula."""

    def of_both(T, K):
        gradients = row.make(T, K).gradients
        return gradients.total - gradients.constraint

    once = of_both(1, 1)
    slopes = {"T": of_both(2, 1) - once, "K": of_both(1, 2) - once}
    terms = [f"{n if n > 1 else ''}{name}" for name, n in slopes.items() if n]
    rest = once - sum(slopes.values())
    text = " + ".join([*terms, *([str(rest)] if rest else [])])
    of_constraint = row.make(1, 1).gradients.constraint
    return f"{text}, {of_constraint} of g" if of_constraint else text


if __name__ == "__main__":
    print("\n".join(table()))
