"""Small networks on digits or a tenth of Fashion-MNIST; all seeds of a setting are one program."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import data
from experiments.tables import stats

__all__ = ["Task", "compare", "initial", "load", "logits", "runner", "tune"]


class Task(NamedTuple):
    """Pairs of standardized rows and labels."""

    name: str
    train: tuple[np.ndarray, np.ndarray]
    valid: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def load(name: str, data_dir: str | None = None) -> Task:
    """``"digits"``, or ``"fashion_mnist"``: 5400 images to train on, 600 to choose by."""
    found = data.load(name, data_dir)
    sizes = (5400, 600, None) if name == "fashion_mnist" else (None, None, None)
    parts = []
    for part, size in zip((found.train, found.valid, found.test), sizes, strict=True):
        x = part["image"][:size].reshape(len(part["label"][:size]), -1) / found.scale
        parts.append(((x - found.mean[0]) / found.std[0], part["label"][:size]))
    return Task(name, *((x.astype(np.float32), y) for x, y in parts))


def initial(key: jax.Array, sizes: Sequence[int]) -> list[jax.Array]:
    """He's normal kernels; there are no biases."""
    keys = jax.random.split(key, len(sizes) - 1)
    pairs = zip(keys, sizes[:-1], sizes[1:], strict=True)
    return [jax.random.normal(k, (n, m)) * np.sqrt(2 / n) for k, n, m in pairs]


def logits(params: Sequence[jax.Array], x: jax.Array, normalize: bool) -> jax.Array:
    """ReLU layers; ``normalize`` standardizes what enters each, so that its kernel has no scale."""
    for kernel in params[:-1]:
        x = x @ kernel
        x = jax.nn.relu(jax.nn.standardize(x) if normalize else x)
    return x @ params[-1]


def runner(
    task: Task,
    make: Callable[[Mapping[str, Any], int], optax.GradientTransformation],
    *,
    widths: Sequence[int],
    epochs: int,
    batch: int = 64,
    normalize: bool = False,
    watch: Callable[[Any, Any], jax.Array] | None = None,
) -> Callable[[Mapping[str, float], Sequence[int]], dict[str, list[float]]]:
    """Returns a function of a setting and seeds: what the runs end with, by seed.

    Args:
      task: From :func:`load`.
      make: From the setting, whose numbers are traced, and the number of steps to the optimizer.
      widths: Of the hidden layers.
      epochs: Passes; the last, smaller batch of each is dropped.
      batch: Examples of a step.
      normalize: As in :func:`logits`.
      watch: A number of (gradients, parameters), whose mean over the steps is returned.
    """
    n, features = task.train[0].shape
    sizes, per_epoch = (features, *widths, 10), n // batch

    def accuracy(params, part):
        found = jnp.argmax(logits(params, part[0], normalize), -1)
        return 100 * jnp.mean(found == part[1])

    def loss(params, x, y):
        of_each = optax.softmax_cross_entropy_with_integer_labels(logits(params, x, normalize), y)
        return of_each.mean()

    def run(setting, seed, train, valid, test):
        tx = make(setting, epochs * per_epoch)
        start, order = jax.random.split(jax.random.key(seed))
        params = initial(start, sizes)
        before = optax.tree.norm(params[:-1])

        def step(carry, rows):
            params, state = carry
            grads = jax.grad(loss)(params, *(x[rows] for x in train))
            updates, state = tx.update(grads, state, params)
            seen = watch(grads, params) if watch else jnp.zeros([])
            return (optax.apply_updates(params, updates), state), seen

        def epoch(carry, key):
            rows = jax.random.permutation(key, n)[: per_epoch * batch]
            return jax.lax.scan(step, carry, rows.reshape(per_epoch, batch))

        carry = params, tx.init(params)
        (params, _), seen = jax.lax.scan(epoch, carry, jax.random.split(order, epochs))
        found = {"valid": accuracy(params, valid), "test": accuracy(params, test)}
        found["growth"] = optax.tree.norm(params[:-1]) / before
        return found | ({"watched": seen.mean()} if watch else {})

    population = jax.jit(jax.vmap(run, (None, 0, None, None, None)))

    def runs(setting, seeds):
        found = population(dict(setting), jnp.asarray(seeds), *task[1:])
        return {name: np.asarray(values, float).tolist() for name, values in found.items()}

    return runs


def tune(runs, grid: Sequence[Mapping[str, float]], seeds: Sequence[int]) -> dict[str, Any]:
    """The setting of the best mean validation accuracy, and all means; lost runs count as 0."""
    means = [float(np.mean(np.nan_to_num(runs(point, seeds)["valid"]))) for point in grid]
    best = int(np.argmax(means))
    return {"setting": dict(grid[best]), "valid": means, "edge": stats.at_edge(grid[best], grid)}


def compare(runs: Mapping[str, Mapping[str, Any]], baseline: str) -> dict[str, dict[str, float]]:
    """Paired differences of test accuracy from the baseline, with p-values after Holm."""
    others = [name for name in runs if name != baseline]
    found = [stats.paired(runs[n]["test"], runs[baseline]["test"]) for n in others]
    corrected = stats.holm([f.p for f in found])
    return {
        name: {**f._asdict(), "holm": p}
        for name, f, p in zip(others, found, corrected, strict=True)
    }
