"""What the studies share: small data sets, small networks in plain arrays, and a training loop.

Networks are dicts of layers; a study runs hundreds of them, so that everything here can be jitted
with its hyperparameters traced: one program for all seeds and learning rates.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import data

__all__ = [
    "accuracy",
    "cnn",
    "cnn_init",
    "cross_entropy",
    "load",
    "mask",
    "mlp",
    "mlp_init",
    "train",
]

Params = dict[str, dict[str, Any]]
Split = tuple[Any, Any]


def load(
    seed: int, name: str = "digits", many: int = 0, data_dir: str | None = None, flat: bool = True
) -> dict[str, Split]:
    """The parts of a data set as ``(inputs of about unit scale, labels)``.

    Args:
      seed: Of the split of the digits; of the subset of the others.
      name: As in ``data.load``.
      many: Number of training samples; 0 takes all.
      data_dir: Folder of real data.
      flat: Whether images are vectors.
    """
    found = data.load(name, data_dir, **({"seed": seed} if name == "digits" else {}))
    parts = {}
    for part in ("train", "valid", "test"):
        arrays = getattr(found, part)
        x, y = np.asarray(arrays["image"], np.float32) / found.scale, np.asarray(arrays["label"])
        if many and part == "train":
            rows = np.random.default_rng(seed).permutation(len(x))[:many]
            x, y = x[rows], y[rows]
        parts[part] = (x.reshape(len(x), -1) if flat else x, y)
    return parts


def mlp_init(key: jax.Array, widths: Sequence[int], norm: bool = False) -> Params:
    """He's initialization; ``norm``: hidden layers have batch normalization after the kernel."""
    params = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        kernel = jax.random.normal(jax.random.fold_in(key, i), (inputs, outputs))
        layer = {"kernel": kernel * jnp.sqrt(2 / inputs), "bias": jnp.zeros(outputs)}
        if norm and i < len(widths) - 2:
            layer["scale"] = jnp.ones(outputs)
        params[f"layer{i}"] = layer
    return params


def mlp(
    params: Params, x: jax.Array, activation: Callable = jax.nn.relu, of: jax.Array | None = None
) -> jax.Array:
    """Logits. Normalization uses the statistics of ``x`` or, where given, of the inputs ``of``."""
    for i in range(len(params)):
        layer = params[f"layer{i}"]
        x = x @ layer["kernel"]
        of = None if of is None else of @ layer["kernel"]
        if "scale" in layer:
            x, of = _normalized(layer, x, of)
        x = x + layer["bias"]
        of = None if of is None else of + layer["bias"]
        if i < len(params) - 1:
            x, of = activation(x), None if of is None else activation(of)
    return x


def cnn_init(key: jax.Array, channels: Sequence[int], classes: int = 10) -> Params:
    """3x3 convolutions with batch normalization, the first of one channel, and a linear head."""
    params = {}
    for i, (inputs, outputs) in enumerate(zip((1, *channels[:-1]), channels, strict=True)):
        kernel = jax.random.normal(jax.random.fold_in(key, i), (3, 3, inputs, outputs))
        params[f"layer{i}"] = {
            "kernel": kernel * jnp.sqrt(2 / (9 * inputs)),
            "bias": jnp.zeros(outputs),
            "scale": jnp.ones(outputs),
        }
    head = jax.random.normal(jax.random.fold_in(key, len(channels)), (channels[-1], classes))
    kernel = head / jnp.sqrt(channels[-1])
    params[f"layer{len(channels)}"] = {"kernel": kernel, "bias": jnp.zeros(classes)}
    return params


def cnn(params: Params, x: jax.Array, of: jax.Array | None = None) -> jax.Array:
    """Logits of images (N, h, w, 1): convolutions, pooled by 2 after each, then the mean."""
    last = len(params) - 1
    for i in range(last):
        layer = params[f"layer{i}"]
        x = _convolved(x, layer["kernel"])
        of = None if of is None else _convolved(of, layer["kernel"])
        x, of = _normalized(layer, x, of)
        x = _pooled(jax.nn.relu(x + layer["bias"]))
        of = None if of is None else _pooled(jax.nn.relu(of + layer["bias"]))
    head = params[f"layer{last}"]
    return x.mean((1, 2)) @ head["kernel"] + head["bias"]


def _normalized(layer, x, of):
    source = x if of is None else of
    axes = tuple(range(source.ndim - 1))
    mean, deviation = source.mean(axes), jnp.sqrt(source.var(axes) + 1e-5)
    scaled = (x - mean) / deviation * layer["scale"]
    return scaled, None if of is None else (of - mean) / deviation * layer["scale"]


def _convolved(x, kernel):
    """As a product with the nine shifted images: convolutions in loops are slow on CPUs."""
    h, w = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return jnp.concatenate(patches, -1) @ kernel.reshape(-1, kernel.shape[-1])


def _pooled(x):
    n, h, w, c = x.shape
    return x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Its mean."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The share of right labels."""
    return (logits.argmax(-1) == labels).mean()


def best(trials: Mapping[Any, Sequence[Mapping[str, Any]]]) -> list[dict[str, float]]:
    """The rows, one for each seed, of the setting with the best mean of ``valid``."""
    rows = {k: [{n: float(v) for n, v in row.items()} for row in own] for k, own in trials.items()}
    return max(rows.values(), key=lambda own: sum(row["valid"] for row in own))


def mask(params: Params, masks: Mapping[str, Any] | None) -> Params:
    """Kernels times their masks, ``{layer: mask}``."""
    if masks is None:
        return params
    return {k: {**v, "kernel": v["kernel"] * masks[k]} for k, v in params.items()}


def train(
    loss: Callable[[Params, jax.Array, jax.Array], jax.Array],
    tx: optax.GradientTransformation,
    params: Params,
    split: Split,
    key: jax.Array,
    steps: int,
    batch_size: int = 64,
    masks: Mapping[str, Any] | None = None,
    measure: Callable[..., Any] = lambda before, after, grads: None,
) -> tuple[Params, Any]:
    """Trains on batches drawn with replacement; kernels that ``masks`` cut stay zero.

    Args:
      loss: Of parameters, inputs and labels.
      tx: Optimizer with its schedule.
      params: Start.
      split: Inputs and labels.
      key: Of the batches.
      steps: Number of updates.
      batch_size: Samples of each.
      masks: ``{layer: mask of its kernel}``.
      measure: What to keep of a step, from the parameters before and after it and the gradients.

    Returns:
      The parameters and what was measured, a leading axis for the steps.
    """
    x, y = split
    params = mask(params, masks)

    def step(carry, i):
        before, state = carry
        rows = jax.random.randint(jax.random.fold_in(key, i), (batch_size,), 0, len(x))
        grads = jax.grad(loss)(before, x[rows], y[rows])
        grads = mask(grads, masks)
        updates, state = tx.update(grads, state, before)
        after = mask(optax.apply_updates(before, updates), masks)  # type: ignore[arg-type]
        return (after, state), measure(before, after, grads)

    (params, _), measured = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))
    return params, measured
