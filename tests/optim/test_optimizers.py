"""The rules of single optimizers: projection, layouts, dtypes, special leaves, bad input."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict
from hypothesis import given, settings
from hypothesis import strategies as st

import optim

RNG = np.random.default_rng(0)
KERNEL, GRAD = RNG.standard_normal((2, 6, 4)).astype(np.float32)
seeds = st.integers(0, 2**31 - 1)
few = settings(max_examples=15, deadline=None, derandomize=True)


def run(tx, params, grads, steps=3):
    """``steps`` steps on ``grads``, in one compilation."""

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = jax.tree.map(jnp.asarray, params)
    return jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=steps)[0])(params)


def close(a, b, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=atol), a, b)


identity = optim.project_scale_invariant(optax.identity(), channel_axis=-1, delta=0.3)
project = jax.jit(lambda g, p: identity.update(g, identity.init(p), p)[0])


def first(tx, grads, params):
    """The first update, in one compilation."""
    return jax.jit(lambda g, p: tx.update(g, tx.init(p), p)[0])(grads, params)


def branches(grads, params, **options):
    return jax.jit(functools.partial(optim.projection_branches, **options))(grads, params)


@few
@given(seeds)
def test_projected_direction_is_orthogonal_to_rows(seed):
    p, g = np.random.default_rng(seed).standard_normal((2, 6, 4)).astype(np.float32)
    g = g - p * (g * p).sum(0) / (p * p).sum(0)  # By channel, within the threshold.
    g = g + 0.05 * p * np.linalg.norm(g, axis=0) / np.linalg.norm(p, axis=0)
    u = project(g, p)
    assert np.abs((u * p).sum(0)).max() < 1e-5
    assert np.abs(g - u).max() > 1e-3


@few
@given(seeds, st.floats(0.1, 10.0))
def test_projection_ignores_the_scale_of_weights(seed, scale):
    p, g = np.random.default_rng(seed).standard_normal((2, 6, 4)).astype(np.float32)
    np.testing.assert_allclose(project(g, p), project(g, np.float32(scale) * p), atol=1e-5)


def test_layer_view_when_one_channel_fails():
    p, g = KERNEL.copy(), GRAD - KERNEL * np.sum(GRAD * KERNEL, 0) / np.sum(KERNEL**2, 0)
    g[:, 0], g[:, 1] = (
        g[:, 0] + p[:, 0],
        g[:, 1] - 0.9 * p[:, 1] * np.sum(p[:, 0] ** 2) / np.sum(p[:, 1] ** 2),
    )
    assert abs(np.sum(g * p)) > 0.1
    assert int(branches({"w": g}, {"w": p}, delta=0.3)["w"]) == 2
    u = np.asarray(project(g, p))
    np.testing.assert_allclose(np.sum(u * p), 0, atol=1e-5)
    assert abs(np.sum(u[:, 0] * p[:, 0])) > 0.1


@pytest.mark.parametrize("make", [optim.adamp, optim.sgdp])
def test_layout_does_not_matter(make):
    last, _ = run(make(0.1, weight_decay=0.1), KERNEL, GRAD)
    first, _ = run(make(0.1, weight_decay=0.1, channel_axis=0), KERNEL.T, GRAD.T)
    close(last, first.T)

    def axis(path, x):
        assert isinstance(x, jax.ShapeDtypeStruct)
        return 0 if "embedding" in jax.tree_util.keystr(path) else -1

    both = {"embedding": KERNEL.T, "kernel": KERNEL}
    grads = {"embedding": GRAD.T, "kernel": GRAD}
    named, _ = run(make(0.1, weight_decay=0.1, channel_axis=axis), both, grads)
    close(named, {"embedding": last.T, "kernel": last})


@pytest.mark.parametrize("make", [optim.adamp, optim.sgdp])
def test_stacked_layers_are_separate_tensors(make):
    kernels = RNG.standard_normal((3, 6, 4)).astype(np.float32)
    grads = RNG.standard_normal((3, 6, 4)).astype(np.float32)
    grads[0] -= kernels[0] * np.sum(grads[0] * kernels[0], 0) / np.sum(kernels[0] ** 2, 0)
    params, gradients = {"b": kernels[:, 0], "w": kernels}, {"b": grads[:, 0], "w": grads}
    chosen = jax.tree.map(np.asarray, branches(gradients, params, stacked=1))
    assert chosen["w"].shape == (3,)
    assert chosen["w"][0] == 1
    assert not np.any(chosen["b"])
    stacked, _ = run(make(0.1, weight_decay=0.1, stacked=1), params, gradients)
    by_name = make(0.1, weight_decay=0.1, stacked=lambda path, x: int(x.ndim > 1))
    close(run(by_name, params, gradients)[0], stacked)
    layers = [{"b": kernels[i, 0], "w": kernels[i]} for i in range(3)]
    alone, _ = run(
        make(0.1, weight_decay=0.1), layers, [{"b": grads[i, 0], "w": grads[i]} for i in range(3)]
    )
    close(stacked, jax.tree.map(lambda *x: np.stack(x), *alone))
    # Not told so, the stack is one tensor.
    whole, _ = run(make(0.1, weight_decay=0.1), params, gradients)
    assert np.abs(whole["w"] - stacked["w"]).max() > 1e-4


def test_traced_channel_axis():
    wrapped = optax.inject_hyperparams(optim.adamp)(0.1, channel_axis=0)
    got, _ = run(wrapped, KERNEL, GRAD)
    close(got, run(optim.adamp(0.1, channel_axis=0), KERNEL, GRAD)[0])


def test_decay_mask_and_schedule():
    params, grads = {"a": KERNEL, "b": KERNEL}, {"a": GRAD, "b": GRAD}
    mask = {"a": True, "b": False}
    makes = {
        "adamp": optim.adamp,
        "sgdp": optim.sgdp,
        "lion": optim.lion,
        "lion_k": functools.partial(optim.lion_k, kappa=optim.kappas.l2),
    }

    @jax.jit
    def all_of_them(params):
        def after(make, **options):
            return run(make(0.1, **options), params, grads)[0]

        by_function = after(optim.adamp, weight_decay=lambda _: 0.5, mask=lambda p: mask)
        pairs = {
            k: (after(make, weight_decay=0.5, mask=mask), after(make, weight_decay=0.0))
            for k, make in makes.items()
        }
        return by_function, pairs

    by_function, pairs = all_of_them(params)
    close(by_function, pairs["adamp"][0])
    for decayed, plain in pairs.values():
        close(decayed["b"], plain["b"])
        assert np.abs(np.asarray(decayed["a"]) - plain["a"]).max() > 0.05
    # Decay is by learning rate x decay x ratio of the parameters before the step.
    zero = jax.tree.map(np.zeros_like, grads)
    still, _ = run(optim.sgdp(0.1, 0.5, weight_decay=0.2, wd_ratio=0.3), params, zero, steps=1)
    close(still["a"], params["a"] * (1 - 0.1 * 0.2 * 0.3 / (1 - 0.5)))


def test_sgdp_projects_its_momentum_only_without_nesterov():
    p, g = KERNEL, GRAD - KERNEL * np.sum(GRAD * KERNEL, 0) / np.sum(KERNEL**2, 0)
    g = g + 0.01 * p
    for nesterov, radial in ((False, 1e-6), (True, 1e-3)):
        _, state = run(optim.sgdp(0.0, 0.9, nesterov=nesterov), p, g)
        product = np.abs(np.sum(optax.tree.get(state, "trace") * p, 0)).max()
        assert (product < radial) is not nesterov


@pytest.mark.parametrize(("b1", "b2"), [(0.9, 0.99), (0.9, 0.9), (0.99, 0.9), (0.9, 0.0), (0, 0)])
def test_lion_is_optax_lion(b1, b2):
    key = np.random.default_rng(1)
    grads = key.standard_normal((20, 50, 4)).astype(np.float32)
    grads[:, :5] = 0
    grads[3:9, 5:10] = 0

    @jax.jit
    def trajectory(params):
        outs = []
        for make in (optim.lion, optax.lion):
            tx = make(0.01, b1, b2, weight_decay=0.1)

            def step(carry, g, tx=tx):
                params, state = carry
                updates, state = tx.update(g, state, params)
                params = optax.apply_updates(params, updates)
                return (params, state), params

            outs.append(jax.lax.scan(step, (params, tx.init(params)), grads)[1])
        return outs

    ours, theirs = trajectory(jnp.ones((50, 4)))
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_lion_low_precision_momentum_keeps_the_signs():
    grads = jnp.asarray(RNG.standard_normal((20, 500)), jnp.float32)

    @jax.jit
    def signs(grads):
        outs = []
        for make in (optim.scale_by_lion_k, optax.scale_by_lion):
            tx = make(mu_dtype=jnp.bfloat16)
            step = lambda state, g, tx=tx: tx.update(g, state)[::-1]  # noqa: E731
            outs.append(jax.lax.scan(step, tx.init(grads[0]), grads)[1])
        return outs

    ours, theirs = signs(grads)
    # optax rounds the terms of the momentum before the sum, this its sum.
    assert np.mean(ours != theirs) < 2e-3


@pytest.mark.parametrize("make", [optim.adamp, optim.diffgrad])
def test_state_dtypes(make):
    params = {"w": KERNEL.astype(jnp.bfloat16)}
    state = make(0.1, mu_dtype="float32", nu_dtype=jnp.float32).init(params)
    assert optax.tree.get(state, "mu")["w"].dtype == jnp.float32
    assert optax.tree.get(state, "nu")["w"].dtype == jnp.float32
    state = make(0.1).init(params)
    assert optax.tree.get(state, "nu")["w"].dtype == jnp.bfloat16
    rounded, state = run(make(0.1, mu_dtype=jnp.bfloat16, nu_dtype=jnp.bfloat16), KERNEL, GRAD)
    assert optax.tree.get(state, "nu").dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded, run(make(0.1), KERNEL, GRAD)[0], atol=5e-3)


def test_diffgrad_friction():
    always = np.full(3, 2.0, np.float32)
    adam, _ = run(optax.adam(0.1), np.zeros(3), always, steps=1)
    for make in (optim.diffgrad, lambda lr: optim.diffgrad(lr, authors_v1=True)):
        first, _ = run(make(0.1), np.zeros(3), always, steps=1)
        second, state = run(make(0.1), np.zeros(3), always, steps=2)
        np.testing.assert_allclose(first, adam / (1 + np.exp(-2.0)), rtol=1e-4)
        np.testing.assert_allclose(second - first, adam / 2, rtol=1e-4)
    assert len(jax.tree.leaves(state)) == 3  # The authors' first version needs no last gradient.


def test_cautious():
    tx = optax.sgd(0.1, momentum=0.9)
    params = np.zeros(4, np.float32)
    grads = np.float32([[1.0, 1.0, 1.0, 1.0], [1.0, -0.5, 0.0, -2.0]])

    @jax.jit
    def all_of_them(params):
        _, state = tx.update(grads[0], tx.init(params), params)
        return (
            tx.update(grads[1], state, params),
            optim.cautious(tx).update(grads[1], state, params),
            optim.cautious(tx, rescale=True).update(grads[1], state, params)[0],
            optim.cautious(optax.trace(0.9), direction=True).update(grads[1], state[0])[0],
        )

    (plain, after), kept, scaled, trace = all_of_them(params)
    expected = np.where(np.array(plain) * grads[1] < 0, plain, 0)
    assert np.count_nonzero(expected) == 2
    close(kept, (expected, after))
    close(scaled, expected * 4 / (2 + 1))
    close(-0.1 * np.asarray(trace), expected)


@pytest.mark.parametrize(("dtype", "g", "lr"), [("float16", 1e-4, 1e-4), ("float32", 1e-30, 1e-9)])
def test_cautious_compares_signs(dtype, g, lr):
    """A product of small numbers is zero although they agree."""
    params, grads = np.ones(2, dtype), np.asarray([g, -g], dtype)
    inner = optim.lion(lr, weight_decay=0.0)
    plain = np.asarray(first(inner, grads, params))
    for rescale in (False, True):
        kept = np.asarray(first(optim.cautious(inner, rescale=rescale), grads, params))
        np.testing.assert_allclose(kept, plain * (2 / 3 if rescale else 1), rtol=1e-2)
        assert np.all(kept != 0)


@pytest.mark.parametrize("scheduled", [False, True])
def test_cautious_knows_a_direction_from_an_optimizer(scheduled):
    lr = optax.linear_schedule(0.0, 0.1, 10) if scheduled else 0.1  # The first rate is zero.
    for inner in (optax.adamw(lr, weight_decay=0.1), optim.lion(lr), optax.sgd(lr, 0.9)):
        optim.cautious(inner)
        with pytest.raises(ValueError, match="direction must be False"):
            optim.cautious(inner, direction=True)
    for inner in (optax.scale_by_adam(), optim.scale_by_lion_k(), optax.trace(0.9)):
        optim.cautious(inner, direction=True)
        with pytest.raises(ValueError, match="direction must be True"):
            optim.cautious(inner)

    # What cannot be told is taken as it is said: rates under a transformation, other trees.
    def traced(rate):
        tx = optim.cautious(optax.sgd(rate))
        return tx.update(rate, tx.init(rate), rate)[0]

    np.testing.assert_array_equal(jax.jit(jax.vmap(traced))(np.ones(2, np.float32)), [-1, -1])
    for direction in (False, True):
        optim.cautious(optax.masked(optax.adam(0.1), {"w": True}), direction=direction)


EVERY = {
    "lion": optim.lion,
    "adamp": optim.adamp,
    "sgdp": optim.sgdp,
    "diffgrad": optim.diffgrad,
    "cautious": lambda lr: optim.cautious(optim.lion(lr)),
}


def momentum(learning_rate):
    return optax.chain(optim.scale_by_momentum(), optax.scale_by_learning_rate(learning_rate))


@pytest.mark.parametrize("name", list(EVERY))
def test_kinds_of_trees(name):
    tx = EVERY[name](0.1)
    base, _ = run(tx, {"w": KERNEL}, {"w": GRAD}, steps=1)
    frozen, _ = run(tx, FrozenDict({"w": KERNEL}), FrozenDict({"w": GRAD}), steps=1)
    close(frozen["w"], base["w"])
    assert isinstance(frozen, FrozenDict)

    # A parameter without gradient, as filtered trees have it, keeps still and keeps its state.
    params = {"n": jnp.arange(3), "w": KERNEL}
    state = tx.init(params)
    updates, new_state = jax.jit(tx.update)({"n": None, "w": GRAD}, state, params)
    assert updates["n"] is None
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    close(KERNEL + updates["w"], base["w"])

    model = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
    model.kernel[...] = jnp.asarray(KERNEL)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    grads = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
    grads["kernel"][...] = jnp.asarray(GRAD)
    nnx.jit(lambda o, m, g: o.update(m, g))(optimizer, model, grads)
    close(model.kernel[...], base["w"])


def projected_adam(learning_rate):
    direction = optim.project_scale_invariant(optax.scale_by_adam())
    return optax.chain(direction, optax.scale_by_learning_rate(learning_rate))


@pytest.mark.parametrize("name", ["lion", "adamp", "sgdp", "diffgrad", "momentum", "projected"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits(name, dtype):
    """Injected rates are rounded to the parameters' dtype: 0.999 to 1, 1e-8 to 0."""
    plain_lion = functools.partial(optim.lion, weight_decay=0.0)
    others = {"momentum": momentum, "lion": plain_lion, "projected": projected_adam}
    make = {**EVERY, **others}[name]
    params = {"w": jnp.ones((4, 3), dtype)}
    injected = optax.inject_hyperparams(make)(learning_rate=0.125)
    plain = make(0.125)

    @jax.jit
    def both(params):
        steps = []
        for tx in (injected, plain):
            state, out = tx.init(params), []
            for size in (0.0, 0.1, 0.2, 0.3):
                grads = jax.tree.map(lambda p, size=size: jnp.full_like(p, size), params)
                u, state = tx.update(grads, state, params)
                out.append(u["w"].astype(jnp.float32))
            steps.append(jnp.stack(out))
        return steps

    a, b = both(params)
    assert np.all(np.isfinite(a))
    assert np.all(a[0] == 0)
    np.testing.assert_allclose(a, b, rtol=0.05)
    assert np.all(b[1:] != 0)


