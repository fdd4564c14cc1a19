"""How many directions the weights of a network have moved along, for full and low-rank updates."""

import jax
import jax.numpy as jnp
import optax

import optim
from experiments.studies import _networks as nets


def measure(seeds: int, steps: int, gap: int, density: float) -> list[dict[str, float]]:
    """Trains the hidden matrix of an MLP on digits with each method.

    Returns:
      For each seed and method the effective rank of W_T - W_0 of the hidden 128 x 128 kernel (the
      exponential of the entropy of its squared singular values), their ratio, and the accuracy.
    """

    def projectable(path, leaf):
        return "layer1" in str(path) and leaf.ndim == 2

    optimizers = {
        "AdamW": optax.adamw(1e-3, weight_decay=0.0),
        "FRUGAL": optim.frugal(
            1e-3, density=density, update_gap=gap, subspace="svd", projectable=projectable
        ),
        "GaLore": optim.galore(
            1e-3, density=density, update_gap=gap, projectable_scale=1.0, projectable=projectable
        ),
    }

    def loss(params, x, y):
        return nets.cross_entropy(nets.mlp(params, x), y)

    def effective_rank(change):
        shares = jnp.linalg.svd(change, compute_uv=False) ** 2
        shares = shares / shares.sum()
        return jnp.exp(-(shares * jnp.log(shares + 1e-30)).sum())

    rows: list[dict[str, float]] = [{} for _ in range(seeds)]
    for name, tx in optimizers.items():

        @jax.jit
        def run(key, parts, tx=tx):
            params = nets.mlp_init(key, (64, 128, 128, 10))
            end, _ = nets.train(loss, tx, params, parts["train"], key, steps)
            change = end["layer1"]["kernel"] - params["layer1"]["kernel"]
            return effective_rank(change), nets.accuracy(
                nets.mlp(end, parts["test"][0]), parts["test"][1]
            )

        for seed, row in enumerate(rows):
            rank, right = run(jax.random.key(seed), nets.load(seed))
            row[f"{name} rank"], row[f"{name} accuracy"] = float(rank), float(right)
    return [{**row, "ratio": row["FRUGAL rank"] / row["GaLore rank"]} for row in rows]
