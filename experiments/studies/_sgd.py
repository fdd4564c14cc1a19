"""One program that trains an MLP of given widths by SGD with momentum, for many studies.

Masks, learning rates, their number and the batches are all arguments, so that each pair of widths
and data set is compiled once and kept in the compilation cache.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bilevel
from experiments.studies import _networks as nets

__all__ = ["WIDTHS", "cut", "densities", "finish", "init", "kernels", "right", "rounds", "train"]

WIDTHS = (64, 128, 64, 10)
LONGEST = 2000  # Steps of one call.


@jax.jit
def _train(params, velocity, masks, split, key, rates, steps):
    x, y = split

    def loss(params, rows):
        return nets.cross_entropy(nets.mlp(params, x[rows]), y[rows])

    def step(i, carry):
        params, velocity, norms = carry
        rows = jax.random.randint(jax.random.fold_in(key, i), (64,), 0, len(x))
        grads = nets.mask(jax.grad(loss)(params, rows), masks)
        squares = sum(jnp.sum(g * g) for g in jax.tree.leaves(grads))
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, grads)
        params = jax.tree.map(lambda p, v: p - rates[i] * v, params, velocity)
        return params, velocity, norms.at[i].set(jnp.sqrt(squares))

    start = nets.mask(params, masks), velocity, jnp.zeros(LONGEST)
    return jax.lax.fori_loop(0, steps, step, start)


def init(seed: int, widths: Sequence[int] = WIDTHS) -> nets.Params:
    """Initial parameters."""
    return jax.tree.map(np.asarray, nets.mlp_init(jax.random.key(seed), widths))


def kernels(params: nets.Params) -> dict[str, Any]:
    """The kernels by layer."""
    return {name: np.asarray(layer["kernel"]) for name, layer in params.items()}


def train(
    params: nets.Params,
    split: nets.Split,
    seed: int,
    steps: int = 600,
    rate: float = 0.05,
    masks: Mapping[str, Any] | None = None,
    rates: Any = None,
    velocity: Any = None,
) -> tuple[nets.Params, Any, np.ndarray]:
    """Trains; kernels that masks cut stay zero.

    Args:
      params: Start.
      split: Inputs and labels.
      seed: Of the batches.
      steps: Number of updates, at most 2000.
      rate: Learning rate, which falls linearly to zero.
      masks: By layer; none cuts nothing.
      rates: The learning rate of each step in place of ``rate``.
      velocity: To go on with.

    Returns:
      Parameters, velocity, and the norm of the gradient at each step.
    """
    rates = rate * (1 - np.arange(steps) / steps) if rates is None else np.asarray(rates)
    padded = np.zeros(LONGEST, np.float32)
    padded[: len(rates)] = rates
    if masks is None:
        masks = {name: np.ones_like(kernel) for name, kernel in kernels(params).items()}
    masks = {name: np.asarray(m, np.float32) for name, m in masks.items()}
    zeros = jax.tree.map(np.zeros_like, params)
    velocity = zeros if velocity is None else velocity
    params, velocity, norms = _train(
        params, velocity, masks, split, jax.random.key(seed), padded, len(rates)
    )
    return (
        jax.tree.map(np.asarray, params),
        jax.tree.map(np.asarray, velocity),
        np.asarray(norms)[: len(rates)],
    )


def finish(params: nets.Params, split: nets.Split, seed: int, **options: Any) -> nets.Params:
    """Trains, as :func:`train`, and returns the parameters alone."""
    return train(params, split, seed, **options)[0]


def logits(params: nets.Params, x: np.ndarray) -> np.ndarray:
    """Of an MLP, in numpy: nothing to compile."""
    for i in range(len(params)):
        layer = params[f"layer{i}"]
        x = x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        x = np.maximum(x, 0) if i < len(params) - 1 else x
    return x


def right(params: nets.Params, split: nets.Split) -> float:
    """The share of right labels."""
    return float((logits(params, split[0]).argmax(-1) == split[1]).mean())


def loss(params: nets.Params, split: nets.Split) -> float:
    """Cross-entropy."""
    z = logits(params, split[0]).astype(np.float64)
    z = z - z.max(-1, keepdims=True)
    return float((np.log(np.exp(z).sum(-1)) - z[np.arange(len(z)), split[1]]).mean())


def cut(scores: Mapping[str, Any], density: Any, scope: str = "global") -> dict[str, np.ndarray]:
    """Masks that keep the largest scores; ``density`` is a tree with ``scope="layer"``."""
    found = bilevel.masks.from_scores(dict(scores), density, scope=scope)
    return {name: np.asarray(m) for name, m in found.items()}


def densities(masks: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The share of each layer that is kept."""
    return {name: float(m.mean()) for name, m in masks.items()}


def rounds(
    start: nets.Params, split: nets.Split, seed: int, many: int, **options: Any
) -> tuple[nets.Params, dict[str, np.ndarray]]:
    """Iterative magnitude pruning of a fifth in each round, rewound to ``start``.

    Returns:
      The weights that the last round trained, and the masks that the next would train.
    """
    masks = {name: np.ones(k.shape, bool) for name, k in kernels(start).items()}
    trained = start
    for i in range(many):
        trained = finish(start, split, seed, masks=masks, **options)
        scores = {n: np.abs(k) * masks[n] for n, k in kernels(trained).items()}
        masks = cut(scores, 0.8 ** (i + 1))
    return trained, masks
