"""Differences along coordinates (CGE) and along random directions (RGE) at equal evaluations."""

import jax
import jax.numpy as jnp
import numpy as np

import optim
from experiments.studies import _networks as nets


def measure(seeds: int, steps: int, rates: list[float]) -> list[dict[str, float]]:
    """Trains a linear classifier of 4x4 digits (170 parameters) by estimated gradients.

    Returns:
      For each seed the training loss of both after ``steps`` steps of as many evaluations, each at
      its best rate, the difference of their logarithms, and the cosine of the first estimate to
      the gradient.
    """
    zo = optim.zeroth_order
    size = 16 * 10 + 10
    estimators = {
        "CGE": zo.cge(1e-3, chunk=size),
        "RGE": zo.rge(1e-3, size, two_sided=False, chunk=size),
    }
    rows: list[dict[str, float]] = []
    runs = {}
    for name, estimator in estimators.items():

        @jax.jit
        def run(x, y, key, rate, estimator=estimator):
            def loss(w, batch=None):
                return nets.cross_entropy(x @ w[:160].reshape(16, 10) + w[160:], y)

            estimate = zo.value_and_grad(loss, estimator)

            def step(w, i):
                _, g = estimate(w, None, key=jax.random.fold_in(key, i))
                exact = jax.grad(loss)(w)
                cosine = g @ exact / (jnp.linalg.norm(g) * jnp.linalg.norm(exact))
                return w - rate * g, cosine

            w, cosines = jax.lax.scan(step, jnp.zeros(size), jnp.arange(steps))
            return loss(w), cosines[0]

        runs[name] = run
    for seed in range(seeds):
        images, labels = nets.load(seed, flat=False)["train"]
        x = images[:512].reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16)
        row = {}
        for name, run in runs.items():
            tried = [run(x, labels[:512], jax.random.key(seed), rate) for rate in rates]
            row[name] = min(float(loss) for loss, _ in tried if np.isfinite(loss))
            row[f"{name} cosine"] = float(tried[0][1])
        rows.append({**row, "gap": float(np.log(row["CGE"] / row["RGE"]))})
    return rows
