"""Whether the loss right after pruning tells the accuracy after retraining."""

import numpy as np
from scipy import stats

from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd


def measure(seeds: int, masks: int, kept: int, steps: int) -> list[dict[str, float]]:
    """Removes random sets of hidden neurons of a trained MLP on digits and retrains.

    Returns:
      For each seed Kendall's tau between the training loss before retraining and the test
      accuracy after it (negative if the loss tells), and that with the training loss after it.
    """
    rows = []
    for seed in range(seeds):
        parts = nets.load(seed)
        dense = sgd.finish(sgd.init(seed), parts["train"], seed)
        rng = np.random.default_rng(seed)
        before, accuracy, after = [], [], []
        for i in range(masks):
            off = np.ones(len(dense["layer0"]["bias"]), bool)
            off[rng.permutation(len(off))[:kept]] = False
            params = {name: dict(layer) for name, layer in dense.items()}
            params["layer0"]["bias"] = np.where(off, 0.0, dense["layer0"]["bias"])
            cut = {name: np.ones_like(k) for name, k in sgd.kernels(dense).items()}
            cut["layer0"][:, off] = 0.0
            cut["layer1"][off] = 0.0
            before.append(sgd.loss(nets.mask(params, cut), parts["train"]))
            tuned = sgd.finish(params, parts["train"], i, masks=cut, steps=steps, rate=0.02)
            accuracy.append(sgd.right(tuned, parts["test"]))
            after.append(sgd.loss(tuned, parts["train"]))
        rows.append(
            {
                "accuracy": float(stats.kendalltau(before, accuracy).statistic),
                "loss": float(stats.kendalltau(before, after).statistic),
            }
        )
    return rows
