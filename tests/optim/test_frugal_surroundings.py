"""FRUGAL, BAdam and GaLore in what users bring: small models, other axes, dtypes, None, meshes."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optim

SUBSPACES = ["block", "columns", "rows", "randk", "svd", "random_orthogonal", "randperm"]
TINY = {"one": (1, 1), "thin": (3, 1), "flat": (1, 4), "head": (64, 2), "square": (2, 2)}
matrices = lambda _, x: x.ndim == 2  # noqa: E731


def tree(shapes, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {k: rng.standard_normal(s).astype(jnp.dtype(dtype)) for k, s in shapes.items()}


def train(tx, params, grads, steps):
    def step(carry, _):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), updates

    return jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), length=steps))()


# A positive density keeps at least one.


@pytest.mark.parametrize("space", [*SUBSPACES, "ascending", "mirror", "unstratified"])
def test_no_tensor_is_too_small_to_train(space):
    """Every leaf moves within a few changes, though state-free parts rest."""
    if space == "unstratified":
        space = optim.subspaces.block(stratify=False)
    elif space in ("ascending", "mirror"):
        space = optim.subspaces.block(space)
    params = tree(TINY if space != optim.subspaces.block("mirror") else {**TINY, "six": (2, 1)})
    density = 0.01 if isinstance(space, str) else 0.1
    options = dict(state_free="none", projectable=matrices, update_gap=1)
    tx = optim.frugal(0.1, optax.identity(), subspace=space, density=density, **options)
    (moved, state), _ = train(tx, params, params, 30)
    still = [k for k in params if np.array_equal(moved[k], params[k])]
    assert not still
    kept = sum(x.size for x in jax.tree.leaves(jax.eval_shape(tx.init, params)[0].inner))
    assert kept < sum(p.size for p in params.values())
    del state


@pytest.mark.parametrize("kernels", [1, 3])
@pytest.mark.parametrize("order", ["descending", "random"])
def test_badam_trains_small_models(kernels, order):
    params = tree({f"dense_{i}": (4 + i, 4) for i in range(kernels)})
    tx = optim.badam(0.1, update_gap=2, order=order)
    (moved, _), updates = train(tx, params, params, 24)
    assert all(np.all(moved[k] != params[k]) for k in params)
    active = [np.any(u, axis=(1, 2)) for u in updates.values()]
    assert np.all(np.sum(active, 0) == 1)  # One at a time.


def test_every_pool_of_a_stratified_draw_gets_its_turn():
    shapes = {f"a{i}": (4, 4) for i in range(8)} | {"other": (3, 2)}
    params = tree(shapes)
    (moved, _), _ = train(optim.badam(0.1, update_gap=1, order="random"), params, params, 2)
    assert np.all(moved["other"] != params["other"])


@pytest.mark.parametrize(
    "name", ["columns", "rows", "randk", "svd", "random_orthogonal", "randperm"]
)
def test_rounding_as_the_authors(name):
    """They take a quarter of two for none (half to even, or down)."""
    make = getattr(optim.subspaces, name)
    low = {
        authors: jax.eval_shape(
            optim.scale_by_frugal(
                density=0.25, subspace=make(authors=authors), projectable=matrices
            ).init,
            {"w": jax.ShapeDtypeStruct((2, 2) if name != "randk" else (1, 3), jnp.float32)},
        ).inner.mu["w"]
        for authors in (True, False)
    }
    assert (low[True].size, min(low[False].shape)) == (0, 1)
    block = {a: optim.subspaces.block("ascending", authors=a) for a in (True, False)}
    pair = tree({"a": (2, 2), "b": (2, 2)})
    counts = [
        optim.state_bytes(optim.scale_by_frugal(optax.trace(0.9), subspace=b), pair)
        for b in block.values()
    ]
    assert counts[1] - counts[0] == 2 * 2 * 4


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: optim.badam(0.1, density=0.0), "a, b, c"),
        (lambda: optim.galore(0.1, density=0.0), "a, b, c"),
        (
            lambda: optim.frugal(
                0.1,
                density=0.75,
                subspace=optim.subspaces.block("mirror"),
                state_free="none",
            ),
            "b",
        ),
        (
            lambda: optim.frugal(
                0.1, subspace=optim.subspaces.columns(authors=True), state_free="none"
            ),
            "a, b, c",
        ),
        (lambda: optim.frugal(0.1, density=0.0, state_free_scale=0.0), "a, b, c"),
        (lambda: optim.frugal(0.1, projectable_scale=0.0), "a, b, c"),
    ],
)
def test_what_is_never_trained_is_said(make, named):
    with pytest.warns(UserWarning, match=f"these leaves are never trained: {named}$"):
        jax.eval_shape(make().init, tree({k: (2, 2) for k in "abc"}))


# Tensors of more than two axes.


def as_matrix(x, rows):
    return x.reshape(np.prod(x.shape[:rows]), -1)


@pytest.mark.parametrize("space", ["svd", "random_orthogonal", "randperm"])
def test_kernels_with_more_axes_are_matrices(space):
    """A convolution, and the query and output kernels of Flax's attention."""
    shapes = {"conv": (3, 2, 2, 5), "query": (6, 2, 3), "out": (2, 3, 4)}
    rows = {"conv": 3, "query": 1, "out": 2}
    full, flat = tree(shapes), {}
    for k, x in full.items():
        flat[k] = as_matrix(x, rows[k])
    options = dict(density=0.5, subspace=space, projectable=lambda *_: True, state_free="sgd")
    tx = optim.scale_by_frugal(**options)

    @jax.jit
    def first(g):
        state = tx.init(g)
        updates, state = tx.update(g, state, g)
        return updates, state.inner.mu

    (u, low), (expected, flat_low) = first(full), first(flat)
    for k, x in u.items():
        assert x.shape == shapes[k]
        np.testing.assert_allclose(as_matrix(x, rows[k]), expected[k], rtol=2e-4, atol=2e-5)
        assert low[k].shape == flat_low[k].shape


