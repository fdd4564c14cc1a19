"""Gradients of a batch part after part: those of the whole batch, in less memory."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import optim

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 5)).astype(np.float32)
W = {"w": jnp.float32(RNG.normal(size=(5, 3))), "b": jnp.zeros(3)}


def loss(params, batch):
    out = jnp.tanh(batch["x"] @ params["w"] + params["b"][None])
    return jnp.mean(out**2 * batch["weight"][:, None]), {
        "largest": jnp.max(batch["x"]),
        "examples": batch["x"].shape[0] + jnp.int32(0),
    }


BATCH = {"x": X, "weight": RNG.uniform(size=48).astype(np.float32)}


@pytest.mark.parametrize("devices", [1, 8])
def test_the_gradient_is_that_of_the_whole_batch_on_one_device_and_eight(devices):
    mesh = optim.parallel.data_mesh(jax.devices()[:devices])
    whole, split = (NamedSharding(mesh, PartitionSpec(*a)) for a in ((), ("data",)))
    exact = jax.value_and_grad(loss, has_aux=True)
    in_parts = jax.jit(optim.accumulate(exact, 3))
    (value, aux), grads = in_parts(jax.device_put(W, whole), jax.device_put(BATCH, split))
    (expected, _), expected_grads = exact(W, BATCH)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for ours, theirs in zip(*map(jax.tree.leaves, (grads, expected_grads)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-8)
    # Part i has the examples i, i + 3, ...; floats are averaged, integers are the last part's.
    np.testing.assert_allclose(aux["largest"], np.mean([X[i::3].max() for i in range(3)]), 1e-6)
    assert aux["examples"] == 16


def test_keys_are_split_and_sixteen_bits_are_summed_in_float32():
    def noisy(w, batch):
        return jnp.sum(w * jax.random.normal(batch["key"], ()).astype(w.dtype))

    batch = {"key": jax.random.key(3), "x": np.zeros(4)}
    value, _ = optim.accumulate(jax.value_and_grad(noisy), 4)(jnp.float32([1.0]), batch)
    draws = [jax.random.normal(k, ()) for k in jax.random.split(jax.random.key(3), 4)]
    np.testing.assert_allclose(value, np.mean(draws), rtol=1e-6)

    ones = jnp.ones(1024, jnp.bfloat16)  # A sum of 1024 in bfloat16 would stop at 256.
    mean = jax.grad(lambda w, x: w * jnp.mean(x))
    grads = optim.accumulate(mean, 1024)(jnp.bfloat16(1), ones)
    assert grads.dtype == jnp.bfloat16
    assert grads == 1


def test_gradients_of_complex_parameters_are_means_too():
    exact = jax.value_and_grad(lambda w, x: jnp.mean(jnp.abs(x * w) ** 2))
    w, x = jnp.complex64(1 + 1j), jnp.arange(4.0)
    ours, want = optim.accumulate(exact, 2)(w, x), exact(w, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, want)


def test_it_keeps_the_activations_of_one_part_only(users_compiler):
    def deep(w, x):
        for _ in range(6):
            x = jnp.tanh(x @ w)
        return jnp.mean(x**2)

    exact = jax.value_and_grad(deep)
    shapes = jax.ShapeDtypeStruct((16, 16), jnp.float32), jax.ShapeDtypeStruct((4096, 16), "f4")

    def temporaries(f):
        return jax.jit(f).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    # The batch is laid out anew once; what backpropagation keeps is an eighth.
    one, eight = temporaries(exact), temporaries(optim.accumulate(exact, 8))
    assert eight < 0.4 * one


def test_it_is_a_drop_in_for_the_step_of_a_loop():
    tx = optax.sgd(0.1)
    exact = jax.value_and_grad(loss, has_aux=True)
    states = []
    for parts in (1, 4):
        params, state = W, tx.init(W)
        step = jax.jit(optim.accumulate(exact, parts))
        for _ in range(5):
            _, grads = step(params, BATCH)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        states.append(params)
    for one, four in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(one, four, rtol=1e-5, atol=1e-7)


BAD = [
    (0, BATCH, "parts must be an integer >= 1, got 0"),
    (5, BATCH, "parts must divide the 48 examples of batch['weight'], got 5"),
    (2, (), "batch must hold an array of examples, got ()"),
    (2, {"x": X, "weight": 1.0}, "batch['weight'] must have an axis of examples"),
]


@pytest.mark.parametrize(("parts", "batch", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_names_the_leaf(parts, batch, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        optim.accumulate(jax.value_and_grad(loss, has_aux=True), parts)(W, batch)
