"""Tickets against new weights under the same masks, each at its own best learning rate."""

import numpy as np

from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd


def measure(seeds: int, rounds: int, rates: list[float], final: list[float]) -> list:
    """Finds tickets of an MLP on digits at each rate; trains them and new weights at all rates.

    Args:
      seeds: Number of seeds.
      rounds: Rounds of pruning.
      rates: Rates of pruning, of which the best by the ticket's validation accuracy counts.
      final: Rates of the training that is compared; each kind takes its best one.

    Returns:
      For each seed the test accuracies and the gain of the ticket.
    """
    trials: dict = {}
    for rate in rates:
        for seed in range(seeds):
            parts, start = nets.load(seed), sgd.init(seed)
            _, masks = sgd.rounds(start, parts["train"], seed, rounds, rate=rate)
            for name, params in (("ticket", start), ("new", sgd.init(seed + 1000))):
                for last in final:
                    end = sgd.finish(params, parts["train"], seed + 1, rate=last, masks=masks)
                    row = {part: sgd.right(end, parts[part]) for part in ("valid", "test")}
                    trials.setdefault((name, rate, last), []).append(row)

    def valid(key):
        return np.mean([row["valid"] for row in trials[key]])

    ticket = max((key for key in trials if key[0] == "ticket"), key=valid)
    new = max((key for key in trials if key[:2] == ("new", ticket[1])), key=valid)
    return [
        {"ticket": a["test"], "new": b["test"], "gain": a["test"] - b["test"]}
        for a, b in zip(trials[ticket], trials[new], strict=True)
    ]
