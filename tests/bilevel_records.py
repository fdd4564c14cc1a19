"""Problems of the reference records, and a way to run a solver along a record."""

from pathlib import Path

import jax
import numpy as np

import bilevel
from bilevel import Problem, Samples

FOLDER = Path(__file__).parent / "reference" / "bilevel"


def load(name):
    with np.load(FOLDER / f"{name}.npz") as record:
        return {key: record[key] for key in record.files}


def data(record):
    return {key[5:]: value for key, value in record.items() if key.startswith("data_")}


def finite_sum(record):
    """P1 as a finite sum: a batch is the index of a sample, or None for the mean of all."""
    d = jax.tree.map(jax.numpy.asarray, data(record))

    def upper(x, y, i):
        value = 0.5 * (y - d["c"]) @ d["D"] @ (y - d["c"]) + 0.5 * x @ d["E"] @ x + x @ d["K"] @ y
        if i is None:
            return value
        return value + 0.5 * y @ d["dD"][i] @ y + d["du"][i] @ y + d["dv"][i] @ x

    def lower(x, y, i):
        a, b, c = d["A"], d["B"], d["b"]
        if i is not None:
            a, b, c = a + d["dA"][i], b + d["dB"][i], c + d["db"][i]
        return 0.5 * y @ a @ y - y @ (b @ x + c)

    return Problem(upper, lower)


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


def closed_form(name, record):
    """Problems P1 to P5 of a record."""
    jnp = jax.numpy
    d = {key: jnp.asarray(value) for key, value in data(record).items()}
    box = bilevel.projections.box
    if name == "P1":
        return finite_sum(record)
    if name == "P4":
        return Problem(
            upper=lambda x, y, b: jnp.sum(x**2) + jnp.sum(y**2),
            lower=lambda x, y, b: jnp.sum(x * y),
            project_x=box(-1, 1),
            project_y=box(-1, 1),
        )
    if name == "P5":
        return Problem(
            upper=lambda x, y, b: 0.5 * jnp.sum((y - 1) ** 2) + 0.05 * jnp.sum(x**2),
            lower=lambda x, y, b: jnp.sum((y - x) ** 2 + 3 * jnp.sin(y - x) ** 2),
        )
    if name == "P3":
        return Problem(
            upper=lambda x, y, b: (
                0.5 * jnp.sum((y - d["c"]) ** 2) + 0.5 * d["reg"] * jnp.sum((x - d["xh"]) ** 2)
            ),
            lower=lambda x, y, b: 0.5 * jnp.sum(d["a"] * (y - d["Pm"] @ x) ** 2),
            project_x=box(record["data_xlo"], record["data_xhi"]),
            project_y=box(record["data_lo"], record["data_hi"]),
        )

    def lower(x, y, b):
        return 0.5 * jnp.sum((d["M"] @ y - d["N"] @ x - d["q"]) ** 2)

    def upper(x, y, b):
        ridge = 0.5 * d["reg"] * jnp.sum(x**2)
        if name == "P2a":
            return 0.5 * jnp.sum((d["M"] @ y - d["t"]) ** 2) + ridge
        return 0.5 * (y - d["c"]) @ d["D"] @ (y - d["c"]) + ridge

    return Problem(upper, lower)


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
