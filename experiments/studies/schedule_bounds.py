"""Whether the last-iterate bound orders schedules as their losses do: logistic regression."""

import jax.numpy as jnp
import numpy as np
from scipy import stats

import optim
from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd

PROFILES = ("constant", "linear", "cosine", "rex", "exponential", "inverse_sqrt")


def _values(profile: str, steps: int) -> np.ndarray:
    x = np.arange(steps) / steps
    if profile == "constant":
        return np.ones(steps)
    if profile == "inverse_sqrt":
        return 1 / np.sqrt(1 + np.arange(steps))
    if profile == "exponential":
        return np.exp(-3 * x)
    schedule = optim.sampled_schedule(profile, 1.0, steps)
    return np.asarray(jnp.stack([schedule(i) for i in range(steps)]))


def measure(seeds: int, rates: list[float], steps: int) -> list[dict[str, float]]:
    """Trains a linear classifier of digits with each schedule, at its best rate.

    Returns:
      For each seed Spearman's correlation over schedules of the training loss with the bound, from
      the norms of that run and the distance that the run with linear decay went.
    """
    profiles = {name: np.maximum(_values(name, steps), 1e-6) for name in PROFILES}
    rows = []
    for seed in range(seeds):
        split, start = nets.load(seed)["train"], sgd.init(seed, (64, 10))
        best = {}
        for name, profile in profiles.items():
            for rate in rates:
                end, _, norms = sgd.train(start, split, seed, rates=rate * profile)
                result = sgd.loss(end, split), rate * profile, norms, end
                best[name] = min(best.get(name, result), result, key=lambda r: r[0])
        end = best["linear"][3]
        squares = [((end["layer0"][k] - start["layer0"][k]) ** 2).sum() for k in ("kernel", "bias")]
        distance = float(np.sqrt(sum(squares)))
        losses = [best[name][0] for name in profiles]
        # Momentum multiplies each step by ten in the long run.
        bounds = [
            optim.last_iterate_bound(10 * best[name][1], best[name][2], distance)[0]
            for name in profiles
        ]
        row = {name: float(loss) for name, loss in zip(profiles, losses, strict=True)}
        rows.append({**row, "spearman": float(stats.spearmanr(bounds, losses).statistic)})
    return rows