Numbers = optax.contrib.GaLoreDimensionNumbers


@pytest.mark.parametrize(
    "given",
    [
        {"w": Numbers(reduction_axis=(0, 2), output_axis=-1), "v": None},
        lambda path, x: Numbers((2, 0), 3) if path[-1].key == "w" else None,
    ],
    ids=["tree", "function"],
)
def test_dimension_numbers(given):
    """Axes that are not named are a batch of matrices; the leaf keeps its layout."""
    params = tree({"w": (2, 3, 4, 5), "v": (4, 2)})
    tx = optim.galore(0.1, density=0.4, projectable=lambda *_: True, weight_dimension_numbers=given)

    @jax.jit
    def first(g):
        return tx.update(g, tx.init(g), g)

    updates, state = first(params)
    assert state[0].inner.mu["w"].shape == (3, 8, 2)  # Rank 2 of 5 columns.
    assert state[0].inner.mu["v"].shape == (4, 1)
    for i in range(3):
        u = np.asarray(updates["w"][:, i]).reshape(8, 5)
        assert np.linalg.matrix_rank(u, tol=1e-4) == 2


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (Numbers(0, 0), "must name axes of w, which has 3, each at most once"),
        (Numbers((), 1), "must name axes of w"),
        (Numbers(0, 5), "must name axes of w"),
        ({"other": None}, "weight_dimension_numbers must be a tree like the parameters"),
        ("w", "weight_dimension_numbers must be None, an object with reduction_axis"),
    ],
)
def test_bad_dimension_numbers(numbers, message):
    tx = optim.galore(0.1, weight_dimension_numbers=numbers)
    with pytest.raises(ValueError, match=message):
        tx.init(tree({"w": (2, 3, 4)}))


# Dtypes.


