"""How fast Lion-K's iterates enter the box of their constraint, on three networks."""

import jax
import jax.numpy as jnp

import optim
from experiments.studies import _networks as nets


def measure(seeds: int, rate: float, decay: float, steps: int) -> list[dict[str, float]]:
    """Trains with Lion, weight decay ``decay``, from weights far outside of the box 1 / decay.

    Returns:
      For each seed: over all steps the largest ratio of the distance to the box after a step to
      ``(1 - rate * decay)`` times that before it; the share of coordinates outside at the start and
      at the end. The worst of a logistic regression, an MLP, and an MLP with normalization.
    """
    tx = optim.lion(rate, weight_decay=decay)

    def loss(params, x, y):
        return nets.cross_entropy(nets.mlp(params, x), y)

    def outside(params):
        flat = jnp.concatenate([p.ravel() for p in jax.tree.leaves(params)])
        return jnp.maximum(jnp.abs(flat) - 1 / decay, 0.0)

    def kept(before, after, grads):
        old, new = outside(before), outside(after)
        # Rounding of weights of this size, in units of their own.
        slack = 4 * jnp.finfo(jnp.float32).eps * (old + 1 / decay)
        ratio = jnp.where(old > 0, (new - slack) / ((1 - rate * decay) * old), 0.0)
        return ratio.max(), (new > slack).mean(), jnp.where(old == 0, new - slack, 0.0).max()

    @jax.jit
    def run(key, split):
        found = []
        for widths, norm in (((64, 10), False), ((64, 128, 10), False), ((64, 128, 128, 10), True)):
            params = nets.mlp_init(key, widths, norm)
            params = jax.tree.map(
                lambda p: p + 20 * jax.random.normal(key, p.shape) / decay, params
            )
            start = (outside(params) > 0).mean()
            _, (ratio, share, left) = nets.train(loss, tx, params, split, key, steps, measure=kept)
            found.append([ratio.max(), share[-1], left.max(), start])
        worst = jnp.max(jnp.array(found), 0)
        return {"ratio": worst[0], "end": worst[1], "left": worst[2], "start": worst[3]}

    return [run(jax.random.key(seed), nets.load(seed)["train"]) for seed in range(seeds)]
