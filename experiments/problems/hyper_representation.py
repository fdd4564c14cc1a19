r"""Hyper-representation: a body shared by many tasks, and a linear head for each.

.. math::
  \min_x \tfrac1T \sum_t \ell(h_t; \phi_x(z), val_t) \quad\text{s.t.}\quad
  h_t = \arg\min \ell(h; \phi_x(z), train_t) + r \|h\|^2

Each task tells ``ways`` classes apart from ``shots`` samples of each; validation samples of the
same classes judge the body.
"""

import jax.numpy as jnp
import numpy as np

import bilevel
from experiments.problems.cleaning import init_mlp, mlp
from experiments.problems.task import Level, Task, accuracy, classification, cross_entropy, take

__all__ = ["hyper_representation"]


def hyper_representation(
    data: str = "digits",
    data_dir: str | None = None,
    seed: int = 0,
    *,
    tasks: int = 20,
    ways: int = 5,
    shots: int = 5,
    queries: int = 15,
    body: tuple[int, ...] = (64, 32),
    regularization: float = 1e-2,
    pool: int = 1400,
) -> Task:
    """Returns the task.

    Args:
      data: Any data set of ``experiments.data`` with at least ``ways`` classes.
      data_dir: Folder of the data sets.
      seed: Of the tasks and the start.
      tasks: Number of tasks T.
      ways: Classes of a task.
      shots: Training samples of a class.
      queries: Validation samples of a class, and test samples.
      body: Widths of the body's layers; the last is the representation.
      regularization: r of the heads.
      pool: Number of samples from which tasks draw.
    """
    splits, classes = classification(data, data_dir, seed, pool - 1, 1)
    if not 2 <= ways <= classes:
        raise ValueError(f"ways must be in [2, {classes}], got {ways}")
    rng = np.random.default_rng(seed + 1)
    # The tasks are drawn once: the same classes for training, validation and test.
    chosen = np.stack([rng.permutation(classes)[:ways] for _ in range(tasks)])
    kept = {}
    for part, source, start, count in (
        ("train", "train", 0, shots),
        ("valid", "train", shots, queries),
        ("test", "test", 0, queries),
    ):
        kept[part] = _episodes(splits[source], chosen, start, count)

    def logits(x, y, batch):
        features = jnp.maximum(mlp(x, batch["x"]), 0)
        return (
            jnp.einsum("tnf,tfc->tnc", features, y["kernel"][batch["task"]])
            + (y["bias"][batch["task"]][:, None])
        )

    def fit(x, y, batch):
        return jnp.mean(cross_entropy(logits(x, y, batch), batch["label"]))

    def lower(x, y, batch):
        heads = y["kernel"][batch["task"]]
        return fit(x, y, batch) + regularization * jnp.sum(heads**2) / heads.shape[0]

    def evaluate(data, x, y):
        return {
            "objective": fit(x, y, data["valid"]),
            "train/accuracy": accuracy(logits(x, y, data["train"]), data["train"]["label"]),
            "valid/accuracy": accuracy(logits(x, y, data["valid"]), data["valid"]["label"]),
            "test/accuracy": accuracy(logits(x, y, data["test"]), data["test"]["label"]),
        }

    head = np.zeros((tasks, body[-1], ways), np.float32)
    return Task(
        problem=bilevel.Problem(upper=fit, lower=lower),
        x0=init_mlp((kept["train"]["x"].shape[-1], *body), rng),
        y0={"kernel": head, "bias": np.zeros((tasks, ways), np.float32)},
        evaluate=evaluate,
        data=kept,
        upper=Level(tasks, take("valid")),
        lower=Level(tasks, take("train")),
    )


def _episodes(source: dict, chosen: np.ndarray, start: int, count: int) -> dict:
    """Returns samples ``start : start + count`` of each class of each task, task by task."""
    x, label = [], []
    for classes in chosen:
        where = [np.flatnonzero(source["label"] == c)[start : start + count] for c in classes]
        if min(map(len, where)) < count:
            raise ValueError(f"a class has fewer than {start + count} samples; take a larger pool")
        x.append(source["x"][np.concatenate(where)])
        label.append(np.repeat(np.arange(len(classes), dtype=np.int32), count))
    tasks = np.arange(len(chosen), dtype=np.int32)
    return {"x": np.stack(x), "label": np.stack(label), "task": tasks}
