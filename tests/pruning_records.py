"""Models and states of the reference records of pruning, in the layout of PyTorch."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

BATCH_NORM = ("gamma", "beta", "mean", "var")
REFERENCE = Path(__file__).parent / "reference" / "pruning"


def load(name):
    with np.load(REFERENCE / f"{name}.npz") as z:
        return dict(z)


def mlp(params, x):
    n = len(params)
    for i in range(n):
        layer = params[f"fc{i}"]
        x = x @ layer["kernel"].T + layer["bias"][None]
        x = jax.nn.relu(x) if i < n - 1 else x
    return x


def batch_norm(p, stats, x):
    mean = x.mean((0, 2, 3))
    var = x.var((0, 2, 3))
    n = x.size // x.shape[1]
    new = {
        "mean": 0.9 * stats["mean"] + 0.1 * mean,
        "var": 0.9 * stats["var"] + 0.1 * var * n / (n - 1),
    }
    shape = (1, -1, 1, 1)
    y = (x - mean.reshape(shape)) / jnp.sqrt(var + 1e-5).reshape(shape)
    return y * p["scale"].reshape(shape) + p["bias"].reshape(shape), new


def conv(x, w, stride):
    pad = ((1, 1), (1, 1))
    return jax.lax.conv_general_dilated(
        x, w, (stride, stride), pad, dimension_numbers=("NCHW", "OIHW", "NCHW")
    )


def resnet(params, stats, x):
    new = {}

    def conv_bn(i, x, stride=1):
        y, new[f"bn{i}"] = batch_norm(
            params[f"bn{i}"], stats[f"bn{i}"], conv(x, params[f"conv{i}"]["kernel"], stride)
        )
        return y

    x = jax.nn.relu(conv_bn(0, x))
    x = jax.nn.relu(conv_bn(2, jax.nn.relu(conv_bn(1, x))) + x)
    quarter = x.shape[1] // 2
    short = jnp.pad(x[:, :, ::2, ::2], ((0, 0), (quarter, quarter), (0, 0), (0, 0)))
    x = jax.nn.relu(conv_bn(4, jax.nn.relu(conv_bn(3, x, 2))) + short)
    fc = params["fc"]
    return x.mean((2, 3)) @ fc["kernel"].T + fc["bias"][None], new


def cross_entropy(logits, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def mlp_loss(params, batch):
    return cross_entropy(mlp(params, batch[0]), batch[1])


def conv_loss(params, stats, batch):
    logits, new = resnet(params, stats, batch[0])
    return cross_entropy(logits, batch[1]), new


def at(record, t):
    """Parameters, statistics, scores and masks of a record before step t."""
    if "bn0_gamma" not in record:
        n = int(record["n_prunable"])
        params = {
            f"fc{i}": {"kernel": record[f"w{i}"][t], "bias": record[f"b{i}"][t]} for i in range(n)
        }

        def pick(k):
            return {f"fc{i}": {"kernel": record[f"{k}{i}"][t], "bias": None} for i in range(n)}

        return params, None, pick("s"), pick("m")
    params, stats = {}, {}
    for i in range(5):
        params[f"conv{i}"] = {"kernel": record[f"w{i}"][t]}
        gamma, beta, mean, var = (record[f"bn{i}_{k}"][t] for k in BATCH_NORM)
        params[f"bn{i}"] = {"scale": gamma, "bias": beta}
        stats[f"bn{i}"] = {"mean": mean, "var": var}
    whole = "w5" in record
    params["fc"] = {
        "kernel": record["w5" if whole else "fc_w"][t],
        "bias": record["b5" if whole else "fc_b"][t],
    }

    def pick(k):
        tree = {f"conv{i}": {"kernel": record[f"{k}{i}"][t]} for i in range(5)}
        tree |= {f"bn{i}": {"scale": None, "bias": None} for i in range(5)}
        return tree | {"fc": {"kernel": record[f"{k}5"][t] if whole else None, "bias": None}}

    return params, stats, pick("s"), pick("m")


def torch_sgd(learning_rates, record, decay=True):
    lrs = jnp.asarray(learning_rates)
    return optax.chain(
        optax.add_decayed_weights(float(record["wd"]) if decay else 0.0),
        optax.sgd(lambda count: lrs[count], momentum=float(record["momentum"])),
    )


def gap(tree, reference):
    a, b = jax.tree.leaves(tree), jax.tree.leaves(reference)
    assert len(a) == len(b)
    return max(np.abs(np.asarray(x) - y).max() for x, y in zip(a, b, strict=True))
