"""The shape of schedules that are refined from a run's gradient norms."""

import numpy as np

import optim
from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd


def measure(seeds: int, steps: int, rate: float) -> list[dict[str, float]]:
    """Trains an MLP on digits with linear decay and refines the schedule from its norms.

    Returns:
      For each seed the refined rate in the first step over the largest one, the place of the
      largest (0 the first step, 1 the last), and the rate in the last step over the largest.
    """
    rows = []
    for seed in range(seeds):
        parts = nets.load(seed)
        _, _, norms = sgd.train(sgd.init(seed), parts["train"], seed, steps=steps, rate=rate)
        schedule = optim.refined_schedule(1.0, norms)
        values = np.array([float(schedule(i)) for i in range(0, steps, 10)])
        last = float(schedule(steps - 1))
        rows.append(
            {
                "first": values[0] / values.max(),
                "place": float(values.argmax() / (len(values) - 1)),
                "last": last / values.max(),
            }
        )
    return rows