@pytest.mark.parametrize("name", [*("lion", "adamp", "sgdp", "diffgrad"), "momentum"])
def test_strict_promotion_and_states_as_numpy(name):
    """No dtype is promoted unasked, and a state read from a file is one of numpy."""
    tx = {**EVERY, "momentum": momentum}[name](0.1)
    params = {"w": jnp.asarray(KERNEL, jnp.bfloat16), "b": jnp.ones(4)}
    grads = {"w": jnp.asarray(GRAD, jnp.bfloat16), "b": jnp.ones(4)}
    with jax.numpy_dtype_promotion("strict"):
        state = tx.init(params)
        updates, _ = jax.jit(tx.update)(grads, state, params)
    # Gradients of other dtypes than the parameters leave the state's as they are.
    other = {"w": jnp.asarray(GRAD, jnp.float32), "b": jnp.ones(4, jnp.float16)}
    got, new = jax.eval_shape(tx.update, other, state, params)
    assert jax.tree.map(jnp.result_type, new) == jax.tree.map(jnp.result_type, state)
    assert jax.tree.map(jnp.result_type, got) == jax.tree.map(jnp.result_type, other)
    of_file = jax.tree.map(np.asarray, state)
    again, _ = tx.update(jax.tree.map(np.asarray, grads), of_file, params)
    close(again, updates)


