r"""Loss tuning for imbalanced classes: the parameters of a vector-scaling loss are learned.

.. math::
  \min_{\Delta, \iota, \omega} \tfrac1m \sum_{val} \mathrm{CE}(y; z_j, t_j) \quad\text{s.t.}\quad
  y \in \arg\min \tfrac1n \sum_i \omega_{t_i}\,
    \mathrm{CE}(\mathrm{sigmoid}(\Delta) \odot \mathrm{logits}(y; z_i) + \iota,\; t_i) + r \|y\|^2

The training classes are long-tailed, the validation set is balanced. In the federated setting
each worker holds a share of the samples and gradients are averaged: run it over several devices.
"""

import jax
import jax.numpy as jnp
import numpy as np

import bilevel
from bilevel import projections
from experiments.problems.cleaning import init_mlp, mlp
from experiments.problems.task import Level, Task, accuracy, classification, cross_entropy, take
from optim import _checks

__all__ = ["loss_tuning"]


def loss_tuning(
    data: str = "digits",
    data_dir: str | None = None,
    seed: int = 0,
    *,
    imbalance: float = 0.05,
    hidden: tuple[int, ...] = (),
    train: int = 700,
    valid: int = 700,
    regularization: float = 1e-3,
) -> Task:
    """Returns the task.

    Args:
      data: Any data set of ``experiments.data``.
      data_dir: Folder of the data sets.
      seed: Of split and start.
      imbalance: Samples of the rarest class over those of the most frequent one, in (0, 1];
        between them the numbers fall geometrically.
      hidden: Widths of hidden layers; ``()`` for a linear model.
      train: Number of training samples before rare classes are thinned.
      valid: Number of validation samples; each class is cut to the smallest one.
      regularization: r.
    """
    _checks.number("imbalance", imbalance, 0, 1, open_low=True)
    splits, classes = classification(data, data_dir, seed, train, valid)
    kept = {k: {n: s[n] for n in ("x", "label")} for k, s in splits.items()}
    share = imbalance ** (np.arange(classes) / (classes - 1))
    kept["train"] = _thin(kept["train"], share)
    fewest = np.bincount(kept["valid"]["label"], minlength=classes)
    kept["valid"] = _thin(kept["valid"], fewest.min() / fewest)

    def lower(x, y, batch):
        logits = jax.nn.sigmoid(x["scale"])[None] * mlp(y, batch["x"]) + x["shift"][None]
        losses = x["weight"][batch["label"]] * cross_entropy(logits, batch["label"])
        decay = sum(jnp.sum(a**2) for a in jax.tree.leaves(y))
        return jnp.mean(losses) + regularization * decay

    def fit(y, batch):
        return jnp.mean(cross_entropy(mlp(y, batch["x"]), batch["label"]))

    def evaluate(data, x, y):
        label = data["test"]["label"]
        right = jnp.argmax(mlp(y, data["test"]["x"]), -1) == label
        count = jnp.maximum(jnp.bincount(label, length=classes), 1)
        recall = jnp.bincount(label, weights=1.0 * right, length=classes) / count
        return {
            "objective": fit(y, data["valid"]),
            "valid/accuracy": accuracy(mlp(y, data["valid"]["x"]), data["valid"]["label"]),
            "test/accuracy": jnp.mean(right),
            "test/balanced_accuracy": jnp.mean(recall),
            "test/worst_recall": jnp.min(recall),
        }

    positive = projections.box(1e-2, 1e2)
    problem = bilevel.Problem(
        upper=lambda x, y, batch: fit(y, batch),
        lower=lower,
        project_x=projections.product({"scale": None, "shift": None, "weight": positive}),
    )
    one = np.ones(classes, np.float32)
    rng = np.random.default_rng(seed + 1)
    return Task(
        problem=problem,
        x0={"scale": 2 * one, "shift": 0 * one, "weight": one},
        y0=init_mlp((kept["train"]["x"].shape[1], *hidden, classes), rng, zero_last=not hidden),
        evaluate=evaluate,
        data=kept,
        upper=Level(len(kept["valid"]["label"]), take("valid")),
        lower=Level(len(kept["train"]["label"]), take("train")),
        groups=lambda data, x, y: {"shift": np.asarray(x["shift"])},
    )


def _thin(arrays: dict, share: np.ndarray) -> dict:
    """Keeps the first ``share[c]`` of the samples of each class c."""
    label = arrays["label"]
    keep = np.zeros(len(label), bool)
    for c, part in enumerate(share):
        where = np.flatnonzero(label == c)
        keep[where[: max(1, round(part * len(where)))]] = True
    return {k: v[keep] for k, v in arrays.items()}
