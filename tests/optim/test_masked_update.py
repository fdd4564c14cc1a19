"""Pruned weights and their moments stay exactly zero, whatever the optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import bilevel
import optim

PARAMS = {"a": {"kernel": np.arange(1.0, 13, dtype=np.float32).reshape(3, 4), "bias": None}}
PARAMS["b"] = {"kernel": np.ones((4, 2), np.float32), "bias": np.ones(2, np.float32)}


def cut(density):
    return bilevel.masks.from_scores(bilevel.criteria.magnitude(PARAMS), density, min_keep=1)


def zeros_where_pruned(masks, tree):
    pairs = zip(jax.tree.leaves(masks), jax.tree.leaves(tree), strict=True)
    return all((np.asarray(x)[~np.asarray(m)] == 0).all() for m, x in pairs)


def moments(tx, state):
    """The trees of ``state`` that are shaped like the parameters."""
    flat = [x for x in jax.tree.leaves(state) if jnp.shape(x) == (3, 4) and x.dtype == jnp.float32]
    assert flat or tx == "sgd"
    return flat


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("sgd", optax.sgd(0.1)),
        ("momentum", optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9))),
        ("adamw", optax.adamw(0.1, weight_decay=0.1)),
        ("injected", optax.inject_hyperparams(optax.adam)(learning_rate=0.1)),
    ],
)
def test_pruned_weights_and_moments_stay_zero_across_mask_changes(name, inner):
    tx = optim.masked_update(inner)
    params, traces = PARAMS, []

    @jax.jit
    def step(params, state, masks, scale):
        traces.append(0)
        grads = jax.tree.map(lambda p: scale * jnp.cos(p), params)
        updates, state = tx.update(grads, state, params, masks=masks)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    sparse, denser = cut(0.3), cut(0.6)
    start = step(params, state, sparse, 1.0)[1]
    del start
    for masks in (denser, sparse, denser):
        for t in range(3):
            params, state = step(params, state, masks, 1.0 + t)
            pruned = ~np.asarray(masks["a"]["kernel"])
            kernels = {k: {"kernel": v["kernel"]} for k, v in params.items()}
            only = {k: {"kernel": v["kernel"]} for k, v in masks.items()}
            assert zeros_where_pruned(only, kernels)
            for m in moments(name, state.inner_state):
                assert (np.asarray(m)[pruned] == 0).all()
    assert np.asarray(params["a"]["kernel"])[np.asarray(denser["a"]["kernel"])].all()
    # None and scalar bookkeeping apart, new masks never recompile.
    assert len(traces) <= 2


def test_a_weight_that_comes_back_starts_from_zero_moments():
    tx = optim.masked_update(optax.sgd(0.1, momentum=0.9))
    params = {"w": jnp.array([1.0, 1.0])}
    state = tx.init(params)
    on, off = {"w": jnp.array([True, True])}, {"w": jnp.array([True, False])}
    one = {"w": jnp.ones(2)}
    for masks in (on, on, off, on):
        updates, state = tx.update(one, state, params, masks=masks)
        params = optax.apply_updates(params, updates)
    trace = state.inner_state[0].trace["w"]
    np.testing.assert_allclose(trace, [1 + 0.9 + 0.81 + 0.729, 1.0], rtol=1e-6)
    np.testing.assert_allclose(params["w"][1], -0.1, rtol=1e-6)


def test_kept_weights_move_as_without_the_wrapper():
    masks = {"w": jnp.array([True, False, True])}
    params = {"w": jnp.array([1.0, 0.0, -2.0])}
    grads = {"w": jnp.array([0.3, 5.0, -0.2])}
    plain, wrapped = optax.adamw(0.1), bilevel.sparse(optax.adamw(0.1), masks)
    a, b = params, params
    sa, sb = plain.init(a), wrapped.init(b)
    for _ in range(3):
        ua, sa = plain.update(grads, sa, a)
        ub, sb = wrapped.update(grads, sb, b)
        a, b = optax.apply_updates(a, ua), optax.apply_updates(b, ub)
    kept = np.array([0, 2])
    assert np.array_equal(a["w"][kept], b["w"][kept])
    assert b["w"][1] == 0


def test_masks_may_be_a_function_and_infinite_weights_are_dropped():
    tx = optim.masked_update(optax.sgd(0.1), lambda p: jax.tree.map(jnp.isfinite, p))
    params = {"w": jnp.array([1.0, 2.0])}
    state = tx.init({"w": jnp.array([1.0, jnp.nan])})
    updates, _ = tx.update({"w": jnp.array([0.0, jnp.nan])}, state, params)
    assert np.array_equal(optax.apply_updates(params, updates)["w"], [1.0, 0.0])


def test_factored_moments_are_left_alone():
    params = {"w": jnp.ones((8, 8))}
    masks = {"w": jnp.arange(64).reshape(8, 8) % 2 == 0}
    tx = optim.masked_update(optax.scale_by_factored_rms(min_dim_size_to_factor=4), masks)
    updates, _ = tx.update(params, tx.init(params), params)
    new = optax.apply_updates(params, updates)["w"]
    assert (new[~masks["w"]] == 0).all()


PLAIN = {"w": np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)}
PLAIN["c"] = np.ones(4, np.float32)
CHECKER = {"w": np.arange(32).reshape(8, 4) % 2 == 0, "c": None}
INNERS = {
    "identity": optax.chain(optax.identity(), optax.scale(-0.1)),
    "sign": optax.chain(optax.scale_by_sign(), optax.scale(-0.1)),
    "factored": optax.adafactor(0.1, min_dim_size_to_factor=4),
    "masked": optax.masked(optax.adamw(0.1), {"w": True, "c": False}),
    "partition": optax.partition(
        {"x": optax.adam(0.1), "y": optax.sgd(0.1, momentum=0.9)}, {"w": "x", "c": "y"}
    ),
    "accumulated": optax.MultiSteps(optax.adam(0.1), 2),
    "schedule free": optax.contrib.schedule_free(optax.adamw(0.1), 0.1),
    "muon": optax.contrib.muon(0.1),
    "sam": optax.contrib.sam(optax.adam(0.1), optax.sgd(0.05), sync_period=2),
    "cautious": optim.cautious(optax.adamw(0.1)),
    "adamp": optim.adamp(0.1, weight_decay=0.1),
    "frugal": optim.frugal(
        0.1, density=0.5, subspace="columns", projectable=lambda _, x: x.ndim > 1
    ),
}


@pytest.mark.parametrize("name", INNERS)
def test_around_any_transformation(name):
    """Pruned weights and what the state holds of them are zero; the others move."""
    tx = optim.masked_update(INNERS[name], CHECKER)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.tree.map(jnp.cos, params), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = jax.tree.map(jnp.asarray, PLAIN)
    run = jax.jit(lambda c: jax.lax.scan(step, c, length=5)[0])
    params, state = run((start, tx.init(start)))
    assert np.all(np.asarray(params["w"])[~CHECKER["w"]] == 0)
    assert np.all((params["w"] != PLAIN["w"])[CHECKER["w"]])
    assert np.all(params["c"] != 1)
    held = [x for x in jax.tree.leaves(state.inner_state) if jnp.shape(x) == (8, 4)]
    assert held or name in ("identity", "sign", "factored", "frugal")
    for x in held:
        if jnp.issubdtype(x.dtype, jnp.floating):
            assert np.all(np.asarray(x)[~CHECKER["w"]] == 0)
            assert np.any(np.asarray(x) != 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_pruned_weights_are_zero_after_one_step_of_narrow_gradients(dtype):
    params = {"w": jnp.array([1.2345678, 1 / 3, 1e5], jnp.float32)}
    tx = optim.masked_update(optax.sgd(0.1), {"w": jnp.array([True, False, False])})
    updates, _ = tx.update({"w": jnp.ones(3, dtype)}, tx.init(params), params)
    new = optax.apply_updates(params, updates)["w"]
    np.testing.assert_array_equal(new[1:], 0)
    assert new.dtype == jnp.float32


def test_masks_outlive_a_donated_state():
    def masks():
        return {"w": jnp.array([True, False])}

    params, at_init, at_update = {"w": jnp.ones(2)}, masks(), masks()
    tx = optim.masked_update(optax.sgd(0.1), at_init)
    state = tx.init(params)
    donate = jax.jit(lambda s: jax.tree.map(lambda x: x, s), donate_argnums=0)
    state = donate(state)
    _, state = tx.update(params, state, params, masks=at_update)
    donate(state)
    assert not at_init["w"].is_deleted()
    assert not at_update["w"].is_deleted()


def test_masks_as_a_callable_module_and_as_variables():
    @struct.dataclass
    class Layer:
        w: jax.Array

        def __call__(self, x):
            return self.w @ x

    params = Layer(jnp.ones(2))
    masks = Layer(jnp.array([True, False]))
    tx = optim.masked_update(optax.sgd(0.1), masks)
    for given in (None, masks):
        updates, _ = tx.update(params, tx.init(params), params, masks=given)
        np.testing.assert_allclose(updates.w, [-0.1, -1.0])


@pytest.mark.parametrize("spec", [P("data", None), P(None, "data")])
def test_sharded_parameters_on_explicit_axes(spec):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    tx = optim.masked_update(optax.adamw(0.1), CHECKER)
    plain = jax.tree.map(jnp.asarray, PLAIN)
    expected, _ = tx.update(plain, tx.init(plain), plain)
    with jax.set_mesh(mesh):
        params = {**plain, "w": jax.device_put(plain["w"], NamedSharding(mesh, spec))}
        state = jax.jit(tx.init)(params)
        assert state.masks["w"].sharding.is_equivalent_to(params["w"].sharding, 2)
        updates, state = jax.jit(tx.update)(params, state, params)
        np.testing.assert_allclose(updates["w"], expected["w"], rtol=1e-6)
        tx.update(params, state, params, masks=CHECKER)


def test_bad_input():
    tx = optim.masked_update(optax.sgd(0.1), {"w": jnp.ones(3, bool)})
    with pytest.raises(ValueError, match=r"mask of shape \(3,\) for params\['w'\] of shape \(2,\)"):
        tx.init({"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="masks must be a tree like the parameters"):
        tx.init({"x": jnp.ones(2)})
    scores = optim.masked_update(optax.sgd(0.1), {"w": jnp.array([0.5, 1.0])})
    with pytest.raises(ValueError, match=r"mask of params\['w'\] must be bools, got 0.5"):
        scores.init({"w": jnp.ones(2)})
    good = optim.masked_update(optax.sgd(0.1))
    with pytest.raises(ValueError, match="needs params"):
        good.update({"w": jnp.ones(2)}, good.init({"w": jnp.ones(2)}))


def test_leaves_that_are_no_weights_are_left_alone():
    params = {"n": jnp.int32(3), "w": jnp.ones(2)}
    tx = optim.masked_update(optax.identity())
    grads = {"n": np.zeros((), jax.dtypes.float0), "w": jnp.ones(2)}  # As allow_int gives them.
    updates, state = tx.update(grads, tx.init(params), params)
    assert updates["n"].dtype == jax.dtypes.float0
    assert state.masks["n"] is None


def test_gradients_of_pruned_weights_do_not_enter_a_norm():
    params = {"w": jnp.array([1.0, 1.0])}
    tx = optim.masked_update(optax.clip_by_global_norm(1.0), {"w": jnp.array([True, False])})
    updates, _ = tx.update({"w": jnp.array([0.5, 1e6])}, tx.init(params), params)
    assert float(updates["w"][0]) == 0.5
