r"""One l2 penalty for each feature of a logistic regression, learned on validation data.

.. math::
  \min_x \tfrac1m \sum_{val} \ell(W; z_j, t_j) \quad\text{s.t.}\quad
  W = \arg\min \tfrac1n \sum_{train} \ell(W; z_i, t_i) + \tfrac12 \sum_d e^{x_d} \|W_d\|^2
"""

import jax.numpy as jnp
import numpy as np

import bilevel
from bilevel import projections
from experiments.problems.task import Level, Task, accuracy, classification, cross_entropy, take

__all__ = ["regularization"]


def regularization(
    data: str = "digits",
    data_dir: str | None = None,
    seed: int = 0,
    *,
    train: int = 700,
    valid: int = 700,
    start: float = -4.0,
    low: float = -12.0,
    high: float = 3.0,
    standardize: bool = True,
) -> Task:
    """Returns the task.

    Args:
      data: Any data set of ``experiments.data``, such as ``libsvm:a1a``.
      data_dir: Folder of the data sets.
      seed: Of the split.
      train: Number of training samples.
      valid: Number of validation samples.
      start: First value of every x.
      low: x stays in [low, high].
      high: Upper end.
      standardize: Whether features get mean 0 and variance 1 over the training samples.
    """
    splits, classes = classification(data, data_dir, seed, train, valid)
    if standardize:
        mean, std = splits["train"]["x"].mean(0), splits["train"]["x"].std(0)
        std = np.where(std > 1e-6, std, 1)
        splits = {k: {**s, "x": (s["x"] - mean) / std} for k, s in splits.items()}
    kept = {k: {n: s[n] for n in ("x", "label")} for k, s in splits.items()}
    d = kept["train"]["x"].shape[1]

    def fit(y, batch):
        return jnp.mean(cross_entropy(batch["x"] @ y["kernel"] + y["bias"][None], batch["label"]))

    def lower(x, y, batch):
        return fit(y, batch) + 0.5 * jnp.sum(jnp.exp(x)[:, None] * y["kernel"] ** 2)

    def evaluate(data, x, y):
        scores = {"objective": fit(y, data["valid"]), "test/loss": fit(y, data["test"])}
        for k in ("valid", "test"):
            logits = data[k]["x"] @ y["kernel"] + y["bias"][None]
            scores[f"{k}/accuracy"] = accuracy(logits, data[k]["label"])
        return scores

    problem = bilevel.Problem(
        upper=lambda x, y, batch: fit(y, batch),
        lower=lower,
        project_x=projections.box(low, high),
    )
    return Task(
        problem=problem,
        x0=np.full(d, start, np.float32),
        y0={"kernel": np.zeros((d, classes), np.float32), "bias": np.zeros(classes, np.float32)},
        evaluate=evaluate,
        data=kept,
        upper=Level(valid, take("valid")),
        lower=Level(train, take("train")),
        groups=lambda data, x, y: {"log penalty": np.asarray(x)},
    )