def test_sgdp_with_a_momentum_that_sixteen_bits_round_to_one():
    """Its decay is divided by 1 - momentum."""
    params = {"w": np.ones((4, 3), jnp.bfloat16)}
    make = functools.partial(optim.sgdp, momentum=0.999, weight_decay=1e-3)
    got = first(optax.inject_hyperparams(make)(learning_rate=0.125), params, params)
    plain = jax.tree.map(np.asarray, first(make(0.125), params, params))
    np.testing.assert_allclose(np.float32(got["w"]), np.float32(plain["w"]), rtol=0.05)
    assert float(plain["w"][0, 0]) == pytest.approx(-0.125 * (1 + 1), rel=0.01)


def test_a_whole_optimizer_is_no_direction_to_project():
    for whole in (optax.adam(1e-3), optim.lion(optax.linear_schedule(0.0, 1.0, 10))):
        with pytest.raises(ValueError, match="inner must be a direction without a learning rate"):
            optim.project_scale_invariant(whole)
    with pytest.raises(ValueError, match=r"inner must be an optax\.GradientTransformation"):
        optim.project_scale_invariant(optax.scale_by_adam)


def test_dtypes_of_buffers():
    params = {"w": jnp.asarray(KERNEL, jnp.bfloat16)}
    for tx in (
        optim.sgdp(0.1, 0.9, accumulator_dtype=jnp.float32),
        optim.scale_by_momentum(0.9, accumulator_dtype="float32", start="params"),
    ):
        state = tx.init(params)
        assert optax.tree.get(state, "trace")["w"].dtype == jnp.float32
        updates, _ = tx.update(params, state, params)
        assert updates["w"].dtype == jnp.bfloat16


