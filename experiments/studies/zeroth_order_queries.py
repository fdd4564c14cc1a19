"""Differences along coordinates (CGE) and along random directions (RGE) at equal evaluations."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import optim
from experiments.studies import _networks as nets


def measure(seeds: int, steps: int, rates: list[float], hidden: int) -> list[dict[str, float]]:
    """Trains a classifier of 4x4 digits with as many ``hidden`` units by estimated gradients.

    CGE and RGE make ``steps`` steps of as many evaluations as there are parameters, RGE with 10
    directions as many evaluations in all, in more steps; each at its best rate.

    Returns:
      For each seed the training loss of each after them, the logarithm of that of CGE over those of
      the others, and the cosine of the first estimates to the gradient.
    """
    zo = optim.zeroth_order
    rows: list[dict[str, float]] = []
    widths = (16, hidden, 10) if hidden else (16, 10)
    size = ravel_pytree(nets.mlp_init(jax.random.key(0), widths))[0].size
    few = steps * (size + 1) // 11
    estimators = {
        "CGE": (zo.cge(1e-3, chunk=size), steps),
        "RGE": (zo.rge(1e-3, size, two_sided=False, chunk=size), steps),
        "RGE, 10 directions": (zo.rge(1e-3, 10, two_sided=False, chunk=10), few),
    }
    runs = {}
    for name, (estimator, many) in estimators.items():

        @jax.jit
        def run(x, y, key, rate, estimator=estimator, many=many):
            first, unravel = ravel_pytree(nets.mlp_init(key, widths))
            first = first if hidden else jnp.zeros(size)  # Convex: there is no reason for chance.

            def loss(w, batch=None):
                return nets.cross_entropy(nets.mlp(unravel(w), x), y)

            estimate = zo.value_and_grad(loss, estimator)

            def step(w, i):
                _, g = estimate(w, None, key=jax.random.fold_in(key, i))
                return w - rate * g, None

            _, g = estimate(first, None, key=jax.random.fold_in(key, 0))
            exact = jax.grad(loss)(first)
            cosine = g @ exact / (jnp.linalg.norm(g) * jnp.linalg.norm(exact))
            w, _ = jax.lax.scan(step, first, jnp.arange(many))
            return loss(w), cosine

        runs[name] = run
    for seed in range(seeds):
        images, labels = nets.load(seed, flat=False)["train"]
        x = images[:512].reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16)
        row = {}
        for name, run in runs.items():
            tried = [run(x, labels[:512], jax.random.key(seed), rate) for rate in rates]
            row[name] = min(float(loss) for loss, _ in tried if np.isfinite(loss))
            row[f"{name} cosine"] = float(tried[0][1])
        for name in ("RGE", "RGE, 10 directions"):
            row[f"gap to {name}"] = float(np.log(row["CGE"] / row[name]))
        rows.append(row)
    return rows
