"""What a problem of the main is, and what several of them share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bilevel
from experiments import data

__all__ = [
    "Level",
    "Task",
    "accuracy",
    "auc",
    "classification",
    "cross_entropy",
    "pixels",
    "rows",
    "take",
]


class Level(NamedTuple):
    """The samples of one level: ``take(data, index) -> batch`` for an array of indices."""

    size: int
    take: Callable[[Any, Any], Any]


class Task(NamedTuple):
    """A bilevel problem with a start, data and measures.

    Attributes:
      problem: The functions; they see the data through their batches alone, so that large sets
        are not compiled into the program.
      x0: Upper start.
      y0: Lower start.
      evaluate: ``evaluate(data, x, y) -> {name: scalar}``; ``objective`` is what curves show.
      data: Arrays that live on the device.
      upper: Samples of the upper level; ``None`` for a deterministic problem.
      lower: Samples of the lower level.
      groups: ``groups(data, x, y) -> {name: array}``, drawn as histograms at the end: the
        learned weights of clean and of flipped samples.
      project_theta: LV-HBA's ``(theta, x) -> theta``, where its lower steps need one.
      stats: First statistics of a model, for a problem with ``has_stats``; ``evaluate`` is then
        ``(data, x, y, stats)``.
    """

    problem: bilevel.Problem
    x0: Any
    y0: Any
    evaluate: Callable[..., dict[str, Any]]
    data: Any = None
    upper: Level | None = None
    lower: Level | None = None
    groups: Callable[[Any, Any, Any], dict[str, Any]] | None = None
    project_theta: Callable[[Any, Any], Any] | None = None
    stats: Any = None


def take(part: str) -> Callable[[Any, Any], Any]:
    """Returns ``(data, index) -> `` the rows ``index`` of every array of ``data[part]``."""
    return lambda d, index: jax.tree.map(lambda a: a[index], d[part])


def rows(arrays: dict[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
    """Returns a slice of every array."""
    return {k: v[start:stop] for k, v in arrays.items()}


def pixels(arrays: dict[str, np.ndarray], scale: float) -> dict[str, np.ndarray]:
    """Returns ``{"x": float32 (n, d), "label": int32 (n,)}`` of images, in [0, 1], or of rows."""
    if "x" in arrays:
        x = arrays["x"]
    else:
        x = arrays["image"].reshape(len(arrays["image"]), -1) / np.float32(scale)
    return {"x": x.astype(np.float32), "label": arrays["label"].astype(np.int32)}


def classification(
    name: str, data_dir: str | None, seed: int, train: int, valid: int, **options: Any
) -> tuple[dict[str, dict[str, np.ndarray]], int]:
    """Returns ``{"train", "valid", "test"}`` of a data set as flat features, and the classes.

    ``train`` and ``valid`` count samples, drawn without repeats from the training set by
    ``seed``; the test set is whole.
    """
    found = data.load(name, data_dir, valid_fraction=0.0, **options)
    both = pixels(found.train, found.scale)
    total = len(both["label"])
    if train < 1 or valid < 1 or train + valid > total:
        raise ValueError(
            f"train={train} and valid={valid} must be >= 1 and at most {total} together"
        )
    order = np.random.default_rng(seed).permutation(total)[: train + valid]
    both = {k: v[order] for k, v in both.items()} | {"index": order.astype(np.int32)}
    splits = {
        "train": rows(both, 0, train),
        "valid": rows(both, train, train + valid),
        "test": pixels(found.test, found.scale),
    }
    return splits, found.num_classes


def cross_entropy(logits: Any, labels: Any) -> jax.Array:
    """Returns the cross entropy of each sample."""
    picked = jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
    return jax.nn.logsumexp(logits, -1) - picked


def accuracy(logits: Any, labels: Any) -> jax.Array:
    """Returns the share of samples whose largest logit is their label's."""
    return jnp.mean(jnp.argmax(logits, -1) == labels)


def auc(scores: Any, positive: Any) -> jax.Array:
    """Returns the area under the ROC curve: how often a positive scores above a negative.

    Ties count one half.

    Args:
      scores: Shape ``(n,)``.
      positive: Booleans, shape ``(n,)``, some true and some false.
    """
    ordered = jnp.sort(scores)
    rank = (jnp.searchsorted(ordered, scores, side="left") + 0.5) + 0.5 * (
        jnp.searchsorted(ordered, scores, side="right")
        - jnp.searchsorted(ordered, scores, side="left")
        - 1
    )
    n, p = positive.size, jnp.sum(positive).astype(scores.dtype)
    return (jnp.sum(jnp.where(positive, rank + 0.5, 0)) - p * (p + 1) / 2) / (p * (n - p))
