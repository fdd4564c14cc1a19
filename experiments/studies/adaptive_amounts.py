"""Rounds that prune as much as the PQ index says, against a fixed share, at equal density."""

import jax.numpy as jnp
import numpy as np

import bilevel
from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd


def measure(seeds: int, rounds: int) -> list[dict[str, float]]:
    """Prunes an MLP on digits by SAP, then by a fixed share that ends at the same density.

    Returns:
      For each seed the final density, the accuracies of the last trained networks, and the gain.
    """
    rows = []
    for seed in range(seeds):
        parts, start = nets.load(seed), sgd.init(seed)
        accuracy, density = _pruned(start, parts, seed, rounds, None)
        fixed, _ = _pruned(start, parts, seed, rounds, density ** (1 / rounds))
        row = {"density": density, "sap": accuracy, "fixed": fixed}
        rows.append({**row, "gain": accuracy - fixed})
    return rows


def _pruned(start, parts, seed, rounds, keep):
    masks = {name: np.ones(k.shape, bool) for name, k in sgd.kernels(start).items()}
    for i in range(rounds):
        trained = sgd.kernels(sgd.finish(start, parts["train"], seed, masks=masks))
        if keep is None:
            tree = {name: jnp.asarray(k) for name, k in trained.items()}
            given = {name: jnp.asarray(m) for name, m in masks.items()}
            masks = {k: np.asarray(m) for k, m in bilevel.pruning.sap_masks(given, tree).items()}
        else:
            scores = {name: np.abs(k) * masks[name] for name, k in trained.items()}
            masks = sgd.cut(scores, keep ** (i + 1))
    end = sgd.finish(start, parts["train"], seed, masks=masks)
    flat = np.concatenate([m.ravel() for m in masks.values()])
    return sgd.right(end, parts["test"]), float(flat.mean())
