r"""Linear SVM: the penalty of each training sample's slack is learned, with or without label noise.

.. math::
  \min_C F(w, b) = \sum_{val} s\bigl(2\,\mathrm{sigmoid}(-5 t (w^\top z + b) / \|w\|) - 1\bigr)
  \quad\text{s.t.}\quad (w, b, \xi) \in \arg\min \tfrac12\|w\|^2
    + \tfrac12 \sum_i e^{C_i} \xi_i^2, \quad t_i (w^\top z_i + b) \ge 1 - \xi_i

with every C_i in an interval, and s a leaky ReLU of slope .01. F sees the direction of w alone:
without bounds C grows, and with it the curvature of the lower level, until its steps diverge.
Methods that keep a constraint solve this form. The slacks can be eliminated,
:math:`\xi_i = \max(0, 1 - t_i (w^\top z_i + b))`, and the others solve the same problem as a
squared hinge (``form="hinge"``).
"""

import jax
import jax.numpy as jnp
import numpy as np

import bilevel
from bilevel import projections
from experiments.data import libsvm
from experiments.problems.task import Task, auc, classification
from optim import _checks

__all__ = ["SETS", "load", "svm"]

SETS = {
    "diabetes": "diabete.txt",
    "fourclass": "fourclass.txt",
    "breast_cancer": "breast-cancer.txt",
}


def load(name: str, data_dir: str | None, seed: int, train: int, valid: int) -> dict:
    """Returns z and t (-1 or 1) of each split; rows are shuffled as in the authors' scripts."""
    if name == "digits":  # Comes with the project: digits from 5 on against the rest.
        splits, _ = classification("digits", None, seed, train, valid)
        return {
            k: {"z": s["x"], "t": np.where(s["label"] >= 5, 1.0, -1.0).astype(np.float32)}
            for k, s in splits.items()
        }
    file = SETS.get(name, name)
    path = libsvm.locate(file, data_dir, ("lvhba", "libsvm"))
    rows = libsvm.parse(path)
    labels = np.unique(rows["label"])
    if len(labels) != 2:
        raise ValueError(f"{path} must have two labels, got {labels[:5]}")
    table = np.column_stack([rows["x"], np.where(rows["label"] == labels[1], 1.0, -1.0)])
    np.random.RandomState(seed).shuffle(table)
    if not train + valid < len(table):
        raise ValueError(f"train + valid must be below {len(table)}, got {train + valid}")
    cuts = np.split(table.astype(np.float32), [train, train + valid])
    return {
        k: {"z": part[:, :-1], "t": part[:, -1]}
        for k, part in zip(("train", "valid", "test"), cuts, strict=True)
    }


def svm(
    data: str = "diabetes",
    data_dir: str | None = None,
    seed: int = 1,
    *,
    form: str = "constrained",
    flip: float = 0.0,
    train: int = 500,
    valid: int = 150,
    bounds: tuple[float, float] = (-8.0, -4.0),
    multiplier_bound: float = 10.0,
) -> Task:
    """Returns the task.

    Args:
      data: ``diabetes``, ``fourclass``, ``breast_cancer``, ``digits`` or a LIBSVM file.
      data_dir: Folder of the data sets.
      seed: Of the split, the flips and the start.
      form: ``"constrained"`` or ``"hinge"``.
      flip: Share of training labels that are flipped, in [0, 1).
      train: Number of training samples.
      valid: Number of validation samples; the rest is for test.
      bounds: The box of every C_i; equal bounds fix all of them.
      multiplier_bound: r of the constrained form.
    """
    _checks.choice("form", form, ["constrained", "hinge"])
    _checks.number("flip", flip, 0, 1, open_high=True)
    splits = load(data, data_dir, seed, train, valid)
    rng = np.random.default_rng(seed)
    flipped = np.zeros(train, bool)
    flipped[rng.permutation(train)[: round(flip * train)]] = True
    given = splits["train"]
    splits["train"] = {**given, "t": np.where(flipped, -given["t"], given["t"])}
    z, t = splits["train"]["z"], splits["train"]["t"]
    val = splits["valid"]

    def margin(y, part):
        return part["t"] * (part["z"] @ y["w"] + y["b"])

    def loss(y, part):
        # At w = 0 the distance to the hyperplane has no meaning; the floor keeps gradients finite.
        norm = jnp.sqrt(jnp.maximum(jnp.sum(y["w"] ** 2), 1e-12))
        return jax.nn.leaky_relu(2 * jax.nn.sigmoid(-5 * margin(y, part) / norm) - 1)

    def upper(x, y, batch=None):
        return jnp.sum(loss(y, val))

    box = projections.box(*bounds)
    x0 = np.clip(rng.uniform(-6, -5, train), *bounds).astype(np.float32)
    w0 = np.ones(z.shape[1], np.float32)
    if form == "hinge":

        def lower(x, y, batch=None):
            slack = jnp.maximum(0, 1 - margin(y, splits["train"]))
            return 0.5 * jnp.sum(y["w"] ** 2) + 0.5 * jnp.sum(jnp.exp(x) * slack**2)

        problem = bilevel.Problem(upper=upper, lower=lower, project_x=box)
        y0 = {"w": w0, "b": np.float32(0)}
    else:
        onto = projections.svm(z, t)

        def project_xy(x, y):
            w, b, xi = onto((y["w"], y["b"], y["xi"]))
            return box(x), {"w": w, "b": b, "xi": xi}

        problem = bilevel.Problem(
            upper=upper,
            lower=lambda x, y, batch=None: (
                0.5 * jnp.sum(y["w"] ** 2) + 0.5 * jnp.sum(jnp.exp(x) * y["xi"] ** 2)
            ),
            constraint=lambda x, y, batch=None: 1 - y["xi"] - margin(y, splits["train"]),
            project_xy=project_xy,
            multiplier_bound=multiplier_bound,
        )
        y0 = {"w": w0, "b": np.float32(0), "xi": np.ones(train, np.float32)}
        y0 = jax.device_get(jax.jit(project_xy)(x0, y0)[1])

    def evaluate(data, x, y):
        scores = {
            "objective": upper(x, y),
            **{f"{k}/accuracy": jnp.mean(margin(y, splits[k]) > 0) for k in ("valid", "test")},
            "moved": jnp.linalg.norm(x - x0),
        }
        return scores | ({"auc": auc(x, ~flipped)} if flipped.any() else {})

    def groups(data, x, y):
        return {"clean": x[~flipped], "flipped": x[flipped]} if flipped.any() else {"all": x}

    return Task(problem, x0, y0, evaluate, groups=groups)
