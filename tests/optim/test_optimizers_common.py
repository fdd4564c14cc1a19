"""What every optimizer of the project does: optax's habits, meshes, donation, memory, convergence.

A new optimizer is one line in CASES.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optim
from benchmarks._shapes import elements, transformer
from benchmarks._timing import cost


class Case(NamedTuple):
    """An optimizer under test and what its update may cost, in bytes per float32 parameter."""

    make: Callable[..., optax.GradientTransformationExtraArgs]
    lr: float
    state: float
    accessed: float | None = None  # FRUGAL's is in its own tests.
    temporary: float = 0.0
    low: bool = False  # The state is smaller than the parameters, so optax cannot map over it.
    joint: bool = False  # One norm of all leaves, which changes where some are left out.


def split(optimizer, ndims, **options):
    """A user of subspaces, which change within three steps. Arguments that decide shapes cannot be
    injected, so that they are fixed here."""
    options = dict(density=0.5, update_gap=2, projectable=lambda _, x: x.ndim in ndims) | options
    return lambda learning_rate: optimizer(learning_rate, **options)


CASES = {
    "lion": Case(optim.lion, 1e-2, 4, 28),
    "adamp": Case(functools.partial(optim.adamp, weight_decay=1e-3), 3e-2, 8, 80, 4.0),
    "sgdp": Case(functools.partial(optim.sgdp, momentum=0.9, weight_decay=1e-4), 3e-4, 4, 60, 4.0),
    "diffgrad": Case(optim.diffgrad, 5e-2, 12, 56),
    "cautious": Case(
        lambda learning_rate: optim.cautious(optim.lion(learning_rate)), 1e-2, 4, 48, 6.0
    ),
    # On convolutions alone: without the radial part a smaller norm is never found.
    "orthograd": Case(
        lambda learning_rate: optim.orthograd(
            optim.lion(learning_rate), mask=lambda _, x: x.ndim > 3
        ),
        1e-2,
        4,
        28,
    ),
    "cautious decay": Case(
        lambda learning_rate: optim.cautious_decay(
            optim.lion(learning_rate, weight_decay=0.0), learning_rate, 1e-3
        ),
        1e-2,
        4,
        48,
        6.0,
    ),
    "adagrad norm": Case(optim.adagrad_norm, 1.0, 0, 16, joint=True),
    "error feedback": Case(
        lambda learning_rate: optax.chain(
            optim.error_feedback(optim.compressors.natural()), optim.lion(learning_rate)
        ),
        1e-2,
        8,
        60,
    ),
    "frugal": Case(split(optim.frugal, {1, 2, 3, 4}), 1e-2, 4.1, low=True),
    "frugal columns": Case(split(optim.frugal, {2, 3, 4}, subspace="columns"), 1e-2, 4.1, low=True),
    # Half of the tensors are gathered, so the temporaries are half of the state.
    "badam": Case(split(optim.badam, {1, 2, 3, 4}), 1e-2, 5.3, 50.4, 2.65, low=True),
    "galore": Case(split(optim.galore, {2}), 0.3, 5.1, 55, 4.8, low=True),
}
every_case = pytest.mark.parametrize("name", list(CASES))


@functools.cache
def tree(seed):
    """Leaves of all kinds, whose axes of 8 can be sharded."""
    rng = np.random.default_rng(seed)
    shapes = {"bias": (8,), "conv": (2, 2, 3, 8), "empty": (0, 8), "kernel": (16, 8), "scalar": ()}
    leaves = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    return {**leaves, "none": None}


def train(tx, params, grads, steps=3):
    def step(carry, _):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = jax.tree.map(jnp.asarray, params)
    return jax.lax.scan(step, (params, tx.init(params)), length=steps)[0][0]


@functools.cache
def stepped(name):
    """Parameters and state of three steps with an injected rate, by one program, and that program.

    Every other way to take these steps is held against it.
    """
    case = CASES[name]
    tx = optax.inject_hyperparams(case.make)(learning_rate=case.lr)
    traces = []

    @jax.jit
    def step(params, state, grads):
        traces.append(1)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.asarray, tree(0))
    state = jax.jit(tx.init)(params)
    for _ in range(3):
        params, state = step(params, state, tree(1))
    return params, state, step, traces


def expected(name):
    return stepped(name)[0]


def assert_trees_close(a, b, atol=2e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=atol), a, b)


def parabola(x):
    return jnp.sum(jnp.square(x - jnp.array([1.0, -1.0, 1.0])))


def rosenbrock(x):
    return jnp.square(1 - x[0]) + 100 * jnp.square(x[1] - jnp.square(x[0]))


def matrix(x):
    return jnp.sum(jnp.square(x - jnp.array([[3.0, -2.0], [1.0, 4.0]])))


def mixed(x):
    return parabola(x[0]) + matrix(x[1])


TARGETS = {"parabola": parabola, "rosenbrock": rosenbrock, "matrix": matrix, "mixed": mixed}


@every_case
def test_converges(name):
    case = CASES[name]
    steps = 4000
    tx = case.make(optax.cosine_decay_schedule(case.lr, steps))
    zeros = functools.partial(np.zeros, dtype=np.float32)
    start = {
        "parabola": np.float32([-1.0, 4.0, 1.0]),
        "rosenbrock": zeros(2),
        "matrix": zeros((2, 2)),
        "mixed": (zeros(3), zeros((2, 2))),
    }

    def loss(params):
        losses = {k: f(params[k]) for k, f in TARGETS.items()}
        return sum(losses.values()), losses

    def step(carry, _):
        params, state = carry
        grads, losses = jax.grad(loss, has_aux=True)(params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), losses

    _, losses = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=steps))(start)
    for target, values in losses.items():
        assert values[-1] < 0.05 * values[0], (target, values[0], values[-1])


@every_case
def test_optax_habits(name):
    """Accumulation of a partition, whose masks leave a scalar to SGD, of a chain, with extra
    arguments."""
    case = CASES[name]
    tx = case.make(case.lr)
    outer = optax.chain(optax.clip(1e9), tx, optax.scale(1.0))
    chained = optax.GradientTransformation(
        outer.init, lambda g, s, p: outer.update(g, s, p, value=jnp.float32(0), loss=1.0)
    )
    labels = {**dict.fromkeys(tree(0), "ours"), "scalar": "ours" if case.joint else "sgd"}
    labels["none"] = None
    both = optax.MultiSteps(optax.partition({"ours": chained, "sgd": optax.sgd(0.5)}, labels), 2)

    params, grads, base = tree(0), tree(1), expected(name)
    got = jax.jit(functools.partial(train, both, steps=6))(params, grads)
    if not case.joint:
        base = {**base, "scalar": params["scalar"] - 1.5 * grads["scalar"]}
    assert_trees_close(got, base)


@every_case
def test_injected_rate_does_not_recompile(name):
    params, state, step, traces = stepped(name)
    inject = state.hyperparams | {"learning_rate": np.float32(0)}
    still, _ = step(params, state._replace(hyperparams=inject), tree(1))
    assert_trees_close(still, params, atol=0)
    assert any(np.any(params[k] != tree(0)[k]) for k in ("bias", "conv", "kernel"))
    assert len(traces) == 1


@every_case
def test_vmap_over_learning_rates(name):
    case = CASES[name]
    rates = np.float32([case.lr, 2 * case.lr])

    @jax.jit
    def sweep(rates):
        return jax.vmap(lambda lr: train(case.make(lr), tree(0), tree(1)))(rates)

    both = sweep(rates)
    assert_trees_close(jax.tree.map(lambda x: x[0], both), expected(name))
    moved = [np.linalg.norm(both["kernel"][i] - tree(0)["kernel"]) for i in (0, 1)]
    assert moved[1] > 1.5 * moved[0]


def specs():
    by_name = {"bias": P("data"), "conv": P(None, None, None, "data"), "kernel": P("data", None)}
    return {**by_name, "empty": P(), "scalar": P(), "none": None}


def placed(mesh):
    place = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))  # noqa: E731
    return [jax.tree.map(place, tree(seed), specs()) for seed in (0, 1)]


@every_case
def test_eight_devices_equal_one(name):
    case = CASES[name]
    tx = case.make(case.lr)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    params, grads = placed(mesh)
    state = tx.init(params)
    if not case.low:
        follows = optax.tree.map_params(
            tx, lambda s, p: s.sharding.is_equivalent_to(p.sharding, p.ndim), state, params
        )
        assert all(f for f in jax.tree.leaves(follows) if isinstance(f, bool))
    # Counts begin on one device; there once more is another program.
    everywhere = NamedSharding(mesh, P())
    state = jax.tree.map(
        lambda x: jax.device_put(x, everywhere) if len(x.devices()) == 1 else x, state
    )

    # Donated buffers that cannot be reused raise a warning, which is an error here.
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    with jax.set_mesh(mesh):
        for _ in range(3):
            params, state = step(params, state, grads)
    assert_trees_close(jax.device_get(params), expected(name))
    for k in ("bias", "conv", "kernel"):
        assert params[k].sharding.is_equivalent_to(grads[k].sharding, params[k].ndim)


@every_case
def test_explicit_axes(name):
    """Types that carry shardings: those of the parameters come out of a step."""
    case = CASES[name]
    tx = case.make(case.lr)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        params, grads = placed(mesh)

        @jax.jit
        def steps(params, grads):
            state = tx.init(params)
            for _ in range(2):
                updates, state = tx.update(grads, state, params)
                params = optax.apply_updates(params, updates)
            return params

        moved = jax.eval_shape(steps, params, grads)
    for k in ("bias", "conv", "kernel"):
        assert moved[k].sharding.spec == specs()[k]


@every_case
def test_state_tree(name, tmp_path):
    """Memory, mapping over parameters, and a round trip through a file."""
    case = CASES[name]
    tx = case.make(case.lr)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree(0))
    abstract = jax.eval_shape(tx.init, shapes)
    if case.low:
        with pytest.raises(ValueError, match="structure"):
            optax.tree.map_params(tx, lambda _, p: p.size, abstract, shapes)
        large = transformer(1024, 2, 256)
        assert optim.state_bytes(tx, large) <= case.state * elements(large)
    else:
        mapped = optax.tree.map_params(tx, lambda _, p: p.size, abstract, shapes)
        held = sum(x for x in jax.tree.leaves(mapped) if isinstance(x, int))
        assert 4 * held == case.state * sum(x.size for x in jax.tree.leaves(shapes))
        scalars = [x for x in jax.tree.leaves(mapped) if isinstance(x, jax.ShapeDtypeStruct)]
        assert all(x.shape == () for x in scalars)

    state = stepped(name)[1].inner_state
    np.savez(tmp_path / "state.npz", *jax.tree.leaves(state))
    with np.load(tmp_path / "state.npz") as z:
        restored = jax.tree.unflatten(jax.tree.structure(abstract), [z[k] for k in z.files])
    assert jax.tree.structure(state) == jax.tree.structure(restored)
    jax.tree.map(np.testing.assert_array_equal, state, restored)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.accessed])
def test_cost_of_donated_update(name, users_compiler):
    case = CASES[name]
    # What chooses among tensors needs some of each shape.
    params = transformer(1024, 2 if case.low else 1, 256)
    _, accessed, temporary = cost(case.make(case.lr), params, users_compiler)
    # Sums by channel and scalars add a little.
    assert accessed <= case.accessed + 0.2
    assert temporary <= case.temporary + 0.05


shapes_strategy = st.lists(st.integers(0, 3), max_size=5).map(tuple)
dtypes_strategy = st.sampled_from(["float16", "bfloat16", "float32"])


@every_case
@pytest.mark.filterwarnings("ignore:frugal. no leaf is projectable")
@settings(max_examples=8, deadline=None, derandomize=True)
@given(leaves=st.lists(st.tuples(shapes_strategy, dtypes_strategy), max_size=3))
def test_any_tree(name, leaves):
    """Updates have the shapes and dtypes of the gradients, the state keeps its own."""
    tx = CASES[name].make(CASES[name].lr)
    params = {str(i): jax.ShapeDtypeStruct(*leaf) for i, leaf in enumerate(leaves)}
    state = jax.eval_shape(tx.init, params)
    updates, new_state = jax.eval_shape(tx.update, params, state, params)

    def signature(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype), tree)

    assert signature(updates) == signature(params)
    assert signature(new_state) == signature(state)


@every_case
def test_low_precision_step(name):
    """A 16-bit step is the float32 step up to the rounding of its inputs and state."""
    case = CASES[name]
    tx = case.make(case.lr)
    half = [tree(seed)["kernel"].astype(np.float16) for seed in (0, 1)]
    half = [x.astype(jnp.bfloat16).astype(np.float16) for x in half]

    @jax.jit
    def steps(p, g):
        dtypes = ("float32", "bfloat16", "float16")
        pairs = [(p.astype(d), g.astype(d)) for d in dtypes]
        return [tx.update(g, tx.init(p), p)[0] for p, g in pairs]

    exact, *rounded = steps(*half)
    for update, dtype in zip(rounded, ("bfloat16", "float16"), strict=True):
        assert update.dtype == dtype
        got = update.astype(np.float32)
        np.testing.assert_allclose(got, exact, rtol=0.02, atol=0.01 * np.abs(exact).max())
