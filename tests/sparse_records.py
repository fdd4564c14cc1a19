"""Nets and optimizers of the records of sparse training, in the layout of PyTorch."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

REFERENCE = Path(__file__).parent / "reference" / "sparse_training"


def load(name):
    with np.load(REFERENCE / f"{name}.npz") as z:
        record = dict(z)
    return record, json.loads(str(record["hyper"]))


def net(params, x):
    h = x
    for i, layer in enumerate(params):
        w, b = layer["kernel"], layer["bias"]
        if w.ndim == 4:
            h = jax.lax.conv_general_dilated(
                h, w, (i + 1,) * 2, ((1, 1), (1, 1)), dimension_numbers=("NCHW", "OIHW", "NCHW")
            ) + b.reshape(1, -1, 1, 1)
        else:
            h = h.reshape(len(h), -1) @ w.T + b[None]
        h = jnp.tanh(h) if i < len(params) - 1 else h
    return h


def loss(params, batch):
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(net(params, x), y).mean()


def at(record, t):
    return [{"kernel": record[f"w{i}"][t], "bias": record[f"b{i}"][t]} for i in range(3)]


def masks_at(record, t, key="m"):
    return [{"kernel": record[f"{key}{i}"][t].astype(bool), "bias": None} for i in range(3)]


def kernels(values):
    return [{"kernel": x, "bias": None} for x in values]


def batches(record):
    return record["x"].astype(np.float64), record["y"].astype(np.int32)


def optimizer(h):
    if h.get("opt") == "adam":
        return optax.adam(h["lr"])
    sgd = optax.sgd(h["lr"], h["momentum"], nesterov=h.get("nesterov", False))
    return optax.chain(optax.add_decayed_weights(h["wd"]), sgd)


def gap(tree, reference):
    a, b = jax.tree.leaves(tree), jax.tree.leaves(reference)
    assert len(a) == len(b)
    return max(
        np.abs(np.asarray(x, float) - np.asarray(y)).max() for x, y in zip(a, b, strict=True)
    )
