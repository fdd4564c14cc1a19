r"""Data hyper-cleaning: a weight for each training sample, learned from a clean validation set.

.. math::
  \min_x \tfrac1m \sum_{val} \ell(y; z_j, t_j) \quad\text{s.t.}\quad
  y \in \arg\min \tfrac1n \sum_i \mathrm{sigmoid}(x_i)\, \ell(y; z_i, t_i) + r \|y\|^2

for a linear model or a small MLP, with labels flipped at random or by people (CIFAR-N).
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bilevel
from experiments.data import files
from experiments.problems.task import (
    Level,
    Task,
    accuracy,
    auc,
    classification,
    cross_entropy,
    take,
)
from optim import _checks

__all__ = ["cleaning", "init_mlp", "mlp"]

CIFAR_N = "http://noisylabels.com"


def init_mlp(widths: tuple[int, ...], rng: np.random.Generator, zero_last: bool = False) -> dict:
    """Returns ``{"kernel0", "bias0", ...}`` of a ReLU network, He-initialized, in float32."""
    params: dict[str, Any] = {}
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        scale = 0.0 if zero_last and i == len(widths) - 2 else np.sqrt(2 / a)
        params[f"kernel{i}"] = (scale * rng.normal(size=(a, b))).astype(np.float32)
        params[f"bias{i}"] = np.zeros(b, np.float32)
    return params


def mlp(params: dict, x: Any) -> Any:
    """Returns the logits, shape ``(..., classes)``."""
    depth = len(params) // 2
    for i in range(depth):
        x = x @ params[f"kernel{i}"] + jnp.expand_dims(params[f"bias{i}"], tuple(range(x.ndim - 1)))
        x = x if i == depth - 1 else jax.nn.relu(x)
    return x


def human_labels(data_dir: str | None, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns CIFAR-N's labels ``kind`` and the clean ones, in the official training order."""
    names = ["cifar-n/cifar10n.npz", "cifar10n.npz"]
    path = files.find(data_dir, names, "cifar10n", CIFAR_N)
    with np.load(path, allow_pickle=False) as stored:
        known = [k for k in stored.files if k != "clean_label"]
        if kind not in known:
            raise ValueError(f"noise must be a number or one of {', '.join(known)}, got {kind!r}")
        return stored[kind].astype(np.int32), stored["clean_label"].astype(np.int32)


def cleaning(
    data: str = "digits",
    data_dir: str | None = None,
    seed: int = 0,
    *,
    noise: float | str = 0.5,
    hidden: tuple[int, ...] = (),
    train: int = 5000,
    valid: int = 5000,
    regularization: float = 1e-3,
    standardize: bool = True,
    weights: bool = True,
) -> Task:
    """Returns the task.

    Args:
      data: Name of an image data set, see ``experiments.data``.
      data_dir: Folder of the data sets.
      seed: Of split, flips and start.
      noise: Share of training labels replaced by another class, drawn uniformly; or, for
        ``cifar10``, a label set of CIFAR-N such as ``"worse_label"``.
      hidden: Widths of hidden layers; ``()`` for a linear model.
      train: Number of training samples.
      valid: Number of validation samples, whose labels are clean.
      regularization: r.
      standardize: Whether pixels are centered and divided by one standard deviation.
      weights: ``False`` trains with all weights at 1/2: the run without cleaning.
    """
    splits, classes = classification(data, data_dir, seed, train, valid)
    rng = np.random.default_rng(seed + 1)
    clean, index = splits["train"]["label"], splits["train"]["index"]
    if isinstance(noise, str):
        labels, truth = human_labels(data_dir, noise)
        if not np.array_equal(truth[index], clean):
            raise ValueError(f"CIFAR-N's clean labels are not those of {data!r}, in this order")
        noisy = labels[index]
    else:
        _checks.number("noise", noise, 0, 1, open_low=True, open_high=True)
        flip = rng.permutation(train) < round(noise * train)
        noisy = np.where(flip, (clean + rng.integers(1, classes, train)) % classes, clean)
    if standardize:
        mean, std = splits["train"]["x"].mean(), splits["train"]["x"].std()
        splits = {k: {**s, "x": (s["x"] - mean) / std} for k, s in splits.items()}
    kept = {k: {n: s[n] for n in ("x", "label")} for k, s in splits.items()}
    kept["train"] |= {"label": noisy.astype(np.int32), "index": np.arange(train, dtype=np.int32)}
    flipped = noisy != clean

    def lower(x, y, batch):
        losses = cross_entropy(mlp(y, batch["x"]), batch["label"])
        weight = jax.nn.sigmoid(x[batch["index"]] if weights else jnp.zeros_like(losses))
        decay = sum(jnp.sum(a**2) for a in jax.tree.leaves(y))
        return jnp.mean(weight * losses) + regularization * decay

    def upper(x, y, batch):
        return jnp.mean(cross_entropy(mlp(y, batch["x"]), batch["label"]))

    def evaluate(data, x, y):
        logits = {k: mlp(y, data[k]["x"]) for k in ("valid", "test")}
        return {
            "objective": jnp.mean(cross_entropy(logits["valid"], data["valid"]["label"])),
            **{f"{k}/accuracy": accuracy(v, data[k]["label"]) for k, v in logits.items()},
            "auc": auc(x, ~flipped),
        }

    def groups(data, x, y):
        weight = np.asarray(jax.nn.sigmoid(x))
        return {"clean": weight[~flipped], "flipped": weight[flipped]}

    y0 = init_mlp((kept["train"]["x"].shape[1], *hidden, classes), rng, zero_last=not hidden)
    return Task(
        problem=bilevel.Problem(upper=upper, lower=lower),
        x0=np.zeros(train, np.float32),
        y0=y0,
        evaluate=evaluate,
        data=kept,
        upper=Level(valid, take("valid")),
        lower=Level(train, take("train")),
        groups=groups,
    )
