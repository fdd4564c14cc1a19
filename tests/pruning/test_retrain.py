"""Retraining of few parameters against the authors' runs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sparse_records as records

import bilevel
from bilevel import retrain
from bilevel.pruning import problem

MODES = {"bias": (("bias",), None), "ln": (("norm",), None), "bias_ln": (("bias", "norm"), None),
         "mask_lora": (("bias", "norm"), "masked"), "lora_prune": (("bias", "norm"), "pruned"),
         "scale_lora": (("bias", "norm"), "scale")}  # fmt: skip


def loss(params, x, y):
    h = x @ params["w0"]["kernel"].T + params["w0"]["bias"][None]
    h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)
    h = jnp.tanh(h * params["norm"]["gamma"][None] + params["norm"]["beta"][None])
    logits = h @ params["w1"]["kernel"].T + params["w1"]["bias"][None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@pytest.mark.fidelity
def test_runs_of_the_authors():
    record, h = records.load("perp")
    x, y = record["x"].astype(float), record["y"].astype(np.int32)
    for name, (kinds, mode) in MODES.items():
        with jax.enable_x64(True):
            params = {
                "norm": {"gamma": record["ln_gamma"], "beta": record["ln_beta"]},
                **{f"w{i}": {"kernel": record[f"w{i}"], "bias": record[f"bias{i}"]}
                   for i in range(2)},
            }  # fmt: skip
            params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), params)
            masks = jax.tree.map(lambda a: None, params)
            adapters, merge = {}, lambda adapters, params, final=False: params
            if mode:
                for i in range(2):
                    masks[f"w{i}"]["kernel"] = record[f"w{i}"] != 0
                adapters, merge = retrain.mask_lora(
                    params, masks, h["rank"], h["alpha"], key=jax.random.key(0), mode=mode
                )
                if mode != "scale":
                    for i in range(2):
                        adapters[f"w{i}"]["kernel"] = {
                            "left": record[f"B{i}"].astype(float),
                            "right": record[f"A{i}"].astype(float),
                        }
                adapters = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), adapters)
            chosen = retrain.select(params, kinds)
            tx = optax.adamw(
                lambda t: (h["steps"] - t) * (h["lr"] / h["steps"]), *h["betas"], eps=h["eps"],
                weight_decay=h["wd"],
            )  # fmt: skip

            def total(trained, x, y, params=params, chosen=chosen, merge=merge):
                full = jax.tree.map(lambda c, a, b: a if c else b, chosen, trained[0], params)
                return loss(merge(trained[1], full), x, y)

            def step(carry, batch, total=total, tx=tx):
                trained, opt = carry
                value, g = jax.value_and_grad(total)(trained, *batch)
                updates, opt = tx.update(g, opt, trained)
                return (optax.apply_updates(trained, updates), opt), value

            start = (params, adapters)
            scan = jax.jit(lambda c, step=step: jax.lax.scan(step, c, (x, y)))
            ((end, adapters), _), losses = scan((start, tx.init(start)))
            assert records.gap(losses, record[f"{name}_loss"]) < 1e-12, name
            got = [end["norm"]["gamma"], end["norm"]["beta"], end["w0"]["bias"], end["w1"]["bias"]]
            keys = ("ln_gamma", "ln_beta", "bias0", "bias1")
            assert records.gap(got, [record[f"{name}_{k}"] for k in keys]) < 1e-12, name
            if mode:
                merged = merge(adapters, end, True)
                for i in range(2):
                    new = np.asarray(merged[f"w{i}"]["kernel"])
                    assert records.gap(new, record[f"{name}_merged{i}"]) < 1e-12, name
                    assert not new[record[f"w{i}"] == 0].any()


def test_a_solver_retrains_what_is_chosen_and_merges_the_rest():
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    params = {"dense": {"kernel": normal(6, 5), "bias": normal(5)}, "norm": {"scale": jnp.ones(5)}}
    masks = jax.tree.map(lambda x: None, params)
    masks["dense"]["kernel"] = jnp.abs(params["dense"]["kernel"]) > 0.7
    x, y = normal(32, 6), normal(32, 5)

    def mse(p, batch):
        h = batch @ p["dense"]["kernel"] + p["dense"]["bias"][None]
        return jnp.mean((h * p["norm"]["scale"][None] - y) ** 2)

    losses = {}
    for name, options, moved in (
        ("bias", {"kinds": ("bias",)}, {"bias"}), ("few", {}, {"bias", "scale"}),
        ("lora", {"rank": 2}, {"bias", "scale", "kernel"}),
        ("merged", {"rank": 2, "mode": "pruned"}, {"bias", "scale", "kernel"}),
    ):  # fmt: skip
        solver = retrain.training(optax.adam(0.05), **options)
        state, step = solver.init(problem(mse), masks, params), jax.jit(solver.step)
        for _ in range(40):
            state, metrics = step(state, x)
        new, kept = solver.export(state)
        losses[name] = float(mse(new, x))
        numbers = {"bias": 5, "few": 10}.get(name, 10 + 2 * (6 + 5))
        assert float(metrics["trained"]) == pytest.approx(numbers / 40)
        old = {path[-1].key: v for path, v in jax.tree_util.tree_leaves_with_path(
            bilevel.masks.apply(masks, params))}  # fmt: skip
        now = {path[-1].key: v for path, v in jax.tree_util.tree_leaves_with_path(new)}
        assert {k for k in old if not np.array_equal(old[k], now[k])} == moved
        assert np.array_equal(kept["dense"]["kernel"], masks["dense"]["kernel"])
        assert not np.asarray(now["kernel"])[~np.asarray(masks["dense"]["kernel"])].any()
    start = float(mse(bilevel.masks.apply(masks, params), x))
    assert losses["lora"] < losses["few"] < losses["bias"] < start
    with pytest.raises(ValueError, match="needs the masks of the pruned model for x0"):
        solver.init(problem(mse), None, params)
    bare = {"kernel": params["dense"]["kernel"]}
    with pytest.raises(ValueError, match="nothing is retrained"):
        retrain.training(0.1).init(problem(mse), {"kernel": jnp.ones((6, 5), bool)}, bare)


def test_bad_input():
    params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    with pytest.raises(ValueError, match="kinds must be one of bias, norm"):
        retrain.select(params, ("biases",))
    with pytest.raises(ValueError, match="no leaf is a norm; the leaves are: dense/bias"):
        retrain.select(params)
    masks = {"dense": {"kernel": jnp.ones((2, 2), bool), "bias": jnp.ones(2, bool)}}
    with pytest.raises(ValueError, match=r"dense/bias of shape \(2,\) is no matrix"):
        retrain.mask_lora(params, masks, 1, key=jax.random.key(0))
    with pytest.raises(ValueError, match="rank must be"):
        retrain.mask_lora(params, masks, 0, key=jax.random.key(0))
