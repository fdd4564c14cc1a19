"""FRUGAL replays the authors' code step by step, in float64."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optim

RECORDS = sorted((Path(__file__).parents[1] / "reference" / "optim").glob("frugal_*.npz"))
FREE = {"sign_sgd": "sign_sgd", "sgd": "sgd", "no": "none"}


def direction(h, start):
    if h["base"] == "adamw":
        return optax.scale_by_adam(*h["betas"], eps=h["eps"])
    if h["base"] == "lion":
        return optax.scale_by_lion(*h["betas"])
    return optim.scale_by_momentum(h["momentum"], h["dampening"], h["nesterov"], start=start)


def recorded_subspace(record, h):
    """The record's subspace with its selections in place of our random ones."""
    made = optim.subspaces
    if h["projection"] == "block":
        if h["block_order"] != "random":
            return made.block(h["block_order"])
        active = jnp.asarray(np.stack([np.flatnonzero(a) for a in record["active"]]))
        return made.block(lambda u, n, k, key: active[u])
    gap = h["update_gap"]
    if h["projection"] == "coord":
        bases = {n: record[f"proj/{n}/indices"] for n in h["proj"]}
        if h["coord_choice"] == "randk":
            bases = {n: b[..., 0] * h["shapes"][n][1] + b[..., 1] for n, b in bases.items()}
        # The records are in PyTorch's layout, (out, in).
        spaces = {"randk": made.randk(), "columns": made.columns(-1), "rows": made.rows(-2)}
        space = spaces[h["coord_choice"]]
    else:
        bases = {n: record[f"proj/{n}/ortho"].astype(float) for n in h["proj"]}
        if h["proj_side"] == "full":
            bases = {n: (b, record[f"proj/{n}/ortho2"].astype(float)) for n, b in bases.items()}
        elif h["proj_type"] == "randperm":
            sides = {n: str(record[f"proj/{n}/side"]) for n in h["proj"]}
            bases = {n: b.argmax(1 if sides[n] == "left" else 2) for n, b in bases.items()}
        names = {"svd": made.svd, "random": made.random_orthogonal, "randperm": made.randperm}
        space = names[h["proj_type"]](h["proj_side"])
    bases = jax.tree.map(jnp.asarray, bases)

    def select(key, grad, *, density, step, path):
        ours = space.select(key, grad, density=density, step=step, path=path)
        fed = jax.tree.map(lambda b: b[step // gap], bases[path])
        assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, fed), path
        return fed

    return space._replace(select=select)


def load(path):
    with np.load(path) as f:
        record = dict(f)
    return record, json.loads(str(record["hyper"]))


def replay(record, h, subspace):
    clone = "params" if h["projection"] == "block" else "gradient"
    lr = jnp.asarray(record["lr"]) if "lr" in record else jnp.full(h["T"], h["lr"])
    tx = optim.frugal(
        lambda t: lr[t],
        direction(h, clone),
        density=h["density"],
        update_gap=h["update_gap"],
        subspace=subspace,
        state_free=FREE[h["inactive_update_rule"]],
        state_free_scale=h["inactive_lr_scale"],
        projectable_scale=h["proj_params_lr_scale"],
        weight_decay=h["weight_decay"],
        projectable=lambda path, leaf: path[-1].key in h["proj"],
        reset=h["reset_statistics"],
        regular=direction(h, "params"),
    )
    params = {n: jnp.asarray(record[f"p0/{n}"], float) for n in h["names"]}
    grads = {n: jnp.asarray(record[f"g/{n}"], float) for n in h["names"]}

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g))(params, grads)


@pytest.mark.fidelity
@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_record(path):
    record, h = load(path)
    with jax.enable_x64(True):
        (_, _), params = replay(record, h, recorded_subspace(record, h))
        for n in h["names"]:
            np.testing.assert_allclose(params[n], record[f"p/{n}"], atol=1e-10, rtol=0, err_msg=n)


@pytest.mark.fidelity
@pytest.mark.parametrize("name", ["adamw_svd_sign", "sgd_svd_full"])
def test_our_svd_gives_the_recorded_run(name):
    # The authors' bases are float32; signs of singular vectors do not matter.
    record, h = load(RECORDS[0].parent / f"frugal_galore_{name}.npz")
    with jax.enable_x64(True):
        _, params = replay(record, h, optim.subspaces.svd(h["proj_side"]))
        for n in h["names"]:
            np.testing.assert_allclose(params[n], record[f"p/{n}"], atol=1e-5, rtol=0, err_msg=n)
