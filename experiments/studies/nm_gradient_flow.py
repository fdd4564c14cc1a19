"""N:M masks that fade in, against straight-through training with and without SR-STE's decay."""

from typing import Any

import jax
import numpy as np
import optax

import bilevel
from experiments.comparing import workloads
from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd
from experiments.studies import _solvers as solvers

RULES = ("sr_ste", "ste", "linear", "exponential")


def measure(
    seeds: int, network: str, structure: str, data_dir: str | None = None
) -> list[dict[str, float]]:
    """Trains an MLP on a tenth of Fashion-MNIST, or a character transformer, through N:M masks.

    Every kernel is masked, the last one too; dense in the first tenth of the steps, the last masks
    in the last tenth.

    Returns:
      For each seed the test accuracy (MLP) or test loss (transformer) of each rule, and differences
      from SR-STE.
    """
    run = {"mlp": _mlp, "transformer": _transformer}[network]
    rows = run(seeds, structure, data_dir)
    return [
        {**row, **{f"{rule} - sr_ste": row[rule] - row["sr_ste"] for rule in RULES[1:]}}
        for row in rows
    ]


def _solvers(tx: Any, structure: str, steps: int) -> dict[str, bilevel.Solver]:
    tenth = steps // 10
    return {
        rule: bilevel.nm_training(tx, structure, rule, steps=steps, dense=tenth, finetune=tenth)
        for rule in RULES
    }


def _mlp(seeds, structure, data_dir):
    steps, rows = 900, []
    made = _solvers(solvers.sgd(steps), structure, steps)
    for seed in range(seeds):
        parts = nets.load(seed, "fashion_mnist", 6000, data_dir)
        start, row = sgd.init(seed, solvers.FASHION), {}
        for rule, solver in made.items():
            state = solver.init(solvers.PROBLEM, None, start)
            trained = solvers.run(solver, state, parts["train"], seed, steps)
            row[rule] = sgd.right(trained, parts["test"])
        rows.append(row)
    return rows


def _prepare(examples, key):
    return {"examples": examples, "key": key}


def _transformer(seeds, structure, data_dir):
    work = workloads.build("characters_transformer", data_dir)

    def loss(params, batch):
        return work.loss(params, {}, batch["examples"], batch["key"])[0]

    problem, evaluate = bilevel.pruning.problem(loss), jax.jit(work.evaluate)
    rate = optax.warmup_cosine_decay_schedule(0.0, 0.01, work.steps // 10, work.steps)
    made = _solvers(optax.adamw(rate, weight_decay=0.0), structure, work.steps)
    rows = []
    for seed in range(seeds):
        start, _ = jax.jit(work.init)(jax.random.key(seed))
        start, row = jax.tree.map(np.asarray, start), {}
        for rule, solver in made.items():
            state = solver.init(problem, None, start)
            trained = solvers.run(
                solver, state, work.data["train"], seed, work.steps, work.batch_size, _prepare
            )
            row[rule] = float(evaluate(trained, {}, work.data["test"]))
        rows.append(row)
    return rows
