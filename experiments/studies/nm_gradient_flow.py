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


def measure(
    seeds: int, network: str, rule: str, structure: str, data_dir: str | None = None
) -> list[dict[str, float]]:
    """Trains an MLP on a tenth of Fashion-MNIST, or a character transformer, through N:M masks.

    Every kernel is masked, the last one too; dense in the first tenth of the steps, the last masks
    in the last tenth.

    Returns:
      For each seed the test accuracy (MLP) or test loss (transformer).
    """
    run = {"mlp": _mlp, "transformer": _transformer}[network]
    return [{"test": value} for value in run(seeds, rule, structure, data_dir)]


def _solver(tx: Any, structure: str, rule: str, steps: int) -> bilevel.Solver:
    tenth = steps // 10
    return bilevel.nm_training(tx, structure, rule, steps=steps, dense=tenth, finetune=tenth)


def _mlp(seeds, rule, structure, data_dir):
    steps, values = 900, []
    solver = _solver(solvers.sgd(steps), structure, rule, steps)
    for seed in range(seeds):
        parts = nets.load(seed, "fashion_mnist", 6000, data_dir)
        state = solver.init(solvers.PROBLEM, None, sgd.init(seed, solvers.FASHION))
        trained = solvers.run(solver, state, parts["train"], seed, steps)
        values.append(sgd.right(trained, parts["test"]))
    return values


def _prepare(examples, key):
    return {"examples": examples, "key": key}


def _transformer(seeds, rule, structure, data_dir):
    work = workloads.build("characters_transformer", data_dir)

    def loss(params, batch):
        return work.loss(params, {}, batch["examples"], batch["key"])[0]

    rate = optax.warmup_cosine_decay_schedule(0.0, 0.01, work.steps // 10, work.steps)
    solver = _solver(optax.adam(rate), structure, rule, work.steps)
    problem, evaluate, values = bilevel.pruning.problem(loss), jax.jit(work.evaluate), []
    for seed in range(seeds):
        start, _ = jax.jit(work.init)(jax.random.key(seed))
        state = solver.init(problem, None, jax.tree.map(np.asarray, start))
        trained = solvers.run(
            solver, state, work.data["train"], seed, work.steps, work.batch_size, _prepare
        )
        values.append(float(evaluate(trained, {}, work.data["test"])))
    return values
