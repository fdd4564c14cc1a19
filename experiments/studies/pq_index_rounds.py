"""The PQ index of an MLP over rounds of magnitude pruning."""

import itertools

import jax.numpy as jnp
import numpy as np

import bilevel
from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd


def measure(seeds: int, rounds: int) -> list[dict[str, float]]:
    """Prunes a fifth of an MLP on digits in each round and rewinds.

    Returns:
      For each seed the index after each round of training, and how clearly it falls, rises and
      falls: the largest over rounds a < b of the smallest of I_0 - I_a, I_b - I_a, I_b - I_last.
    """
    rows = []
    for seed in range(seeds):
        parts, start = nets.load(seed), sgd.init(seed)
        masks = {name: np.ones(k.shape, bool) for name, k in sgd.kernels(start).items()}
        found = []
        for i in range(rounds):
            trained = sgd.kernels(sgd.finish(start, parts["train"], seed, masks=masks))
            flat = np.concatenate([k.ravel() for k in trained.values()])
            kept = np.concatenate([m.ravel() for m in masks.values()])
            found.append(float(bilevel.pq_index(jnp.asarray(flat), jnp.asarray(kept))))
            masks = sgd.cut({n: np.abs(k) * masks[n] for n, k in trained.items()}, 0.8 ** (i + 1))
        waves = [
            min(found[0] - found[a], found[b] - found[a], found[b] - found[-1])
            for a, b in itertools.combinations(range(rounds), 2)
        ]
        row = {f"index {i}": index for i, index in enumerate(found)}
        rows.append({**row, "wave": max(waves), "first to last": found[-1] - found[0]})
    return rows
