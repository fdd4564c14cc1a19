"""Pruning plasticity: what networks recover that are pruned early or late, with growth or without.

The plasticity is the accuracy after pruning and some further training, less that before.
"""

import jax
import jax.numpy as jnp
import numpy as np

import bilevel
from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd
from experiments.studies import _solvers as solvers

STEPS, AFTER = 900, 450  # Ten epochs of training; five after pruning, at the rate of its time.
TIMES = {"early": 270, "middle": 540, "late": 810}


def _rates(steps):
    """A tenth from half of the steps, another from three quarters on."""
    return 0.05 * np.where(steps < STEPS // 2, 1.0, np.where(steps < STEPS * 3 // 4, 0.1, 0.01))


def measure(seeds: int, density: float, data_dir: str | None = None) -> list[dict[str, float]]:
    """Prunes an MLP on a tenth of Fashion-MNIST by magnitude in the course of its training.

    Returns:
      For each seed the plasticity at each time, without and with an exchange of half of what is
      kept for the pruned weights of the largest gradients (so that the density is the same); and
      differences.
    """
    grads_of = jax.jit(jax.grad(lambda params, batch: solvers.PROBLEM.lower(None, params, batch)))
    rows = []
    for seed in range(seeds):
        parts = nets.load(seed, "fashion_mnist", 6000, data_dir)
        params, velocity, done = sgd.init(seed, solvers.FASHION), None, 0
        row: dict[str, float] = {}
        for name, time in TIMES.items():
            params, velocity, _ = sgd.train(
                params, parts["train"], seed * 10 + done, velocity=velocity,
                rates=_rates(np.arange(done, time)),
            )  # fmt: skip
            done, before = time, sgd.right(params, parts["test"])
            weights = sgd.kernels(params)
            cut = sgd.cut({n: np.abs(w) for n, w in weights.items()}, density)
            batch = solvers.draw(parts["train"], jax.random.key(seed), 512)
            grads = sgd.kernels(grads_of(nets.mask(params, cut), batch))
            grown = bilevel.pruning.exchange(jax.tree.map(jnp.asarray, cut), weights, grads, 0.5)
            for kind, masks in (("cut", cut), ("grown", jax.tree.map(np.asarray, grown))):
                begin = nets.mask(nets.mask(params, cut), masks)  # What has grown begins at zero.
                rates = np.full(AFTER, _rates(np.array(time)))
                end = sgd.finish(begin, parts["train"], seed + 1, masks=masks, rates=rates)
                row[f"{name} {kind}"] = sgd.right(end, parts["test"]) - before
            row[f"{name} gain"] = row[f"{name} grown"] - row[f"{name} cut"]
        row["late - early"] = row["late cut"] - row["early cut"]
        rows.append(row)
    return rows