@pytest.mark.parametrize("make", [optim.adamp, optim.diffgrad])
def test_derivatives_through_an_update(make):
    """Where a second moment is zero, with and without ``eps_root``, and weights start at zero."""

    def moved(scale, eps_root):
        tx = make(0.1, eps_root=eps_root)
        params = {"w": scale * jnp.zeros((3, 2)), "b": jnp.ones(2)}
        grads = {"w": scale * jnp.zeros((3, 2)), "b": scale * jnp.ones(2)}
        updates, _ = tx.update(grads, tx.init(params), params)
        return sum(jnp.sum(u) for u in jax.tree.leaves(updates))

    @jax.jit
    def both(scale):
        return [jax.value_and_grad(moved)(scale, eps_root) for eps_root in (0.0, 1e-8, 1e-2)]

    (low, here, high), small = (both(x) for x in (0.99, 1.0, 1.01)), both(1e-3)
    for i in (0, 1):
        numeric = (float(high[i][0]) - float(low[i][0])) / 0.02
        np.testing.assert_allclose(here[i][1], numeric, atol=1e-3)
    assert abs(float(small[2][0])) < 0.1 * abs(float(small[0][0]))


@pytest.mark.parametrize("name", list(EVERY))
def test_bad_leaves_are_named(name):
    tx = EVERY[name](0.1)
    with pytest.raises(ValueError, match=r"leaf \['w'\] is complex \(complex64\)"):
        tx.init({"w": jnp.zeros(2, jnp.complex64)})
    state = tx.init({"w": KERNEL})
    with pytest.raises(ValueError, match=r"leaf \['w'\]: the gradient has shape \(4, 6\)"):
        tx.update({"w": GRAD.T}, state, {"w": KERNEL})
    with pytest.raises(ValueError, match=r"leaf \['w'\]: the gradient is int32, expected a float"):
        tx.update({"w": GRAD.astype(np.int32)}, state, {"w": KERNEL})


