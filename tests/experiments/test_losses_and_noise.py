"""The main's losses, its gradient noise scale, and optimizers that are put together by name."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optim
from experiments.common import config_files
from experiments.comparing import methods
from experiments.supervised import combinations, optimizers, training


def config_of(**options):
    texts = {
        "model.options.widths": "(4,)",
        "batch_size": "64",
        "steps": "2",
        "log_every": "1",
        "eval_every": "2",
        "optimizer.name": "sgd",
        "optimizer.learning_rate": "0.1",
    }
    texts |= {k.replace("__", "."): v for k, v in options.items()}
    return config_files.override_texts(config_files.load("configs/digits.py"), texts)


def first_step(**options):
    """The first state, the batch and the metrics of its step, by the functions of the main."""
    config = config_of(**options)
    job = training.job_of(config, None)
    state, key = training.start(job, [config])
    batch = job.prepare(job.resident, next(job.batches(0)(0)), key)
    return state, batch, jax.device_get(jax.jit(job.step)(state, batch)[1])


def test_parts_of_a_batch_tell_the_noise_scale():
    _, _, whole = first_step()
    state, batch, metrics = first_step(micro_batches="4")
    assert set(metrics) - set(whole) == {"noise_scale"}
    for name, value in whole.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)

    def loss(params, x, label):
        first, last = params["layers_0"], params["layers_1"]
        hidden = x.reshape(len(x), -1) @ first["kernel"] + first["bias"][None]
        logits = jax.nn.relu(hidden) @ last["kernel"] + last["bias"][None]
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    parts = [x.reshape(4, 16, *x.shape[1:]) for x in (batch["x"], batch["label"])]
    grads = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))(state.params, *parts)
    flat = np.concatenate([np.reshape(g, (4, -1)) for g in jax.tree.leaves(grads)], 1)
    small, big = np.sum(flat**2, 1).mean(), np.sum(flat.mean(0) ** 2)
    np.testing.assert_allclose(metrics["gradient_norm"] ** 2, big, rtol=1e-4)
    scale = (small - big) / (1 / 16 - 1 / 64) / ((64 * big - 16 * small) / 48)
    np.testing.assert_allclose(metrics["noise_scale"], scale, rtol=1e-3)


def test_parts_in_turn_give_the_step_of_the_whole_batch():
    state, batch, _ = first_step()
    steps = [training.job_of(config_of(accumulate=k), None).step for k in ("1", "4")]
    loops = [str(jax.make_jaxpr(step)(state, batch)).count("scan[") for step in steps]
    assert loops == [0, 1]
    (whole, expected), (parts, found) = (jax.jit(step)(state, batch) for step in steps)
    for one, four in zip(*map(jax.tree.leaves, (expected, found)), strict=True):
        np.testing.assert_allclose(four, one, rtol=1e-5)
    for one, four in zip(*map(jax.tree.leaves, (whole.params, parts.params)), strict=True):
        np.testing.assert_allclose(four, one, rtol=1e-4, atol=1e-7)


def test_stablemax_is_a_loss_of_the_main():
    state, _, metrics = first_step(loss="stablemax")
    job = training.job_of(config_of(loss="stablemax"), None)
    _, _, usual = first_step()
    assert metrics["accuracy"] == usual["accuracy"]
    assert abs(metrics["loss"] - usual["loss"]) > 1e-4
    loss, _ = training.cross_entropy(jnp.float32([[0.0, 3.0]]), jnp.int32([1]), "stablemax")
    np.testing.assert_allclose(loss, [np.log(5 / 4)], rtol=1e-6)
    again = job.evaluate(state, "valid")
    assert abs(again["loss"] - metrics["loss"]) < 1.0


@pytest.mark.parametrize("name", combinations.__all__)
def test_combinations_descend_by_name(name):
    assert optimizers.OPTIMIZERS[name] is getattr(combinations, name)
    rng = np.random.default_rng(0)
    target = {"bias": rng.standard_normal(3), "kernel": rng.standard_normal((4, 3))}
    target = jax.tree.map(np.float32, target)
    params = jax.tree.map(lambda x: np.float32(x + 1), target)

    def loss(p):
        pairs = zip(jax.tree.leaves(p), jax.tree.leaves(target), strict=True)
        return sum(jnp.sum((a - b) ** 2) for a, b in pairs)

    tx = optimizers.OPTIMIZERS[name](lambda count: 0.02, weight_decay=1e-3)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), loss(params)

    losses = jax.jit(lambda c: jax.lax.scan(step, c, length=40)[1])((params, tx.init(params)))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", methods.declared.MORE)
def test_contestants_of_the_comparison(name):
    (method,) = methods.find(name)
    assert set(method.space) <= {"learning_rate", "one_minus_b1", "weight_decay"}
    tx = methods.build(method)
    params = {"bias": jnp.zeros(3), "kernel": jnp.zeros((4, 3))}
    (setting,) = methods.trials(method, 0, 1)

    def step(params):
        return tx.update(params, tx.init(params, setting, 20, 2, 0), params, jnp.float32(1.0))[0]

    updates = jax.eval_shape(step, params)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)


def test_soap_is_adam_in_the_eigenbases():
    g = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    tx = combinations.soap(1.0, 0.0, 0.9, 0.0)
    updates, _ = jax.jit(lambda g: tx.update(g, tx.init(g), g))(g)
    # At the first step that is the polar factor of the gradient, as the bases are its own.
    u, _, vt = np.linalg.svd(g, full_matrices=False)
    np.testing.assert_allclose(np.abs(np.diag(u.T @ updates @ vt.T)), 1.0, atol=1e-3)


def test_projected_directions_keep_the_norm():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((8, 4)).astype(np.float32)
    g = rng.standard_normal((8, 4)).astype(np.float32)
    g -= w * (w * g).sum(0) / (w * w).sum(0)  # What a normalization behind w makes of it.
    tx = combinations.projected_muon(0.1)
    updates, _ = tx.update({"w": g}, tx.init({"w": w}), {"w": w})
    assert np.abs((updates["w"] * w).sum(0)).max() < 1e-5
    plain = optax.contrib.muon(0.1)
    radial, _ = plain.update({"w": g}, plain.init({"w": w}), {"w": w})
    assert np.abs((radial["w"] * w).sum(0)).max() > 1e-2


def test_orthograd_by_name_leaves_vectors_alone():
    w = {"bias": np.float32([1.0, 2.0]), "kernel": np.float32([[1.0, 2.0], [3.0, 1.0]])}
    tx = combinations.orthograd_sgd(1.0)
    updates, _ = tx.update(w, tx.init(w), w)
    np.testing.assert_array_equal(updates["bias"], -w["bias"])
    np.testing.assert_array_equal(updates["kernel"], np.zeros((2, 2)))
    assert optim.state_bytes(tx, w) == 0


BAD = [
    ({"loss": "stable"}, "loss must be one of softmax, stablemax, got 'stable'"),
    ({"micro_batches": "3"}, "micro_batches must divide batch_size=64, got 3"),
    ({"micro_batches": "1"}, "micro_batches must be an integer >= 2, got 1"),
    ({"accumulate": "3"}, "accumulate must divide batch_size=64, got 3"),
    ({"accumulate": "0"}, "accumulate must be an integer >= 1, got 0"),
    ({"accumulate": "2", "gradient": "rge"}, "accumulate needs gradient.name=backprop"),
    ({"accumulate": "2", "micro_batches": "2"}, "accumulate must be 1 with micro_batches"),
    ({"micro_batches": "2", "gradient": "rge"}, "micro_batches needs gradient.name=backprop"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_names_the_key_the_value_and_the_range(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        training.job_of(config_of(**options), None)
