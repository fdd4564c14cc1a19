"""Parameters and states split over a mesh: rules, bytes on each device, results of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import optim

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(64, 32)), RNG.normal(size=(64, 4))


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def _params():
    rng = np.random.default_rng(1)
    return {
        "layers_0": {"kernel": jnp.asarray(rng.normal(size=(32, 64)) / 6), "bias": jnp.zeros(64)},
        "layers_1": {"kernel": jnp.asarray(rng.normal(size=(64, 64)) / 8), "bias": jnp.zeros(64)},
        "out": {"kernel": jnp.asarray(rng.normal(size=(64, 4)) / 8), "bias": jnp.zeros(4)},
    }


def _loss(params, batch):
    h = batch["x"]
    for name in ("layers_0", "layers_1"):
        h = jnp.tanh(h @ params[name]["kernel"] + params[name]["bias"][None])
    return jnp.square(h @ params["out"]["kernel"] + params["out"]["bias"][None] - batch["y"]).mean()


def _batches(start):
    for t in range(start, 10**6):
        rows = np.random.default_rng(t).permutation(64)[:16]
        yield {"x": X[rows], "y": Y[rows]}


def _train(tx, mesh, sharded, steps=20, start=0, state=None):
    def step(state, batch):
        params, opt = state
        loss, grads = jax.value_and_grad(_loss)(params, batch)
        updates, opt = tx.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), {"loss": loss}

    if state is None:
        params = _params()
        state = params, tx.init(params)
    if sharded:
        state = optim.parallel.shard(state, mesh)
    return optim.loop.run(step, state, _batches, steps, start=start, mesh=mesh, steps_per_call=10)


OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.1, momentum=0.9),
    "adamw": lambda: optax.adamw(1e-2, weight_decay=0.1),
    "lion": lambda: optim.lion(1e-3, weight_decay=0.1),
    "adamp": lambda: optim.adamp(1e-2, weight_decay=0.1),
    "sgdp": lambda: optim.sgdp(0.1, momentum=0.9),
    "diffgrad": lambda: optim.diffgrad(1e-2),
    "frugal": lambda: optim.frugal(1e-2, density=0.5, update_gap=7),
    "frugal columns": lambda: optim.frugal(1e-2, density=0.5, update_gap=7, subspace="columns"),
    "cautious lion": lambda: optim.cautious(optim.lion(1e-3)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_split_over_eight_devices_the_result_is_that_of_one(name):
    tx, mesh = OPTIMIZERS[name](), optim.parallel.data_mesh(jax.devices()[:8])
    expected = jax.device_get(_train(tx, None, False))
    state = _train(tx, mesh, True)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11),
        jax.device_get(state),
        expected,
    )
    # The layout of the start is that of the end, and a device holds an eighth of what is large.
    for leaf in jax.tree.leaves(state):
        spec = optim.parallel.specs(leaf, 8) if leaf.size >= 1024 else P()
        assert leaf.sharding.spec == spec or leaf.sharding.is_fully_replicated
        own = leaf.addressable_shards[0].data.size
        assert own == leaf.size // (8 if spec != P() else 1)


def test_bytes_on_a_device():
    params = _params()
    state = optax.adam(1e-3).init(params)
    whole = sum(x.size * 8 for x in (params["out"]["kernel"], params["out"]["bias"])) + 2 * 64 * 8
    large = (32 * 64 + 64 * 64) * 8
    found = optim.parallel.shares(params, 8)
    assert sum(s.size for s in found) == whole + large // 8
    assert sum(s.size for s in optim.parallel.shares(state, 8)) == 2 * (whole + large // 8) + 4
    assert sum(s.size for s in optim.parallel.shares(params, 1)) == whole + large
    kernel = next(s for s in found if s.path == "layers_0/kernel")
    assert (kernel.shape, kernel.spec, kernel.size) == ((32, 64), P(None, "data"), 32 * 64)


def test_compiled_it_needs_an_eighth():
    mesh = optim.parallel.data_mesh(jax.devices()[:8])
    params = {"w": jnp.ones((1024, 64))}
    tx = optax.adam(1e-3)

    def bytes_of(place):
        p, s = place(params), place(tx.init(params))
        step = jax.jit(lambda p, s: tx.update(p, s, p), donate_argnums=1)
        return step.lower(p, s).compile().memory_analysis().argument_size_in_bytes

    split = bytes_of(lambda tree: optim.parallel.shard(tree, mesh))
    rules = (("", None),)
    replicated = bytes_of(lambda tree: optim.parallel.shard(tree, mesh, rules))
    assert split < 1.01 * replicated / 8


def test_saved_by_eight_devices_it_goes_on_with_two_and_with_one():
    tx = OPTIMIZERS["frugal"]()
    eight, two = (optim.parallel.data_mesh(jax.devices()[:n]) for n in (8, 2))
    expected = jax.device_get(_train(tx, None, False))
    half = jax.device_get(_train(tx, eight, True, steps=10))  # In between the subspace changes.
    for mesh in (two, None):
        state = jax.tree.map(jnp.asarray, half)
        found = _train(tx, mesh, mesh is not None, start=10, state=state)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11),
            jax.device_get(found),
            expected,
        )


def test_rules():
    tree = {"embedding": jnp.ones((64, 24)), "kernel": jnp.ones((24, 64)), "bias": jnp.ones(64)}
    rules = (("embedding", P("data", None)), ("bias", None), ("", "largest"))
    found = optim.parallel.specs({"mu": tree}, 8, rules)["mu"]
    assert found == {"embedding": P("data", None), "kernel": P(None, "data"), "bias": P()}
    # The first rule that matches counts; the first of two equal axes is split.
    square = {"kernel": jnp.ones((64, 64))}
    assert optim.parallel.specs(square, 8, (("k", None), ("", "largest")))["kernel"] == P()
    assert optim.parallel.specs(square, 8)["kernel"] == P("data", None)
    assert optim.parallel.specs({"kernel": jnp.ones((63, 64))}, 8)["kernel"] == P(None, "data")
    # Small ones stay whole.
    assert optim.parallel.specs({**square, "small": jnp.ones((8, 8))}, 8)["small"] == P()


@pytest.mark.parametrize(
    ("rules", "devices", "message"),
    [
        ((("bias", None),), 8, "no rule matches kernel"),
        ((("", P("data", None, None)),), 8, r"the rule of bias has 3 axes, the leaf is \(64,\)"),
        ((("kernel", P("data", None)), ("", None)), 5, r"kernel \(64, 48\) has no 5 equal parts"),
        ((("", "largest"),), 5, "no leaf has an axis that 5 devices divide"),
        ((("(", None),), 8, "rules must have regexes"),
        ((("", "smallest"),), 8, "must choose a PartitionSpec, None or 'largest'"),
        ((("", None),), 0, "devices must be an integer >= 1"),
    ],
)
def test_rules_that_do_not_fit(rules, devices, message):
    tree = {"bias": jnp.ones(64), "kernel": jnp.ones((64, 48))}
    with pytest.raises(ValueError, match=message):
        optim.parallel.specs(tree, devices, rules)


def test_a_mesh_without_the_axis_and_one_with_another():
    mesh = Mesh(np.array(jax.devices()[:2]), ("model",))
    with pytest.raises(ValueError, match="mesh must have an axis 'data'"):
        optim.parallel.shard({"w": jnp.ones((64, 64))}, mesh)
    placed = optim.parallel.shard({"w": jnp.ones((64, 64))}, mesh, axis_name="model")
    assert placed["w"].sharding.spec == P("model", None)
    # Of a mesh of two axes, the devices along one count.
    grid = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("data", "model"))
    placed = optim.parallel.shard({"w": jnp.ones((66, 34))}, grid)
    assert placed["w"].addressable_shards[0].data.shape == (33, 34)
