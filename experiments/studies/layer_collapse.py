"""Global magnitude pruning at extreme sparsity, with and without a floor under every layer."""

import warnings

import numpy as np

import bilevel
from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd


def measure(seeds: int, density: float, floor: int) -> list[dict[str, float]]:
    """Prunes a trained MLP on digits at once, and trains what is left.

    Returns:
      For each seed the accuracy without and with the floor, the gain, and the weights that the
      emptiest layer keeps.
    """
    rows = []
    for seed in range(seeds):
        parts = nets.load(seed)
        dense = sgd.finish(sgd.init(seed), parts["train"], seed)
        scores = {name: np.abs(k) for name, k in sgd.kernels(dense).items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # That a layer is empty is what we look at.
            plain = sgd.cut(scores, density)
        kept = bilevel.allocate.min_threshold(scores, sgd.densities(plain), density, floor)
        floored = sgd.cut(scores, {k: float(v) for k, v in kept.items()}, scope="layer")
        row = {"emptiest": float(min(m.sum() for m in plain.values()))}
        for name, masks in (("plain", plain), ("floor", floored)):
            params = sgd.finish(dense, parts["train"], seed + 1, masks=masks)
            row[name] = sgd.right(params, parts["test"])
        rows.append({**row, "gain": row["floor"] - row["plain"]})
    return rows