def test_gradients_are_checked_before_decay_broadcasts_them():
    tx = optim.diffgrad(0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"leaf \['w'\]: the gradient has shape \(1, 4\)"):
        tx.update({"w": GRAD[:1]}, tx.init({"w": KERNEL}), {"w": KERNEL})


@pytest.mark.parametrize("tx", [optim.lion(0.1), optim.lion(0.1, 0.99, 0.9), optim.diffgrad(0.1)])
def test_parameters_may_be_called_as_the_state_is(tx):
    names = {"mu": KERNEL, "prev_grad": KERNEL, "nu": KERNEL}
    plain, _ = run(tx, list(names.values()), [GRAD] * 3, steps=2)
    named, state = run(tx, names, dict.fromkeys(names, GRAD), steps=2)
    close(named["mu"], plain[0])
    if "Lion" in str(jax.tree.structure(state)):
        value = optim.lyapunov(state, named, 1.0, learning_rate=0.1, weight_decay=0.0)
        assert np.isfinite(value)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (optim.lion, {"b1": 1.0}, r"b1 must be in \[0, 1\), got 1.0"),
        (optim.lion, {"b2": -0.1}, r"b2 must be in \[0, 1\), got -0.1"),
        (optim.lion, {"b2": "0.9"}, r"b2 must be a number, in \[0, 1\), got '0.9'"),
        (optim.lion, {"weight_decay": -1e-3}, "weight_decay must be >= 0, got -0.001"),
        (optim.lion, {"learning_rate": np.inf}, "learning_rate must be finite, got inf"),
        (optim.adamp, {"b1": jnp.array(2.0)}, r"b1 must be in \[0, 1\), got 2.0"),
        (optim.lion, {"learning_rate": None}, "learning_rate must be a finite number or"),
        (optim.lion, {"mu_dtype": "int8"}, "mu_dtype must be None or a floating-point dtype"),
        (optim.lion, {"mu_dtype": "float31"}, "mu_dtype must be None or a floating-point dtype"),
        (optim.lion_k, {"kappa": "l1"}, "kappa must be an optim.kappas.Kappa, got 'l1'"),
        (optim.adamp, {"b1": 1}, r"b1 must be in \[0, 1\), got 1"),
        (optim.adamp, {"b2": float("nan")}, r"b2 must be in \[0, 1\), got nan"),
        (optim.adamp, {"eps": -1e-8}, "eps must be >= 0, got -1e-08"),
        (optim.adamp, {"delta": -1.0}, "delta must be >= 0, got -1.0"),
        (optim.adamp, {"delta": True}, "delta must be a number, >= 0, got True"),
        (optim.adamp, {"wd_ratio": 1.5}, r"wd_ratio must be in \[0, 1\], got 1.5"),
        (optim.adamp, {"nesterov": 1}, "nesterov must be True or False, got 1"),
        (optim.adamp, {"nu_dtype": int}, "nu_dtype must be None or a floating-point dtype"),
        (optim.adamp, {"channel_axis": 1.5}, "channel_axis must be an integer, a tuple"),
        (optim.adamp, {"stacked": -1}, "stacked must be an integer >= 0, a function"),
        (optim.adamp, {"b1": np.ones(2)}, r"b1 must be a number, .* got an array of shape \(2,\)"),
        (optim.sgdp, {"momentum": 1.5}, r"momentum must be in \[0, 1\], got 1.5"),
        (optim.sgdp, {"dampening": -1}, r"dampening must be in \[0, 1\], got -1"),
        (optim.sgdp, {"momentum": 1.0, "weight_decay": 0.1}, r"momentum .* in \[0, 1\), got 1.0"),
        (optim.diffgrad, {"b2": 1.0}, r"b2 must be in \[0, 1\), got 1.0"),
        (optim.diffgrad, {"authors_v1": "yes"}, "authors_v1 must be True or False, got 'yes'"),
    ],
)
def test_bad_hyperparameters(make, arguments, message):
    defaults = {"kappa": optim.kappas.l1} if make is optim.lion_k else {}
    with pytest.raises(ValueError, match=message):
        make(**{"learning_rate": 0.1, **defaults, **arguments})


