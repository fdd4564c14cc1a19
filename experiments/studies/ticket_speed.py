"""When tickets and the dense network have their least validation loss."""

import numpy as np

from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd


def measure(seeds: int, rounds: int, rate: float, every: int, checks: int) -> list:
    """Finds a ticket of an MLP on digits, then trains it and the dense network at a constant rate.

    Returns:
      For each seed the step of the least validation loss of both, their ratio, and that of the
      same masks with new weights.
    """
    rows = []
    for seed in range(seeds):
        parts, start = nets.load(seed), sgd.init(seed)
        _, masks = sgd.rounds(start, parts["train"], seed, rounds)
        stops = {}
        for name, params, mask in (
            ("dense", start, None),
            ("ticket", start, masks),
            ("new", sgd.init(seed + 1000), masks),
        ):
            losses, velocity = [], None
            for i in range(checks):
                params, velocity, _ = sgd.train(
                    params,
                    parts["train"],
                    1000 * seed + i,
                    masks=mask,
                    rates=np.full(every, rate),
                    velocity=velocity,
                )
                losses.append(sgd.loss(params, parts["valid"]))
            stops[name] = every * (1 + int(np.argmin(losses)))
        rows.append({**stops, "ticket / dense": stops["ticket"] / stops["dense"]})
    return rows
