"""Whether regrowth helps sparse training: GraNet against RigL, SET, GMP and fixed random masks."""

from typing import Any

import jax

import bilevel
from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd
from experiments.studies import _solvers as solvers

STEPS, EVERY = 900, 30
METHODS = {
    "granet": bilevel.dynamic.granet,
    "rigl": bilevel.dynamic.rigl,
    "set": bilevel.dynamic.set_,
    "gmp": bilevel.dynamic.gmp,
}


def measure(seeds: int, density: float, data_dir: str | None = None) -> list[dict[str, float]]:
    """Trains an MLP on a tenth of Fashion-MNIST, each method with the same batches and rates.

    GraNet starts with half of the weights, GMP with all, the others with ``density`` by ERK.

    Returns:
      For each seed the accuracy of each method, and GraNet's less that of the others.
    """
    tx = solvers.sgd(STEPS)
    made = {name: make(tx, density, every=EVERY, steps=STEPS) for name, make in METHODS.items()}
    made["static"] = bilevel.sparse_training(tx)
    rows = []
    for seed in range(seeds):
        parts = nets.load(seed, "fashion_mnist", 6000, data_dir)
        start = sgd.init(seed, solvers.FASHION)
        key, other = jax.random.split(jax.random.key(1000 + seed))  # Not that of the weights.
        row: dict[str, float] = {}
        for name, solver in made.items():
            masks: Any = None
            options: dict[str, Any] = {"key": key}
            if name == "static":
                masks, options = bilevel.dynamic.start_masks(other, start, density), {}
            state = solver.init(solvers.PROBLEM, masks, start, **options)
            trained = solvers.run(solver, state, parts["train"], seed, STEPS)
            row[name] = sgd.right(trained, parts["test"])
        others = {f"granet - {name}": row["granet"] - row[name] for name in list(made)[1:]}
        rows.append({**row, **others})
    return rows
