"""Narrow networks cut out of a trained one and fine-tuned, against new ones of that width."""

import numpy as np

from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd


def measure(seeds: int, kept: int, steps: int) -> list[dict[str, float]]:
    """Keeps the hidden neurons of an MLP on digits whose kernels have the largest norms.

    Returns:
      For each seed the accuracy of the fine-tuned network (a third of the dense steps at a tenth
      of the rate), and of the same widths from new weights for as many steps as the dense network
      (E) and for as many as dense training and fine-tuning together (B); and differences.
    """
    rows = []
    for seed in range(seeds):
        parts = nets.load(seed)
        dense = sgd.finish(sgd.init(seed, (64, 128, 10)), parts["train"], seed, steps=steps)
        norms = np.linalg.norm(dense["layer0"]["kernel"], axis=0)
        best = np.sort(np.argsort(norms)[-kept:])
        small = {
            "layer0": {k: v[..., best] for k, v in dense["layer0"].items()},
            "layer1": {**dense["layer1"], "kernel": dense["layer1"]["kernel"][best]},
        }
        fresh, extra = sgd.init(seed + 1000, (64, kept, 10)), steps // 3
        ends = {
            "tuned": sgd.finish(small, parts["train"], seed + 1, steps=extra, rate=0.005),
            "scratch-E": sgd.finish(fresh, parts["train"], seed + 1, steps=steps),
            "scratch-B": sgd.finish(fresh, parts["train"], seed + 1, steps=steps + extra),
        }
        row = {name: sgd.right(params, parts["test"]) for name, params in ends.items()}
        for name in ("scratch-E", "scratch-B"):
            row[f"{name} - tuned"] = row[name] - row["tuned"]
        rows.append(row)
    return rows
