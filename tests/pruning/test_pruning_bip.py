"""BiP replays the authors' code and the paper's equations step by step."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel

BATCH_NORM = ("gamma", "beta", "mean", "var")
REFERENCE = Path(__file__).parents[1] / "reference" / "pruning"


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


jitted_conv_loss = jax.jit(conv_loss)


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


def solver_of(record, **kwargs):
    kind = str(record["layer_type"])
    return bilevel.bip(
        torch_sgd(record["lr_w"], record),
        torch_sgd(record["lr_m"], record),
        float(record["k"]),
        curvature=1 / float(record["lr2"]),
        structure="weight" if kind == "unstructured" else kind,
        output_axis=0,
        input_axis=1,
        **kwargs,
    )


def gap(tree, reference):
    a, b = jax.tree.leaves(tree), jax.tree.leaves(reference)
    assert len(a) == len(b)
    return max(np.abs(np.asarray(x) - y).max() for x, y in zip(a, b, strict=True))


def replay(record, solver):
    params, stats, scores, _ = at(record, 0)
    if stats is None:
        loss, step = mlp_loss, jax.jit(solver.step)
    else:
        # All convolutional records share one compiled loss; compiling each step takes longer.
        loss, step = jitted_conv_loss, solver.step
    state = solver.init(bilevel.pruning.problem(loss), scores, params, stats=stats)
    worst = 0.0
    steps = len(record["loss_l"])
    for t in range(steps):
        batch = [(record["x" + k][t].astype(float), record["y" + k][t]) for k in "ul"]
        state, metrics = step(state, tuple(batch))
        params, stats, scores, masks = at(record, t + 1)
        assert all(map(np.array_equal, *map(jax.tree.leaves, (state.masks, masks))))
        worst = max(worst, gap(state.y, params), gap(state.x, scores))
        worst = max(worst, gap(state.stats, stats)) if stats is not None else worst
        worst = max(worst, abs(float(metrics["loss_lower"]) - record["loss_l"][t]))
        worst = max(worst, abs(float(metrics["loss_upper"]) - record["loss_u"][t]))
    return worst


@pytest.mark.fidelity
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bip_mlp_clean_paper", {}),
        ("bip_mlp_clean_official", {"authors": "implicit"}),
        ("bip_conv_clean_paper", {}),
        ("bip_mlp_official_clone", {"authors": "unaliased"}),
        ("bip_mlp_official_alias", {"authors": True}),
        (
            "bip_mlp_official_accelerate_clone",
            {"authors": "unaliased", "second_order": False},
        ),
        ("bip_conv_official_clone", {"authors": "unaliased"}),
        ("bip_conv_official_alias", {"authors": True}),
        ("bip_conv_filter_official_clone", {"authors": "unaliased"}),
        ("bip_conv_channel_official_clone", {"authors": "unaliased"}),
    ],
)
def test_replays_the_record(name, options):
    record = load(name)
    with jax.enable_x64(True):
        assert replay(record, solver_of(record, **options)) < 1e-9