@pytest.mark.parametrize("space", ["block", "columns", "svd"])
def test_sixteen_bits(space):
    """Zero and tiny gradients give steps like those of float32, and the state keeps its dtypes."""
    sizes = np.array([0.0, 0.0, 1e-4, 0.0, 1e-4, 0.0, 0.0, 1e-5])

    def updates(dtype):
        params = {k: np.ones((4, 4), dtype) for k in "ab"} | {"bias": np.ones(4, dtype)}
        tx = optim.frugal(1.0, density=0.5, subspace=space, state_free="none", update_gap=100)

        def step(state, size):
            grads = jax.tree.map(lambda p: jnp.full_like(p, size), params)
            u, state = tx.update(grads, state, params)
            return state, u

        return jax.lax.scan(step, tx.init(params), jnp.asarray(sizes, dtype))[1]

    dtypes = (jnp.float16, jnp.bfloat16, jnp.float32)
    *rounded, exact = jax.jit(lambda: [updates(dtype) for dtype in dtypes])()
    for dtype, found in zip(dtypes, rounded, strict=False):
        for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
            assert got.dtype == dtype
            np.testing.assert_allclose(np.asarray(got, "f"), want, rtol=0.03, atol=1e-3)


@pytest.mark.parametrize("space", SUBSPACES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_strict_dtype_promotion(space, dtype):
    """Ours obeys it; what is inside need not, such as optax's Adam."""
    params = tree({"a": (4, 6), "b": (4, 6), "bias": (3,)}, dtype=dtype)
    for inner in (optax.trace(0.9), optax.scale_by_adam()):
        tx = optim.frugal(0.1, inner, density=0.5, subspace=space, weight_decay=0.1)
        with jax.numpy_dtype_promotion("strict"):
            updates, _ = jax.eval_shape(tx.update, params, jax.eval_shape(tx.init, params), params)
        assert {u.dtype for u in updates.values()} == {jnp.dtype(dtype)}


# None, integers, modules, paths.

PRESETS = {
    "frugal": functools.partial(optim.frugal, density=0.5),
    "columns": functools.partial(optim.frugal, subspace="columns", density=0.5),
    "badam": functools.partial(optim.badam, density=0.5),
    "galore": functools.partial(optim.galore, density=0.5),
}


@pytest.mark.parametrize("name", ["frugal", "galore"])  # Of blocks, and of projections.
def test_gradients_of_none(name):
    """As zero, and without an update; a leaf of integers is none to train."""
    tx = PRESETS[name](0.1, projectable=lambda _, x: x.ndim == 2)
    params = tree({"a": (4, 4), "b": (4, 4), "bias": (3,)})
    zero = {**params, "b": np.zeros((4, 4), "f"), "bias": np.zeros(3, "f")}
    none = {**params, "b": None, "bias": None, "step": None}

    @jax.jit
    def two(params, grads):
        state = tx.init(params)
        for _ in range(2):
            u, state = tx.update(grads, state, params)
        return u, state

    expected, expected_state = two(params, zero)
    updates, state = two({**params, "step": jnp.int32(3)}, none)
    assert [k for k, u in updates.items() if u is None] == ["b", "bias", "step"]
    np.testing.assert_allclose(updates["a"], expected["a"], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected_state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    whole = {**params, "b": np.ones((4, 4), np.int32)}
    with pytest.raises(ValueError, match=r"leaf \['b'\]: the gradient is int32"):
        jax.eval_shape(lambda g: tx.update(g, tx.init(params), params), whole)


@pytest.mark.parametrize("space", SUBSPACES)
def test_paths_that_read_alike_are_two_leaves(space):
    x = tree({"w": (6, 6)})["w"]
    params = {"enc": {"w": x}, "enc/w": -2 * x}
    tx = optim.scale_by_frugal(density=0.5, subspace=space, state_free="sgd")
    updates, state = jax.jit(lambda g: tx.update(g, tx.init(g), g))(params)
    for u, g in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
        assert np.all(np.sum(u * g, axis=None) > 0)
    if space in ("columns", "rows", "randk"):
        a, b = jax.tree.leaves(state.selection)
        assert not np.array_equal(a, b)


def test_equinox_modules():
    """A module can be called, and is a tree all the same."""
    model = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    params = eqx.filter(model, eqx.is_inexact_array)
    kernels = jax.tree.map(lambda x: x.ndim == 2, params)
    for name, make in PRESETS.items():
        tx = make(0.1, projectable=kernels, mask=kernels, weight_decay=0.1)
        given = make(0.1, projectable=matrices, mask=lambda p: kernels, weight_decay=0.1)
        programs = [
            jax.make_jaxpr(lambda p, x=x: x.update(p, x.init(p), p)[0])(params) for x in (tx, given)
        ]
        assert str(programs[0]) == str(programs[1]), name
        stacks = jax.tree.map(lambda _: False, params)
        jax.eval_shape(make(0.1, stacked=stacks).init, params)


def test_injected_without_static_arguments():
    params = tree({"a": (4, 6), "b": (4, 6), "bias": (3,)})
    for make in (optim.frugal, optim.badam, optim.galore):
        plain, injected = make(0.1), optax.inject_hyperparams(make)(0.1)

        @jax.jit
        def pair(g, plain=plain, injected=injected):
            return [tx.update(g, tx.init(g), g)[0] for tx in (plain, injected)]

        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *pair(params))


def test_mapping_over_the_state_leaves_counts_alone():
    params = tree({"a": (4, 6), "bias": (3,)})
    for name, make in PRESETS.items():
        tx = make(0.1)
        state = tx.init(params)
        half = optax.tree.map_params(tx, lambda x: x.astype(jnp.bfloat16), state)
        assert jax.tree.structure(half) == jax.tree.structure(state), name
        for path, x in jax.tree_util.tree_leaves_with_path(half):
            if "count" in jax.tree_util.keystr(path):
                assert x.dtype == jnp.int32
        assert half[0].regular.mu["bias"].dtype == jnp.bfloat16


# Directions.


@pytest.mark.parametrize("space", ["block", "columns", "svd"])
@pytest.mark.parametrize(
    "inner",
    [optax.identity(), optax.scale_by_sign(), optax.scale_by_factored_rms(factored=True)],
    ids=["identity", "sign", "factored"],
)
def test_inners_without_state_or_that_read_shapes(space, inner):
    params = tree({"a": (4, 6), "b": (4, 6), "bias": (3,)})
    tx = optim.scale_by_frugal(inner, density=1.0, subspace=space, state_free="sgd")
    u, _ = jax.jit(lambda g: tx.update(g, tx.init(g), g))(params)
    assert all(np.all(np.isfinite(x)) and np.any(x) for x in u.values())
    if space == "block":
        alone = jax.jit(lambda p: {k: inner.update(p[k], inner.init(p[k]), p[k])[0] for k in p})
        for k, expected in alone(params).items():
            np.testing.assert_allclose(u[k], expected, rtol=1e-5)


@pytest.mark.parametrize("argument", ["inner", "regular"])
@pytest.mark.parametrize(
    "whole",
    [
        optax.adam(1e-3),
        optax.sgd(optax.linear_schedule(0.0, 1.0, 10)),
        optim.lion(1e-3),
        optax.inject_hyperparams(optax.adamw)(1e-3),
    ],
    ids=["adam", "warm-up", "lion", "injected"],
)
def test_a_whole_optimizer_is_no_direction(argument, whole):
    with pytest.raises(ValueError, match=f"{argument} must be a direction without a learning rate"):
        optim.frugal(0.1, **{argument: whole})


def test_a_direction_that_needs_an_argument():
    """It is not tried on its own, and gets the argument of the update."""

    def update(g, state, params=None, *, value):
        return jax.tree.map(lambda x: x * value, g), state

    inner = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    params = tree({"a": (4, 6), "b": (3, 5)})
    tx = optim.scale_by_frugal(inner, density=1.0)
    u, _ = jax.jit(lambda p: tx.update(p, tx.init(p), p, value=3.0))(params)
    jax.tree.map(lambda u, g: np.testing.assert_allclose(u, 3 * g, rtol=1e-6), u, params)


def test_presets_take_regular_and_mask():
    params = tree({"a": (4, 4), "bias": (3,)})
    for make in (optim.badam, optim.galore):
        options = dict(weight_decay=0.5, mask={"a": True, "bias": False}, regular=optax.identity())
        tx = make(0.1, optax.identity(), density=1.0, **options)
        u, _ = jax.jit(lambda p, tx=tx: tx.update(p, tx.init(p), p))(params)
        scale = 0.25 if make is optim.galore else 1.0
        np.testing.assert_allclose(u["a"], -0.1 * (scale + 0.5) * params["a"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(u["bias"], -0.1 * params["bias"], rtol=1e-6)


# Meshes.


@pytest.mark.parametrize("name", PRESETS)
def test_state_made_under_jit_is_sharded_on_explicit_axes(name):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Explicit,))
    tx = PRESETS[name](0.1, projectable=lambda _, x: x.ndim == 2)
    with jax.set_mesh(mesh):
        spec = P(None, "d") if name == "columns" else P("d")
        place = lambda x: jax.device_put(x, NamedSharding(mesh, spec))  # noqa: E731
        params = jax.tree.map(place, tree({k: (16, 16) for k in "abcd"}))

        def per_device(state):
            return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))

        eager, jitted = tx.init(params), jax.jit(tx.init)(params)
        assert per_device(jitted) <= per_device(eager)
        whole = sum(x.nbytes for x in jax.tree.leaves(eager))
        if name != "galore":  # Whose bases are replicated.
            assert per_device(eager) < whole / 4


