"""Parameters and states split over a mesh: rules, bytes on each device, results of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
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
    "adamp": lambda: optim.adamp(1e-2, weight_decay=0.1),
    "frugal": lambda: optim.frugal(1e-2, density=0.5, update_gap=7),
    "frugal columns": lambda: optim.frugal(1e-2, density=0.5, update_gap=7, subspace="columns"),
    "clipped, by groups, averaged": lambda: optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.multi_transform(
            {"kernel": optim.badam(1e-2), "rest": optim.diffgrad(1e-2)},
            lambda p: jax.tree.map(lambda x: "kernel" if x.ndim > 1 else "rest", p),
        ),
        optax.ema(0.9),
    ),
    "every second step": lambda: optax.MultiSteps(optax.contrib.schedule_free_sgd(0.1), 2),
}


# What each optimizer does with leaves that are split is tested with all the others; here it is the
# loop, with states of one moment, of two, in a subspace, in groups and averaged.
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
    # A rule that overlaps an earlier one serves the leaves that are left.
    overlapping = (("mu/kernel", None), ("kernel|bias", None), ("", "largest"))
    assert optim.parallel.specs({"mu": tree}, 8, overlapping)["mu"]["embedding"] == P("data", None)
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
        ((("biass", None), ("", "largest")), 8, "the rule 'biass' matches none of bias, kernel"),
        ((("", "largest"), ("bias", None)), 8, "the rule 'bias' comes after one that takes bias"),
        ("kernel", 8, r"rules must be pairs \(regex, choice\), got 'kernel'"),
        ({"kernel": None}, 8, r"rules must be pairs \(regex, choice\)"),
        (((7, None),), 8, "rules must have regexes, got 7"),
        ((("kernel", ("data", None)), ("", None)), 8, "must choose a PartitionSpec, None or"),
        ((("kernel", P("data", "data")), ("", None)), 8, "the rule of kernel names an axis twice"),
    ],
)
def test_rules_that_do_not_fit(rules, devices, message):
    tree = {"bias": jnp.ones(64), "kernel": jnp.ones((64, 48))}
    with pytest.raises(ValueError, match=message):
        optim.parallel.specs(tree, devices, rules)


def test_rules_of_states_without_their_leaves():
    rules = (("bias", None), ("", "largest"))
    params = {"bias": jnp.ones(64), "kernel": jnp.ones((64, 48))}
    kernels, split = {"bias": False, "kernel": True}, P("data", None)
    for tx, wanted in (
        (optax.sgd(0.1), []),
        (optax.masked(optax.adam(0.1), kernels), [P(), split, split]),
    ):
        found = optim.parallel.specs(tx.init(params), 8, rules)
        assert jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, P)) == wanted


def test_a_mesh_without_the_axis_and_one_with_another():
    mesh = Mesh(np.array(jax.devices()[:2]), ("model",))
    with pytest.raises(ValueError, match="mesh must have an axis 'data'"):
        optim.parallel.shard({"w": jnp.ones((64, 64))}, mesh)
    with pytest.raises(ValueError, match=r"mesh must be a jax.sharding.Mesh, got None"):
        optim.parallel.shard({"w": jnp.ones((64, 64))}, None)
    placed = optim.parallel.shard({"w": jnp.ones((64, 64))}, mesh, axis_name="model")
    assert placed["w"].sharding.spec == P("model", None)


def test_a_mesh_of_two_axes():
    grid = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("data", "model"))
    tree = {"w": jnp.ones((66, 34)), "v": jnp.ones((64, 24)), "none": None, "empty": jnp.ones(0)}

    def parts(*rules):
        placed = optim.parallel.shard(tree, grid, (*rules, ("", "largest")))
        return {k: placed[k].addressable_shards[0].data.shape for k in ("w", "v", "empty")}

    assert parts() == {"w": (33, 34), "v": (32, 24), "empty": (0,)}
    both = parts(("v", P(("data", "model"), None)), ("empty", P("data")))
    assert both == {"w": (33, 34), "v": (8, 24), "empty": (0,)}
    assert parts(("v", P("data", "model")))["v"] == (32, 6)
    for rule, message in (
        (("w", P(None, "model")), r"w \(66, 34\) has no 4 equal parts along 34"),
        (("w", P(("data", "model"))), r"w \(66, 34\) has no 8 equal parts along 66"),
        (
            ("w", P("modl")),
            r"of w names the axis 'modl', the mesh has \['data', 'model'\]",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            parts(rule)
    # What a split over another axis than that of the bytes leaves whole counts as whole.
    (share,) = optim.parallel.shares({"v": tree["v"]}, 2, (("", P(None, "model")),))
    assert share.size == tree["v"].nbytes


def test_a_leaf_that_is_no_array_is_named():
    for leaf in (jax.nn.relu, "relu"):
        with pytest.raises(ValueError, match=r"act/0 must be an array, got .*equinox.partition"):
            optim.parallel.specs({"act": [leaf]}, 8)


def test_paths_end_above_the_variables_of_nnx():
    state = nnx.state(nnx.Linear(64, 24, rngs=nnx.Rngs(0)), nnx.Param)
    found = optim.parallel.specs(state, 8, (("kernel$", P(None, "data")), ("", None)))
    assert found["kernel"].get_value() == P(None, "data")
    assert [share.path for share in optim.parallel.shares(state, 8)] == ["bias", "kernel"]


def test_a_state_split_over_another_mesh_is_not_made_whole_in_silence():
    ours, theirs = (Mesh(np.array(jax.devices()[:2]), (name,)) for name in ("data", "model"))
    state = _params()
    state = optim.parallel.shard((state, ()), theirs, axis_name="model")
    with pytest.raises(
        ValueError, match=r"state\[0\]\['layers_0'\]\['kernel'\] is split over Mesh"
    ):
        _train(optax.sgd(0.1), ours, False, state=state)


def test_gradients_in_parts_and_recomputed_blocks_on_eight_devices_are_those_of_one():
    tx, mesh = optax.chain(optim.adamp(1e-2), optax.ema(0.9)), optim.parallel.data_mesh()

    def loss(params, batch):
        h = batch["x"]
        for name in ("layers_0", "layers_1"):
            h = jax.checkpoint(lambda p, h: jnp.tanh(h @ p["kernel"] + p["bias"][None]))(
                params[name], h
            )
        return jnp.square(h @ params["out"]["kernel"] - batch["y"]).mean()

    in_parts = optim.accumulate(jax.value_and_grad(loss), 2)

    def step(state, batch):
        params, opt, average = state
        value, grads = in_parts(params, batch)
        updates, opt = tx.update(grads, opt, params)
        params = optax.apply_updates(params, updates)
        return (params, opt, optax.incremental_update(params, average, 0.1)), {"loss": value}

    def run(place, mesh):
        state = place((_params(), tx.init(_params()), _params()))
        return optim.loop.run(step, state, _batches, 20, mesh=mesh, steps_per_call=10)

    one = run(lambda state: state, None)
    eight = run(lambda state: optim.parallel.shard(state, mesh), mesh)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), eight, one)
    for leaf in jax.tree.leaves(eight):
        assert leaf.addressable_shards[0].data.size == leaf.size // (8 if leaf.size >= 1024 else 1)
