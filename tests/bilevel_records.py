"""Problems of the reference records, and a way to run a solver along a record."""

from pathlib import Path

import jax
import numpy as np

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