def test_states_are_public_and_documented():
    """Whoever inspects a state finds its class in ``optim``, and every field in its docstring."""
    everything = optax.chain(
        optim.masked_update(optim.adamp(0.1)),
        optim.diffgrad(0.1),
        optim.scale_by_momentum(),
        optim.record_norms(3),
        optim.frugal(0.1, projectable=lambda path, leaf: True),
    )
    found = set()

    def visit(state):
        if hasattr(state, "_fields") and type(state).__module__.startswith("optim."):
            found.add(type(state).__name__)
            assert getattr(optim, type(state).__name__) is type(state)
            for field in state._fields:
                assert f"\n  {field}: " in inspect.getdoc(type(state)), (type(state), field)
        if isinstance(state, tuple):
            for part in state:
                visit(part)

    visit(jax.eval_shape(everything.init, {"w": KERNEL}))
    assert {"MaskedUpdateState", "ProjectScaleInvariantState", "ScaleByDiffGradState"} < found


def test_bad_axes_and_missing_params():
    with pytest.raises(
        ValueError, match=r"channel_axis of leaf \['w'\] must be in \[-2, 2\), got 2"
    ):
        optim.adamp(0.1, channel_axis=2).init({"w": KERNEL})
    with pytest.raises(ValueError, match=r"stacked of leaf \['w'\] of shape \(6, 4\) .* got 3"):
        optim.adamp(0.1, stacked=lambda path, x: 3).init({"w": KERNEL})
    tx = optim.adamp(0.1)
    with pytest.raises(ValueError, match="params must be passed to update"):
        tx.update({"w": GRAD}, tx.init({"w": KERNEL}))
    # A leaf the function leaves alone is not projected.
    alone = optim.adamp(0.1, channel_axis=lambda path, x: None)
    zeros = {"w": np.zeros_like(GRAD)}
    assert int(branches(zeros, {"w": KERNEL}, channel_axis=lambda path, x: None)["w"]) == 0
    assert int(branches(zeros, {"w": KERNEL})["w"]) == 1
    alone.init({"w": KERNEL})
