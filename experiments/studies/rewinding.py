"""Iterative magnitude pruning at a high learning rate, rewound to the start or a little later."""

from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd


def measure(seeds: int, rounds: int, rate: float, early: int) -> list[dict[str, float]]:
    """Prunes an MLP on digits; the weights go back to step 0, or to step ``early``.

    Returns:
      For each seed the accuracy of the sparse networks, and the gain of the later point.
    """
    rows = []
    for seed in range(seeds):
        parts, start = nets.load(seed), sgd.init(seed)
        later = sgd.finish(start, parts["train"], seed, rates=[rate] * early)
        row = {}
        for name, params in (("start", start), ("early", later)):
            _, masks = sgd.rounds(params, parts["train"], seed, rounds, rate=rate)
            end = sgd.finish(params, parts["train"], seed, rate=rate, masks=masks)
            row[name] = sgd.right(end, parts["test"])
        rows.append({**row, "gain": row["early"] - row["start"]})
    return rows
