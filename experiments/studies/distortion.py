"""Distortions of pruned layers: do they add up, and is a smaller sum a smaller loss."""

import numpy as np

from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd

LEVELS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def measure(seeds: int, vectors: int) -> list[dict[str, float]]:
    """Prunes layers of a trained MLP on digits by magnitude, without retraining.

    Returns:
      For each seed by how much of it the distortion of the logits with all layers pruned by a
      half, or by 80 %, exceeds the sum of those with one layer pruned; and, of pairs of random
      level vectors, the share in which the smaller sum of single increases of the loss has the
      larger loss.
    """
    rows = []
    for seed in range(seeds):
        parts = nets.load(seed)
        dense = sgd.finish(sgd.init(seed), parts["train"], seed)
        x, clean = parts["train"][0], sgd.logits(dense, parts["train"][0])
        row = {}
        for level in (0.5, 0.8):
            single = [_distortion(_pruned(dense, {n: level}), x, clean) for n in dense]
            together = _distortion(_pruned(dense, dict.fromkeys(dense, level)), x, clean)
            row[f"excess {level}"] = together / sum(single) - 1
        base = sgd.loss(dense, parts["train"])
        increase = {
            (n, level): sgd.loss(_pruned(dense, {n: level}), parts["train"]) - base
            for n in dense
            for level in LEVELS
        }
        rng = np.random.default_rng(seed)
        sums, losses = [], []
        for _ in range(vectors):
            levels = {n: LEVELS[rng.integers(len(LEVELS))] for n in dense}
            sums.append(sum(increase[item] for item in levels.items()))
            losses.append(sgd.loss(_pruned(dense, levels), parts["train"]))
        up, over = np.subtract.outer(sums, sums), np.subtract.outer(losses, losses)
        distinct = up < 0
        row["wrong order"] = float(((over > 0) & distinct).sum() / distinct.sum())
        rows.append(row)
    return rows


def _pruned(params, levels):
    masks = {}
    for name, kernel in sgd.kernels(params).items():
        cutoff = np.quantile(np.abs(kernel), levels.get(name, 0.0))
        masks[name] = np.abs(kernel) >= cutoff
    return nets.mask(params, masks)


def _distortion(params, x, clean):
    return float(((sgd.logits(params, x) - clean) ** 2).sum(-1).mean())
