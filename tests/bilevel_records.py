"""Problems of the reference records, and a way to run a solver along a record."""

from pathlib import Path

import jax
import numpy as np

import bilevel
from bilevel import Problem, Samples
from experiments.problems import closed_form

FOLDER = Path(__file__).parent / "reference" / "bilevel"


def load(name):
    with np.load(FOLDER / f"{name}.npz") as record:
        return {key: record[key] for key in record.files}


def data(record):
    return {key[5:]: value for key, value in record.items() if key.startswith("data_")}


def closed_form_problem(name, record):
    """P1 to P5 of a record; a batch of P1 is the index of a sample, or None for the mean."""
    make = closed_form.PROBLEMS[name.lower()]
    return make(data(record), record.get("x0"), record.get("y0")).problem


def samples(record, prefix, names=("fy", "gy", "gz", "fx", "gxy", "gxz")):
    return Samples(*(record[f"{prefix}idx_{n}"].astype(np.int32) for n in names))


def trajectory(solver, state, batches, steps):
    """Returns the states 0..steps, stacked, and the metrics of each step."""

    @jax.jit
    def run(state, batches):
        def body(state, batch):
            state, metrics = solver.step(state, batch)
            return state, (state, metrics)

        return jax.lax.scan(body, state, batches, length=steps)[1]

    states, metrics = run(state, batches)
    return jax.tree.map(lambda a, b: np.concatenate([a[None], b]), state, states), metrics


def relative_error(got, expected):
    return np.max(np.abs(got - expected)) / np.max(np.abs(expected))


def svm(record):
    """The linear SVM of a record, and the map from its flat ``y`` to ``(w, b, xi)``."""
    jnp = jax.numpy
    d = record["z_train"].shape[1]
    z, t, z_val, t_val = (jnp.asarray(record[k]) for k in ("z_train", "y_train", "z_val", "y_val"))

    def upper(x, y, b):
        w, offset, _ = y
        margin = t_val * (z_val @ w + offset) / jnp.sqrt(jnp.sum(w**2))
        loss = 2 * jax.nn.sigmoid(-5 * margin) - 1
        return jnp.sum(jnp.where(loss >= 0, loss, 0.01 * loss) if record["leaky"] else loss)

    def lower(x, y, b):
        w, _, xi = y
        return 0.5 * jnp.sum(w**2) + 0.5 * jnp.sum(jnp.exp(x) * xi**2)

    def constraint(x, y, b):
        w, offset, xi = y
        return 1 - xi - t * (z @ w + offset)

    onto = bilevel.projections.svm(record["z_train"], record["y_train"])
    problem = Problem(
        upper,
        lower,
        constraint,
        project_xy=bilevel.projections.joint(bilevel.projections.product((None, onto))),
        multiplier_bound=float(record["r"]),
    )
    return problem, lambda y: (jnp.asarray(y[:d]), jnp.asarray(y[d]), jnp.asarray(y[d + 1 :]))


def join(y):
    w, b, xi = y
    return np.concatenate([w, np.asarray(b)[..., None], xi], -1)


def toy(record):
    """The toy problem with an inequality."""
    jnp = jax.numpy

    def project_xy(x, y):
        # Onto {y <= x, 0 <= x <= 3}: the half-plane, then the box's faces where x leaves it.
        over = jnp.maximum(y - x, 0) / 2
        inside = jnp.clip(x + over, 0, 3)
        return inside, jnp.minimum(y, inside)

    return Problem(
        upper=lambda x, y, b: (
            jnp.exp(2 - y) / (2 + jnp.cos(6 * x)) + 0.5 * jnp.log((4 * x - 2) ** 2 + 1)
        ),
        lower=lambda x, y, b: (y - 2 * x) ** 2,
        constraint=lambda x, y, b: y - x,
        project_xy=project_xy,
        multiplier_bound=float(record["r"]),
    )
