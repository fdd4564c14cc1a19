"""The barrier between two networks, before and after their neurons are matched by weights."""

import numpy as np
from scipy import optimize

from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd


def measure(seeds: int, width: int, sweeps: int) -> list[dict[str, float]]:
    """Trains two MLPs on digits from different starts and walks the line between them.

    Returns:
      For each seed the largest excess of the training loss over the line of the two ends, as they
      are and with the neurons of one permuted (Git Re-Basin's weight matching), and their ratio.
    """
    rows = []
    for seed in range(seeds):
        parts = nets.load(seed)
        a, b = (
            sgd.finish(sgd.init(s, (64, width, width, 10)), parts["train"], s)
            for s in (seed, seed + 1000)
        )
        plain = _barrier(a, b, parts["train"])
        matched = _barrier(a, _matched(a, b, sweeps), parts["train"])
        rows.append({"plain": plain, "matched": matched, "ratio": matched / plain})
    return rows


def _matched(a, b, sweeps):
    """Permutes the hidden neurons of ``b``, layer after layer, to agree with ``a``."""
    b = {name: dict(layer) for name, layer in b.items()}
    for _ in range(sweeps):
        for i in range(len(b) - 1):
            here, after = f"layer{i}", f"layer{i + 1}"
            agreement = a[here]["kernel"].T @ b[here]["kernel"]
            agreement = agreement + a[after]["kernel"] @ b[after]["kernel"].T
            agreement = agreement + np.outer(a[here]["bias"], b[here]["bias"])
            _, order = optimize.linear_sum_assignment(agreement, maximize=True)
            b[here] = {"kernel": b[here]["kernel"][:, order], "bias": b[here]["bias"][order]}
            b[after]["kernel"] = b[after]["kernel"][order]
    return b


def _barrier(a, b, split):
    ends = sgd.loss(a, split), sgd.loss(b, split)
    excess = []
    for t in np.linspace(0, 1, 11):
        mixed = {
            name: {k: (1 - t) * a[name][k] + t * b[name][k] for k in ("kernel", "bias")}
            for name in a
        }
        excess.append(sgd.loss(mixed, split) - (1 - t) * ends[0] - t * ends[1])
    return max(excess)
