"""Effective step sizes of scale-invariant weights under SGD, momentum, and SGDP."""

import jax
import jax.numpy as jnp
import optax

import optim
from experiments.studies import _networks as nets


def measure(seeds: int, steps: int, rate: float) -> list[dict[str, float]]:
    """Trains an MLP with batch normalization on digits; follows the kernels before it.

    Returns:
      For each seed and optimizer the norm of all scale-invariant kernels at the end over that at
      the start, the mean effective step size of the last quarter, ``|w' - w| / |w|``, and ratios.
    """
    optimizers = {
        "sgd": optax.sgd(rate),
        "sgdm": optax.sgd(rate, momentum=0.9),
        "sgdp": optim.sgdp(rate, momentum=0.9),
    }

    def invariant(params):
        return jnp.concatenate([v["kernel"].ravel() for v in params.values() if "scale" in v])

    def kept(before, after, grads):
        w, moved = invariant(before), invariant(after)
        return jnp.linalg.norm(w), jnp.linalg.norm(moved - w) / jnp.linalg.norm(w)

    def loss(params, x, y):
        return nets.cross_entropy(nets.mlp(params, x), y)

    @jax.jit
    def run(key, split):
        params = nets.mlp_init(key, (64, 128, 128, 10), norm=True)
        return {
            name: nets.train(loss, tx, params, split, key, steps, measure=kept)[1]
            for name, tx in optimizers.items()
        }

    rows = []
    for seed in range(seeds):
        found = run(jax.random.key(seed), nets.load(seed)["train"])
        row = {}
        for name, (norms, moved) in found.items():
            row[f"{name} norm"] = float(norms[-1] / norms[0])
            row[f"{name} step"] = float(moved[-(steps // 4) :].mean())
        for a, b in (("sgdm", "sgd"), ("sgdp", "sgdm")):
            row[f"{a} / {b} norm"] = row[f"{a} norm"] / row[f"{b} norm"]
        row["sgdp / sgdm step"] = row["sgdp step"] / row["sgdm step"]
        rows.append(row)
    return rows
