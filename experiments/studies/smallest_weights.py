"""What the smallest weights of trained networks do: they are set to zero."""

import numpy as np

from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd


def measure(seeds: int, widths: list[int], share: float) -> list[dict[str, float]]:
    """Zeroes the smallest weights of an MLP on digits after training, and trains no more.

    Returns:
      For each seed the test accuracy before and after, and the change.
    """
    rows = []
    for seed in range(seeds):
        parts = nets.load(seed)
        params = sgd.finish(sgd.init(seed, widths), parts["train"], seed)
        masks = sgd.cut({n: np.abs(k) for n, k in sgd.kernels(params).items()}, 1 - share)
        before = sgd.right(params, parts["test"])
        after = sgd.right(nets.mask(params, masks), parts["test"])
        rows.append({"before": before, "after": after, "change": after - before})
    return rows
