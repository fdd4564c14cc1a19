"""Ratios of layers by rate-distortion, against ERK, LAMP and one global cut, after retraining."""

import jax.numpy as jnp
import numpy as np

import bilevel
from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd
from experiments.studies import _solvers as solvers

STEPS, AFTER = 900, 300


def measure(seeds: int, density: float, data_dir: str | None = None) -> list[dict[str, float]]:
    """Prunes a trained MLP on a tenth of Fashion-MNIST once by magnitude, and trains it further.

    Distortions are mean squared changes of the logits of 1,000 training images where one layer
    alone is pruned to one of 40 levels.

    Returns:
      For each seed the accuracies, and rate-distortion's less that of the others, after the
      retraining and (``raw``) before.
    """
    rows = []
    for seed in range(seeds):
        parts = nets.load(seed, "fashion_mnist", 6000, data_dir)
        dense = sgd.finish(sgd.init(seed, solvers.FASHION), parts["train"], seed, steps=STEPS)
        sizes = {name: np.abs(w) for name, w in sgd.kernels(dense).items()}
        lamp = bilevel.allocate.lamp({name: jnp.asarray(w) for name, w in sizes.items()})
        by_levels = _levels(dense, sizes, parts["train"][0][:1000], density)
        masks = {
            "rd": sgd.cut(sizes, by_levels, scope="layer"),
            "erk": sgd.cut(sizes, bilevel.allocate.erk(sizes, density), scope="layer"),
            "lamp": sgd.cut(lamp, density),
            "global": sgd.cut(sizes, density),
        }
        row = {}
        for name, found in masks.items():
            pruned = nets.mask(dense, found)
            row[f"{name} raw"] = sgd.right(pruned, parts["test"])
            end = sgd.finish(pruned, parts["train"], seed + 1, masks=found, steps=AFTER, rate=0.02)
            row[name] = sgd.right(end, parts["test"])
        for name in ("erk", "lamp", "global"):
            row[f"rd - {name}"] = row["rd"] - row[name]
            row[f"rd - {name} raw"] = row["rd raw"] - row[f"{name} raw"]
        rows.append(row)
    return rows


def _levels(dense, sizes, x, density):
    """Densities of the layers whose distortions add up to the least."""
    sparsities = [*np.linspace(0.0, 0.95, 30), *np.linspace(0.955, 0.998, 10)]
    clean, costs = sgd.logits(dense, x), {}
    for name, size in sizes.items():
        row = []
        for phi in sparsities:
            kept = {n: np.ones(w.shape, bool) for n, w in sizes.items()}
            kept |= sgd.cut({name: size}, 1 - phi, scope="layer")
            moved = sgd.logits(nets.mask(dense, kept), x) - clean
            row.append(float(np.square(moved).mean()))
        costs[name] = np.array(row)
    found = bilevel.allocate.rate_distortion(sizes, sparsities, costs, density)
    return {name: 1 - sparsities[level] for name, level in found.items()}
