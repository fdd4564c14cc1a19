"""How often the learning rate is refreshed, apart from the profile it follows."""

import jax.numpy as jnp
import numpy as np

import optim
from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd


def measure(seeds: int, profile: str, rates: list[float], steps: int) -> list[dict[str, float]]:
    """Trains an MLP on digits with a profile refreshed at every step, or held between milestones.

    Returns:
      For each seed the logarithm of the training loss for each sampling at its best rate by the
      validation loss, and differences to refreshing at every step.
    """
    parts = [nets.load(seed) for seed in range(seeds)]
    found = {}
    for sampling in ("every", "50-75", "10-10"):
        trials = {}
        for rate in rates:
            schedule = optim.sampled_schedule(profile, rate, steps, sampling=sampling)
            values = np.asarray(jnp.stack([schedule(i) for i in range(steps)]))
            trials[rate] = []
            for seed, own in enumerate(parts):
                end = sgd.finish(sgd.init(seed), own["train"], seed, rates=values)
                loss = float(np.log(sgd.loss(end, own["train"])))
                trials[rate].append({"valid": -sgd.loss(end, own["valid"]), "loss": loss})
        found[sampling] = [row["loss"] for row in nets.best(trials)]
    rows = []
    for losses in zip(*found.values(), strict=True):
        row = dict(zip(found, losses, strict=True))
        for sampling in ("50-75", "10-10"):
            row[f"every - {sampling}"] = row["every"] - row[sampling]
        rows.append(row)
    return rows
