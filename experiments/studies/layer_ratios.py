"""What decides the accuracy of pruning before training: ratios of layers, or places in them."""

import jax
import numpy as np

import bilevel
from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd


def measure(seeds: int, density: float) -> list[dict[str, float]]:
    """Trains an MLP on digits under masks made at the start.

    Returns:
      For each seed the accuracy of random masks with ratios by ERK and uniform ones, of SNIP's
      masks, and of SNIP's masks shuffled inside each layer; and differences.
    """
    rows = []
    for seed in range(seeds):
        parts, start = nets.load(seed), sgd.init(seed)
        rng = np.random.default_rng(seed)
        weights = sgd.kernels(start)
        noise = {name: rng.random(k.shape) for name, k in weights.items()}
        x, y = parts["train"]

        def loss(kernels, start=start, x=x, y=y):
            params = {k: {**v, "kernel": kernels[k]} for k, v in start.items()}
            return nets.cross_entropy(nets.mlp(params, x), y)

        grads = jax.jit(jax.grad(loss))(weights)
        snip = sgd.cut({n: np.abs(k * np.asarray(grads[n])) for n, k in weights.items()}, density)
        masks = {
            "snip": snip,
            "shuffled": sgd.cut(noise, sgd.densities(snip), scope="layer"),
            "erk": _by(bilevel.allocate.erk, noise, density),
            "uniform": _by(bilevel.allocate.uniform, noise, density),
        }
        row = {
            name: sgd.right(sgd.finish(start, parts["train"], seed, masks=m), parts["test"])
            for name, m in masks.items()
        }
        row["erk - uniform"] = row["erk"] - row["uniform"]
        rows.append({**row, "snip - shuffled": row["snip"] - row["shuffled"]})
    return rows


def _by(rule, noise, density):
    ratios = {name: float(v) for name, v in rule(noise, density).items()}
    return sgd.cut(noise, ratios, scope="layer")
