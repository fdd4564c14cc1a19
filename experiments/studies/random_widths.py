"""Networks pruned at random before training, over their width."""

import numpy as np

import bilevel
from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd


def measure(seeds: int, width: int, density: float) -> list[dict[str, float]]:
    """Trains dense and random sparse MLPs with two hidden layers of ``width`` on digits.

    Returns:
      For each seed the accuracies, dense and sparse (ratios of layers by ERK), and the gap.
    """
    rows = []
    for seed in range(seeds):
        parts, start = nets.load(seed), sgd.init(seed, (64, width, width, 10))
        rng = np.random.default_rng(seed)
        scores = {name: rng.random(k.shape) for name, k in sgd.kernels(start).items()}
        ratios = {k: float(v) for k, v in bilevel.allocate.erk(scores, density).items()}
        masks = sgd.cut(scores, ratios, scope="layer")
        dense = sgd.right(sgd.finish(start, parts["train"], seed), parts["test"])
        sparse = sgd.right(sgd.finish(start, parts["train"], seed, masks=masks), parts["test"])
        rows.append({"dense": dense, "sparse": sparse, "gap": dense - sparse})
    return rows
