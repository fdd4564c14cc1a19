"""Replay of recorded runs of the authors' optimizers, step by step; see reference/optim."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optim

pytestmark = pytest.mark.fidelity

RECORDS = Path(__file__).parents[1] / "reference" / "optim"
STATE_NAMES = {"exp_avg": "mu", "exp_avg_sq": "nu", "momentum": "trace"}


def load(name):
    with np.load(RECORDS / name) as z:
        record = {key: z[key] for key in z.files}
    return record, json.loads(str(record["hyper"]))


def tree(record, prefix, names, dtype):
    return {name: record[f"{prefix}/{name}"].astype(dtype) for name in names}


def optimizer(hyper, lr, axis):
    kind = hyper["optimizer"]
    if kind == "lion":
        return optim.lion(lr, *hyper["betas"], weight_decay=hyper["weight_decay"])
    if kind == "sgdp":
        keys = ("momentum", "dampening", "nesterov", "weight_decay", "eps", "delta", "wd_ratio")
        return optim.sgdp(lr, **{k: hyper[k] for k in keys}, channel_axis=axis)
    if kind == "adamp":
        keys = ("eps", "nesterov", "weight_decay", "delta", "wd_ratio")
        b1, b2 = hyper["betas"]
        return optim.adamp(lr, b1, b2, **{k: hyper[k] for k in keys}, channel_axis=axis)
    b1, b2 = hyper["betas"]
    v1 = kind == "diffgrad_v1"
    decay = hyper["weight_decay"]
    return optim.diffgrad(lr, b1, b2, hyper["eps"], weight_decay=decay, authors_v1=v1)


def flax_layout(x, leading=0):
    """(out, in) -> (in, out) and OIHW -> HWIO, behind ``leading`` axes."""
    lead = list(range(leading))
    axes = {2: [1, 0], 3: [2, 1, 0], 4: [2, 3, 1, 0]}.get(x.ndim - leading)
    return x if axes is None else x.transpose(lead + [leading + a for a in axes])


def replay(tx, params, grads):
    """Returns the parameters and the branches of every step, and the last state."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        new = optax.apply_updates(params, updates)
        return (new, state), (new, params)

    @jax.jit
    def run(params, grads):
        return jax.lax.scan(step, (params, tx.init(params)), grads)

    (_, state), (after, before) = run(params, grads)
    return after, before, state


TURNED = ("adamp_wd.npz", "sgdp_momentum.npz", "lion.npz")
RUNS = sorted(p.name for p in RECORDS.glob("*.npz") if not p.name.startswith(("lionk", "frugal")))


@pytest.mark.parametrize(
    ("name", "layout"), [(n, "torch") for n in RUNS] + [(n, "flax") for n in TURNED]
)
def test_float64_replay(name, layout):
    record, hyper = load(name)
    axis, turn = (0, lambda x, leading=0: x) if layout == "torch" else (-1, flax_layout)
    with jax.enable_x64(True):
        lr = hyper["lr"]
        if "lr" in record:
            schedule = jnp.asarray(record["lr"])
            lr = lambda count: schedule[count]  # noqa: E731
        params = jax.tree.map(turn, tree(record, "p0", hyper["names"], np.float64))
        grads = {k: turn(v, 1) for k, v in tree(record, "g", hyper["names"], np.float64).items()}
        after, before, state = replay(optimizer(hyper, lr, axis), params, grads)
        for leaf in hyper["names"]:
            np.testing.assert_allclose(
                after[leaf], turn(record[f"p/{leaf}"], 1), rtol=0, atol=1e-12, err_msg=leaf
            )
        states = [key.split("/") for key in record if key.startswith("state/")]
        assert states
        for _, leaf, key in states:
            if key == "previous_grad":
                continue
            measured = optax.tree.get(state, STATE_NAMES[key])[leaf]
            expected = turn(record[f"state/{leaf}/{key}"])
            np.testing.assert_allclose(measured, expected, rtol=0, atol=1e-12, err_msg=leaf)
        if hyper["optimizer"] in ("adamp", "sgdp"):
            options = {"delta": hyper["delta"], "eps": hyper["eps"], "channel_axis": axis}
            every = jax.vmap(partial(optim.projection_branches, **options))
            branches = jax.jit(every)(grads, before)
            for leaf in hyper["names"]:
                if f"branch/{leaf}" in record:
                    np.testing.assert_array_equal(branches[leaf], record[f"branch/{leaf}"])
                else:
                    assert not np.any(branches[leaf])


@pytest.mark.parametrize(
    "name", ["adamp_wd.npz", "sgdp_momentum.npz", "diffgrad_v2_wd.npz", "lion_wd.npz"]
)
def test_float32_replay(name):
    record, hyper = load(name)
    lr = hyper["lr"]
    if "lr" in record:
        schedule = jnp.asarray(record["lr"], jnp.float32)
        lr = lambda count: schedule[count]  # noqa: E731
    params = tree(record, "p0", hyper["names"], np.float32)
    grads = tree(record, "g", hyper["names"], np.float32)
    after, _, _ = replay(optimizer(hyper, lr, 0), params, grads)
    for leaf in hyper["names"]:
        np.testing.assert_allclose(after[leaf], record[f"p/{leaf}"], rtol=0, atol=4e-5)


KAPPAS = {
    "l1": lambda _: optim.kappas.l1,
    "sq": lambda _: optim.kappas.l2_squared,
    "l2": lambda _: optim.kappas.l2,
    "group_l2": lambda _: optim.kappas.group_l2,
    "huber": optim.kappas.huber,
    "deadzone": optim.kappas.dead_zone,
    "topk": optim.kappas.top_k,
    "lp": optim.kappas.lp,
}


@pytest.mark.parametrize("key", sorted(KAPPAS))
def test_lion_k_replay(key):
    record, hyper = load("lionk_paper.npz")
    kappa = KAPPAS[key](hyper["kappas"][key]["param"])
    with jax.enable_x64(True):
        tx = optim.lion_k(hyper["lr"], kappa, *hyper["betas"], weight_decay=hyper["weight_decay"])
        params = tree(record, "p0", hyper["names"], np.float64)
        grads = tree(record, "g", hyper["names"], np.float64)
        after, _, _ = replay(tx, params, grads)
        for leaf in hyper["names"]:
            np.testing.assert_allclose(after[leaf], record[f"p/{key}/{leaf}"], rtol=0, atol=1e-12)