@pytest.mark.parametrize("name", PRESETS)
def test_one_model_per_device(name):
    """Under shard_map, init and a scan of steps inside, with checks of what varies."""
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
    params, grads = (
        {k: x for k, x in tree({k: (4, 6, 4) for k in "ab"}, s).items()} for s in (0, 1)
    )
    tx = PRESETS[name](0.01, update_gap=2, projectable=lambda _, x: x.ndim == 2)

    def one(p, g):
        def step(carry, _):
            p, s = carry
            u, s = tx.update(g, s, p)
            return (optax.apply_updates(p, u), s), None

        return jax.lax.scan(step, (p, tx.init(p)), length=3)[0][0]

    def alone(p, g):
        return jax.tree.map(lambda x: x[None], one(*jax.tree.map(lambda x: x[0], (p, g))))

    sharded = jax.shard_map(alone, mesh=mesh, in_specs=(P("d"), P("d")), out_specs=P("d"))
    got = jax.jit(sharded)(params, grads)
    expected = jax.jit(one)(*jax.tree.map(lambda x: x[2], (params, grads)))
    for k in "ab":
        np.testing.assert_allclose(got[k][2], expected[k], rtol=1e-5, atol=1e-6)


# Differentiation.


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("zeros", [False, True], ids=["", "zero gradients"])
def test_meta_gradient(name, zeros):
    """Reverse mode through three updates, also where gradients are zero."""
    make = PRESETS[name]
    options = {} if name in ("badam", "galore") else dict(state_free="sgd")
    tx = make(0.1, optax.trace(0.9), projectable=lambda _, x: x.ndim == 2, **options)
    start = tree({"a": (3, 3), "b": (3, 3)}, 5)

    def loss(a):
        p, state = start, tx.init(start)
        for _ in range(3):
            g = jax.tree.map(lambda x: a * (jax.nn.relu(x - 0.2) if zeros else jnp.sin(x)), p)
            u, state = tx.update(g, state, p)
            p = optax.apply_updates(p, u)
        return sum(jnp.sum(jnp.sin(3 * x)) for x in jax.tree.leaves(p))

    with jax.enable_x64(True):
        both = jax.jit(jax.value_and_grad(loss))
        numeric = (both(1.0 + 1e-4)[0].item() - both(1.0 - 1e-4)[0].item()) / 2e-4
        # A singular basis is differentiated too: galore's derivative is that of its SVD.
        np.testing.assert_allclose(both(1.0)[1], numeric, rtol=2e-2, atol=2e-2)
