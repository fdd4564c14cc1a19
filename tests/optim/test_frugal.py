"""FRUGAL: memory, selection, resume, devices, inner directions, bad input."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import optim
from experiments.models import llama
from optim._frugal import blocks

GAP = 2
ASCENDING = optim.subspaces.block("ascending")
SPACES = ["block", "columns", "rows", "randk", "svd", "random_orthogonal", "randperm"]


def is_shape(x):
    return isinstance(x, tuple)


def like(shapes):
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, jnp.float32), shapes, is_leaf=is_shape)


def tree(shapes, seed=0):
    rng = np.random.default_rng(seed)
    make = lambda s: np.asarray(rng.normal(size=s), np.float32)  # noqa: E731
    return jax.tree.map(make, shapes, is_leaf=is_shape)


SHAPES = {"embed": (5, 4), "norm": (4,), "w": {"m0": (4, 6), "m1": (4, 6)}, "z": (6, 4)}
PARAMS = tree(SHAPES)
GRADS = [tree(SHAPES, i) for i in range(1, 24)]


def stepper(tx):
    traces = []

    @jax.jit
    def step(carry, g):
        traces.append(0)
        params, state = carry
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    return step, traces


def run(tx, params=PARAMS, grads=GRADS):
    step, _ = stepper(tx)
    carry = params, jax.jit(tx.init)(params)
    for g in grads:
        carry = step(carry, g)
    return carry


def first(tx, g):
    return jax.jit(lambda g: tx.update(g, tx.init(g)))(g)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# Memory.

# GiB with AdamW, and with FRUGAL at density 0.25 and 0, as in the paper's setting.
GIB = {
    "60M": (0.43, 0.29, 0.24),
    "130M": (1.00, 0.52, 0.37),
    "350M": (2.74, 1.05, 0.49),
    "1B": (9.98, 3.23, 0.98),
}


@pytest.mark.parametrize("size", GIB)
def test_state_bytes_of_llama(size):
    d, f, layers, _ = llama.SIZES[size]
    layer = dict.fromkeys("qkvo", (d, d)) | {"gate": (d, f), "up": (d, f), "down": (f, d)}
    layer |= {"attention_norm": (d,), "mlp_norm": (d,)}
    shapes = {f"block_{i}": layer for i in range(layers)}
    params = like(shapes | {"embedding": (32000, d), "head": (d, 32000), "norm": (d,)})
    optimizers = optax.adamw(1e-3), optim.frugal(1e-3), optim.frugal(1e-3, density=0.0)
    gib = [optim.state_bytes(tx, params) / 2**30 for tx in optimizers]
    np.testing.assert_allclose(gib, GIB[size], atol=0.0051)
    # In the authors' own order no memory is lost either.
    descending = optim.frugal(1e-3, subspace=optim.subspaces.block("descending"))
    assert optim.state_bytes(descending, params) == pytest.approx(gib[1] * 2**30, abs=64)


@pytest.mark.parametrize("order", ["random", "ascending"])
def test_tensors_of_different_shapes_share_one_buffer(order):
    sizes = [(2 + i, 3) for i in range(8)]
    params = like({f"m{i}": s for i, s in enumerate(sizes)})
    tx = optim.frugal(1e-3, density=0.25, subspace=optim.subspaces.block(order))
    entries = [math.prod(s) for s in sizes]
    pairs = [entries[i] + entries[(i + 1) % 8] for i in range(0, 8, 2)]
    largest = sum(sorted(entries)[-2:]) if order == "random" else max(pairs)
    assert jax.eval_shape(tx.init, params)[0].inner[0].mu.shape == (largest,)
    # A direction that needs whole tensors gets them, at the price of memory.
    whole = optim.frugal(1e-3, optax.scale_by_trust_ratio(), density=0.25)
    assert len(jax.eval_shape(whole.init, params)[0].inner) == 8


WIDE = {f"m{i}": (2048, 1024) for i in range(4)}
DIFFERENT = {f"m{i}": (2048 + 8 * i, 1024) for i in range(4)}


@pytest.mark.parametrize(
    ("options", "shapes", "temporary", "accessed"),
    [
        # Read p, g and write p: 12. Every tensor is offered to its place, which is read and
        # written: 12. Two moments of a quarter: 5. The directions are read at every tensor: 8.
        (dict(subspace="block"), WIDE, 1.0, 37.5),
        (dict(subspace=ASCENDING), DIFFERENT, 1.0, 37.5),
        # Lion reads its old momentum for the direction, which is then written: a copy.
        (dict(inner=optim.scale_by_lion_k()), WIDE, 2.0, 45.5),
        (dict(subspace="block", stacked=lambda *_: True), {"m": (4, 2048, 1024)}, 1.0, 25),
        (dict(subspace="columns"), {f"m{i}": (2048, 1024) for i in range(2)}, 1.0, 25.2),
        (dict(subspace="block", density=0.0), {"m": (256, 256)}, 0.0, 12),
    ],
    ids=["block", "flat", "lion", "stacked", "columns", "density0"],
)
def test_traffic_of_the_donated_step(options, shapes, temporary, accessed, users_compiler):
    tx = optim.frugal(1e-3, **options)
    args = like(shapes), jax.eval_shape(tx.init, like(shapes)), like(shapes)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*args).compile(users_compiler)
    n = sum(math.prod(s) for s in shapes.values())
    assert compiled.memory_analysis().temp_size_in_bytes / n <= temporary + 0.05
    assert compiled.cost_analysis()["bytes accessed"] / n <= accessed * 1.02


# The subspace changes.


@pytest.mark.parametrize("space", SPACES)
def test_changes_do_not_compile_and_resume_is_exact(space):
    tx = optim.frugal(0.01, density=0.5, update_gap=GAP, subspace=space, weight_decay=0.1)
    step, traces = stepper(tx)
    carry = PARAMS, tx.init(PARAMS)
    kept, selections = None, []
    for i, g in enumerate(GRADS):
        if i == 5:  # Two steps before, one step after a change.
            kept = jax.tree.map(np.array, carry)
        carry = step(carry, g)
        selections.append(jax.tree.map(np.array, carry[1][0].selection))
    assert len(traces) == 1
    changed = [str(a) != str(b) for a, b in itertools.pairwise(selections)]
    assert sum(changed) >= 7
    assert not any(changed[::GAP])
    again = jax.tree.map(jnp.asarray, kept)
    for g in GRADS[5:]:
        again = step(again, g)
    assert len(traces) == 1
    assert_equal(carry, again)


def test_selection_depends_on_seed_step_and_path_alone():
    def drawn(params, seed=0):
        tx = optim.scale_by_frugal(seed=seed, subspace="columns", update_gap=1)

        def step(state, _):
            state = tx.update(params, state)[1]
            return state, state.selection

        return jax.lax.scan(step, tx.init(params), length=6)[1]

    @jax.jit
    def all_of_them(z):
        return drawn({"m": z})["m"], drawn({"a": z, "m": -z}), drawn({"m": z}, seed=1)["m"]

    one, others, reseeded = all_of_them(PARAMS["z"])
    assert_equal(one, others["m"])
    assert not np.array_equal(one, others["a"])
    assert not np.array_equal(one, reseeded)


def test_random_blocks_have_their_share_of_every_class():
    shapes = {f"a{i}": (4, 6) for i in range(8)} | {f"b{i}": (6, 4) for i in range(4)}
    params = tree(shapes)
    tx = optim.scale_by_frugal(update_gap=1)
    assert [s.mu.shape[0] for s in jax.eval_shape(tx.init, params).inner] == [2, 1]

    def step(state, _):
        state = tx.update(params, state)[1]
        return state, state.selection

    active = np.array(jax.jit(lambda: jax.lax.scan(step, tx.init(params), length=40)[1])())
    assert (active[:, :8].sum(1) == 2).all()
    assert (active[:, 8:].sum(1) == 1).all()
    assert active.any(0).all()


def test_orders_are_those_of_the_authors():
    def sets(order, n, k, count):
        of = jax.jit(jax.vmap(lambda u: jnp.asarray(blocks.positions(order, u, n, k))))
        return np.sort(of(jnp.arange(count)), 1).tolist()

    assert sets("ascending", 5, 2, 4) == [[0, 1], [2, 3], [0, 4], [1, 2]]
    assert sets("descending", 5, 2, 4) == [[3, 4], [1, 2], [0, 4], [2, 3]]
    assert sets("mirror", 7, 2, 4) == [[0, 6], [1, 5], [2, 4], [0, 6]]
    assert sets("ascending", 4, 0, 1) == [[]]
    assert [int(i) for i in blocks.positions("ascending", jnp.int32(2**30), 5, 2)] == [
        (2**30 * 2 + i) % 5 for i in range(2)
    ]
    assert sorted(["b10/w", "b9/w", "a"], key=blocks.natural) == ["a", "b9/w", "b10/w"]
    # Python rounds half to even: of 2, 6 and 10 tensors a quarter is 0, 2 and 2.
    for n, k in ((2, 0), (6, 2), (10, 2)):
        tx = optim.scale_by_frugal(subspace=optim.subspaces.block("ascending", authors=True))
        params = {f"m{i}": np.ones((2, 2), "f") for i in range(n)}
        assert int(first(tx, params)[1].selection.sum()) == k


def test_stacked_layers_are_tensors():
    def unstack(t):
        return {f"l{i}": {n: t["w"][n][i] for n in ("up", "down")} for i in range(4)}

    shapes = {"w": {"up": (4, 3, 5), "down": (4, 5, 3)}}
    params, grads = tree(shapes), [tree(shapes, i) for i in range(5)]
    order = optim.subspaces.block("descending")
    options = dict(density=0.5, update_gap=GAP, subspace=order)
    apart = run(optim.frugal(0.1, **options), unstack(params), [unstack(g) for g in grads])
    whole = run(optim.frugal(0.1, **options, stacked=lambda *_: True), params, grads)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), unstack(whole[0]), apart[0]
    )
    for space in ("columns", "svd"):
        tx = optim.scale_by_frugal(density=0.4, subspace=space, stacked=lambda *_: True)
        updates, state = first(tx, params)
        assert state.inner.mu["w"]["up"].shape == (4, 1, 5)
        assert len({str(b) for b in np.array(state.selection["w"]["down"])}) > 1
        assert float(jnp.abs(updates["w"]["up"]).min()) > 0


# Devices.


def loss(params, batch):
    x, y = batch
    h = jnp.tanh(x @ params["hidden"]["up"]) @ params["hidden"]["down"]
    return jnp.mean((h @ params["head"] - y) ** 2)


@pytest.mark.parametrize("space", ["block", "columns", "svd"])
def test_eight_devices_equal_one(space):
    # SGD on both parts: a sign would hide a wrong factor.
    tx = optim.frugal(
        0.05, optax.trace(0.9), density=0.5, update_gap=GAP, subspace=space, state_free="sgd"
    )
    params = tree({"hidden": {"up": (16, 16), "down": (16, 16)}, "head": (16, 2)})
    params = jax.tree.map(lambda x: np.float32(0.2) * x, params)
    batches = [tree([(16, 16), (16, 2)], i) for i in range(5)]
    mesh = optim.parallel.data_mesh()
    everywhere = NamedSharding(mesh, PartitionSpec())

    @jax.jit
    def step(params, state, batch):
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    results = []
    for split, batch_split in ((None, None), (PartitionSpec(None, "data"), PartitionSpec("data"))):
        p, bs = params, batches
        if split is not None:
            hidden = jax.device_put(params["hidden"], NamedSharding(mesh, split))
            p = {
                "hidden": hidden,
                "head": jax.device_put(params["head"], everywhere),
            }
            bs = jax.device_put(batches, NamedSharding(mesh, batch_split))
        state = tx.init(p)
        if split is not None:
            if space != "svd":
                mu = jax.tree.leaves(state[0].inner)[0]
                assert mu.sharding.spec[-1] == "data"
            # Counts begin on one device; there once more is another program.
            state = jax.tree.map(
                lambda x: jax.device_put(x, everywhere) if len(x.devices()) == 1 else x, state
            )
        for b in bs:
            p, state = step(p, state, b)
        results.append(p)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), *results)


# Directions.


@pytest.mark.parametrize("space", ["block", "columns", "svd"])
def test_density_zero_is_state_free(space):
    g = {"a": PARAMS["z"], "b": PARAMS["w"]["m1"]}
    tx = optim.scale_by_frugal(density=0.0, subspace=space, state_free_scale=0.5)
    updates, state = first(tx, g)
    assert_equal(updates, jax.tree.map(lambda g: 0.5 * np.sign(g), g))
    assert sum(x.size for x in jax.tree.leaves(state.inner)) <= 1


@pytest.mark.parametrize("space", ["block", "rows", "randk"])
def test_density_one_is_the_inner_direction(space):
    g = {"a": PARAMS["z"], "b": PARAMS["w"]["m1"]}
    updates, _ = first(optim.scale_by_frugal(density=1.0, subspace=space), g)
    expected, _ = first(optax.scale_by_adam(), g)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected)


def test_block_is_the_inner_direction_on_active_tensors():
    # Tensors of different shapes, one of them active at a time; AdamP looks at whole tensors.
    inner = optim.project_scale_invariant(optax.scale_by_adam())
    params = tree({"a": (3, 4), "b": (5, 2)})
    tx = optim.scale_by_frugal(inner, density=0.5, update_gap=GAP, subspace=ASCENDING)
    state = jax.jit(tx.init)(params)
    update, inner_update = jax.jit(tx.update), jax.jit(inner.update)
    alone = {}
    for i in range(4):
        # Orthogonal to the parameters, where AdamP projects.
        g = tree({"a": (3, 4), "b": (5, 2)}, i + 1)
        g = jax.tree.map(lambda g, p: g - p * (g * p).sum() / (p * p).sum(), g, params)
        updates, state = update(g, state, params)
        active, rest = ("a", "b") if i < 2 else ("b", "a")
        if i % GAP == 0:
            alone[active] = inner.init(params[active])
        u, alone[active] = inner_update(g[active], alone[active], params[active])
        np.testing.assert_allclose(updates[active], u, rtol=2e-5, atol=1e-6)
        np.testing.assert_array_equal(updates[rest], np.sign(g[rest]))


def test_a_users_own_subspace():
    # The mean of each row, and a rule that leaves the rest alone.
    space = optim.subspaces.Subspace(
        select=lambda key, grad, **_: (),
        down=lambda full, basis: full.sum(-1, keepdims=True) / math.sqrt(full.shape[-1]),
        up=lambda low, basis, shape: jnp.broadcast_to(low / math.sqrt(shape[-1]), shape),
    )
    tx = optim.scale_by_frugal(optax.identity(), subspace=space, state_free="none")
    g = {"m": PARAMS["z"]}
    updates, _ = first(tx, g)
    np.testing.assert_allclose(
        updates["m"], jnp.broadcast_to(g["m"].mean(-1, keepdims=True), (6, 4)), rtol=1e-5, atol=1e-6
    )


def test_presets_are_frugal():
    pairs = [
        (
            optim.galore(0.01, density=0.5, update_gap=GAP),
            dict(subspace="svd", state_free="none", reset=False, projectable_scale=0.25),
        ),
        (
            optim.badam(0.01, density=0.5, update_gap=GAP),
            dict(subspace=optim.subspaces.block("descending"), state_free="none"),
        ),
    ]
    for preset, options in pairs:
        ours = run(optim.frugal(0.01, density=0.5, update_gap=GAP, **options), grads=GRADS[:4])
        assert_equal(run(preset, grads=GRADS[:4])[0], ours[0])


def test_state_survives_a_change_unless_reset():
    def second(reset):
        tx = optim.frugal(0.1, update_gap=1, subspace="columns", density=0.5, reset=reset)
        return run(tx, grads=GRADS[:3])[1][0].inner.count

    assert (int(second(True)), int(second(False))) == (1, 3)


def test_tensors_of_one_shape_under_x64():
    """Indices of the loop, of slots and of layers are then of different dtypes."""
    with jax.enable_x64(True):
        params = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3)), "layers": jnp.ones((2, 4, 4))}
        tx = optim.frugal(0.1, density=0.5, stacked={"a": False, "b": False, "layers": True})
        updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
        jax.tree.map(lambda u: np.testing.assert_allclose(u, -0.1, rtol=1e-6), updates)


@pytest.mark.parametrize("space", ["block", "columns", "svd"])
def test_nnx_optimizer(space):
    """It shows the optimizer variables at init and their values at update."""
    model, rng = nnx.Linear(6, 4, rngs=nnx.Rngs(0)), np.random.default_rng(0)
    seen = []

    def kernels(path, leaf):
        seen.append(jax.tree_util.keystr(path))
        return seen[-1] == "['kernel']"

    tx = optim.frugal(0.1, density=0.5, subspace=space, update_gap=2, projectable=kernels)
    params = {"bias": model.bias[...], "kernel": model.kernel[...]}
    state, optimizer = tx.init(params), nnx.Optimizer(model, tx, wrt=nnx.Param)
    update, nnx_update = jax.jit(tx.update), nnx.jit(lambda o, m, g: o.update(m, g))
    for _ in range(3):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape, "f")), params)
        given = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
        for name, g in grads.items():
            given[name][...] = g
        nnx_update(optimizer, model, given)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(model.kernel[...], params["kernel"], rtol=1e-5)
    assert set(seen) == {"['bias']", "['kernel']"}


@pytest.mark.parametrize("space", ["block", "columns", "svd"])
@pytest.mark.parametrize(("of_params", "of_grads"), [("f4", "bfloat16"), ("bfloat16", "f4")])
def test_gradients_of_another_dtype(space, of_params, of_grads):
    params, grads = ({k: jnp.ones((4, 4), dtype) for k in "ab"} for dtype in (of_params, of_grads))
    tx = optim.frugal(0.1, density=0.5, subspace=space)
    state = jax.eval_shape(tx.init, params)
    updates, new = jax.eval_shape(tx.update, grads, state, params)
    assert {u.dtype for u in updates.values()} == {jnp.dtype(of_grads)}
    assert jax.tree.map(jnp.result_type, new) == jax.tree.map(jnp.result_type, state)
    with pytest.raises(ValueError, match=r"leaf \['a'\]: the gradient has shape \(1, 4\)"):
        jax.eval_shape(tx.update, grads | {"a": grads["a"][:1]}, state, params)


def test_dtypes_are_kept():
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), PARAMS)
    for space in ("block", "svd", "columns"):
        tx = optim.frugal(0.1, density=0.5, subspace=space)
        state = jax.eval_shape(tx.init, params)
        updates, state = jax.eval_shape(tx.update, params, state, params)
        low = [x for x in jax.tree.leaves(state[0].inner) if x.ndim > 1]
        assert {x.dtype for x in (*jax.tree.leaves(updates), *low)} == {jnp.dtype(jnp.bfloat16)}


def smoothed(x):
    window = (1,) * (x.ndim - 1) + (3,)
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, (1,) * x.ndim, "SAME")


@jax.custom_jvp
def centered(x):
    return x - x.mean()


centered.defjvp(lambda primals, tangents: (centered(*primals), centered(*tangents)))

MIXING = {
    "window": smoothed,
    "fft": lambda x: jnp.fft.ifft(jnp.fft.fft(x) ** 2).real,
    "cumsum": lambda x: jnp.cumsum(x, -1),
    "scan": lambda x: jax.lax.associative_scan(jnp.maximum, x),
    "sort": lambda x: jnp.sort(x, -1),
    "reverse": lambda x: x[::-1] * 2,
    "roll": lambda x: x + jnp.roll(x, 1, -1),
    "transpose": lambda x: x + x.T.reshape(x.shape),
    "convolution": lambda x: jnp.convolve(x.ravel(), jnp.ones(3), "same").reshape(x.shape),
    "product": lambda x: x @ x.T @ x,
    "norm": lambda x: x / jnp.linalg.norm(x),
    "softmax": lambda x: jax.nn.softmax(x, -1),
    "random": lambda x: x + jax.random.normal(jax.random.key(0), x.shape),
    "custom derivative": centered,
    "loop": lambda x: jax.lax.fori_loop(0, 2, lambda _, y: y + jnp.cumsum(y, 0), x),
    "branch": lambda x: jax.lax.cond(x[0, 0] > 9, jnp.negative, lambda y: y - y.mean(), x),
    "position": lambda x: x * jax.lax.broadcasted_iota(x.dtype, x.shape, x.ndim - 1),
    "size": lambda x: x / x.size,
}


def assert_whole_tensors(inner, steps):
    """Of four tensors of four shapes two are active; to them ``inner`` is what it is alone."""
    params = tree({"a": (4, 6), "b": (3, 5), "c": (5, 2), "d": (2, 7)})
    grads = [jax.tree.map(lambda p, i=i: p + i, params) for i in range(steps)]
    tx = optim.scale_by_frugal(inner, density=0.5, subspace=ASCENDING, state_free="none")

    @jax.jit
    def last(grads):
        state, alone = tx.init(params), {k: inner.init(params[k]) for k in "ab"}
        for g in grads:
            u, state = tx.update(g, state, params)
            pairs = {k: inner.update(g[k], alone[k], params[k]) for k in "ab"}
            expected, alone = ({k: pair[i] for k, pair in pairs.items()} for i in (0, 1))
        return u, expected

    updates, expected = last(grads)
    for k in "ab":
        np.testing.assert_allclose(updates[k], expected[k], rtol=2e-5, atol=1e-5)
    assert not any(np.any(updates[k]) for k in "cd")


@pytest.mark.parametrize("name", MIXING)
def test_inner_that_mixes_entries_sees_whole_tensors(name):
    inner = optax.stateless(lambda g, _: jax.tree.map(MIXING[name], g))
    assert not shares_a_buffer(inner)
    if name in ("transpose", "custom derivative", "branch"):
        assert_whole_tensors(inner, 1)


@pytest.mark.parametrize("name", ["window", "fft", "sort"])
def test_inner_that_mixes_entries_in_its_state(name):
    def update(g, state, params=None):
        state = jax.tree.map(lambda m, x: 0.9 * m + MIXING[name](x), state, g)
        return state, state

    zeros = lambda p: jax.tree.map(jnp.zeros_like, p)  # noqa: E731
    assert_whole_tensors(optax.GradientTransformation(zeros, update), 2)


def shares_a_buffer(inner):
    """Whether two tensors of different shapes, never active together, are one array to it."""
    tx = optim.scale_by_frugal(inner, density=0.5, subspace=ASCENDING)
    state = jax.eval_shape(tx.init, like({"a": (4, 6), "b": (3, 5)}))
    return len(state.inner) == 1


def test_elementwise_inners_share_a_buffer():
    elementwise = [
        optax.scale_by_adam(nesterov=True),
        optax.scale_by_lion(),
        optax.scale_by_radam(),
        optax.contrib.scale_by_ademamix(),
        optax.chain(optax.clip(1.0), optax.trace(0.9)),
        optim.scale_by_lion_k(),
        optim.scale_by_momentum(start="gradient"),
        optax.stateless(lambda g, _: jax.tree.map(jax.nn.silu, g)),
        optax.stateless(
            lambda g, _: jax.tree.map(lambda x: jax.lax.cond(True, jnp.sin, jnp.cos, x), g)
        ),
    ]
    mixing = [
        optax.scale_by_factored_rms(),
        optax.scale_by_novograd(),
        optax.clip_by_global_norm(1.0),
        optax.centralize(),
        optax.contrib.scale_by_muon(),
        optax.stateless(lambda g, _: jax.tree.map(lambda x: x if x.ndim == 2 else -x, g)),
        optax.stateless(lambda g, _: jax.tree.map(lambda x: x / x.shape[-1], g)),
        optax.stateless(lambda g, _: jax.tree.map(lambda x: x * np.ones(x.shape, "f"), g)),
    ]
    assert [shares_a_buffer(inner) for inner in elementwise] == [True] * len(elementwise)
    assert [shares_a_buffer(inner) for inner in mixing] == [False] * len(mixing)


def test_an_inner_that_refuses_arrays():
    broken = optax.stateless(lambda g, _: dict(g.items()))
    with pytest.raises(ValueError, match=r"inner must work on a single array.*AttributeError"):
        optim.frugal(0.1, broken)


def hidden(found):
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, yes in jax.tree_util.tree_leaves_with_path(found)
        if yes
    ]


def test_hidden_matrices_of_llama():
    model = nnx.eval_shape(lambda: llama.LLaMA((), 32, size="char", rngs=nnx.Rngs(0)))
    params = nnx.state(model, nnx.Param)
    found = hidden(jax.tree_util.tree_map_with_path(optim.is_hidden_matrix, params))
    names = sorted(("q", "k", "v", "o", "gate", "up", "down"))
    assert [f.removesuffix("/value") for f in found] == [
        f"block_{i}/{name}/kernel" for i in range(3) for name in names
    ]


def test_hidden_matrices():
    shapes = {
        "MultiHeadDotProductAttention_0": {"query": {"kernel": (4, 2, 2), "bias": (2, 2)}},
        "conv": {"kernel": (3, 3, 2, 4)},
        "ln_1": {"scale": (3, 4)},
        "LayerNorm_0": {"scale": (3, 4)},
        "lm_head": (4, 9),
        "tok_embeddings": (9, 4),
        "output": (4, 9),
        "layers": [{"attention": {"output": (4, 4)}}],
        "b": (4,),
    }
    found = jax.tree_util.tree_map_with_path(optim.is_hidden_matrix, tree(shapes))
    assert hidden(found) == [
        "MultiHeadDotProductAttention_0/query/kernel",
        "conv/kernel",
        "layers/0/attention/output",
    ]


# Bad input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(density=1.5), r"density must be in \[0, 1\], got 1.5"),
        (dict(density=-0.1), r"density must be in \[0, 1\], got -0.1"),
        (dict(density=jnp.float32(0.5)), r"density must be a Python number in \[0, 1\]"),
        (dict(seed=1.5), "seed must be an integer, got 1.5"),
        (dict(inner="adam"), "inner must be an optax.GradientTransformation, got 'adam'"),
        (dict(update_gap=0), "update_gap must be >= 1, got 0"),
        (dict(update_gap=1.5), "update_gap must be an integer >= 1, got 1.5"),
        (dict(subspace="colums"), "'colums'; nearest: columns"),
        (dict(subspace=optim.subspaces.svd), "subspace must be one of"),
        (dict(state_free="sign"), "state_free must be one of sign_sgd, sgd, none, got 'sign'"),
        (dict(state_free_scale=-1.0), "state_free_scale must be >= 0, got -1.0"),
        (dict(projectable_scale=-1.0), "projectable_scale must be >= 0, got -1.0"),
        (dict(weight_decay=-1.0), "weight_decay must be >= 0, got -1.0"),
        (dict(reset=False), "reset must be True with block subspaces"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        optim.frugal(0.1, **options)


def test_bad_parts():
    with pytest.raises(ValueError, match="order must be one of random, ascending"):
        optim.subspaces.block("up")
    for make in (optim.subspaces.svd, optim.subspaces.randperm):
        with pytest.raises(ValueError, match="side must be one of std"):
            make("top")
    for make in (optim.subspaces.columns, optim.subspaces.randk, optim.subspaces.svd):
        with pytest.raises(ValueError, match="authors must be True or False, got 1"):
            make(authors=1)
    with pytest.raises(ValueError, match="start must be one of"):
        optim.scale_by_momentum(start="gradients")


@pytest.mark.parametrize(
    ("options", "params", "message"),
    [
        (
            dict(subspace="svd", projectable=lambda path, leaf: True),
            {"w": {"b": (3,)}},
            r"a matrix at w/b, got shape \(3,\)",
        ),
        (
            dict(subspace="columns", projectable=lambda path, leaf: True),
            {"b": (3,)},
            r"at least two axes at b, got shape \(3,\)",
        ),
        (
            dict(subspace=optim.subspaces.block("mirror"), density=0.5),
            {f"m{i}": (2, 2) for i in range(6)},
            "even number of active tensors, got 3",
        ),
        (
            dict(subspace=optim.subspaces.columns(2), projectable=True),
            {"m": (2, 2)},
            r"axis must be one of m of shape \(2, 2\), got 2",
        ),
        (
            dict(projectable={"other": True}),
            {"m": (2, 2)},
            "projectable must be a tree like the parameters",
        ),
    ],
)
def test_bad_leaves(options, params, message):
    with pytest.raises(ValueError, match=message):
        optim.frugal(0.1, **options).init(tree(params))


def test_nothing_projectable_warns():
    with pytest.warns(UserWarning, match=r"no leaf is projectable.*\['b'\], \['norm'\]"):
        optim.frugal(0.1).init({"b": jnp.ones(3), "norm": jnp.ones((2, 2))})


def test_injected_arguments():
    """All but those that decide shapes, or are functions, which optax takes for schedules."""
    options = dict(density=0.5, update_gap=GAP, state_free_scale=0.5)
    static = ("density", "projectable")
    injected = optax.inject_hyperparams(optim.frugal, static_args=static)(0.1, **options)
    base = run(optim.frugal(0.1, **options), grads=GRADS[:3])[0]
    got, state = run(injected, grads=GRADS[:3])
    assert state.hyperparams["update_gap"] == GAP
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, base)
