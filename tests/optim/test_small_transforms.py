"""Orthogonal gradients, StableMax, cautious decay, noise scale, batch sizes, EF21, large steps."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

import optim

few = settings(max_examples=15, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# OrthoGrad.

orthogonal = jax.jit(lambda g, w: optim.orthograd().update(g, optax.EmptyState(), w)[0])
shorter = jax.jit(lambda g, w: optim.orthograd(rescale=False).update(g, optax.EmptyState(), w)[0])


@few
@given(seeds, st.floats(1e-3, 1e3))
def test_orthograd_is_orthogonal_and_as_long(seed, scale):
    w, g = normal(seed, 2, 5, 3)
    found = orthogonal(g, np.float32(scale) * w)
    assert abs(np.sum(w * found)) < 1e-4 * np.linalg.norm(w) * np.linalg.norm(found)
    np.testing.assert_allclose(np.linalg.norm(found), np.linalg.norm(g), rtol=1e-5)
    # Without rescaling it is the nearest orthogonal one.
    expected = g - np.sum(w * g) / np.sum(w * w) * w
    np.testing.assert_allclose(shorter(g, w), expected, atol=1e-5)


def test_orthograd_where_nothing_is_left():
    w, g = np.float32([0.1, 0.2, 0.3]), np.float32([0.3, 0.6, 0.9])
    np.testing.assert_array_equal(orthogonal(g, w), np.zeros(3))
    np.testing.assert_array_equal(orthogonal(np.zeros(3, np.float32), w), np.zeros(3))
    np.testing.assert_array_equal(orthogonal(g, np.zeros(3, np.float32)), g)
    almost = g + np.float32([0, 0, 1e-3])
    np.testing.assert_allclose(
        np.linalg.norm(orthogonal(almost, w)), np.linalg.norm(almost), rtol=1e-4
    )
    half = orthogonal(jnp.bfloat16(normal(0, 4)), jnp.bfloat16(normal(1, 4)))
    assert half.dtype == jnp.bfloat16


def test_orthograd_leaves_out_by_mask_and_wraps():
    params = {"bias": normal(0, 3), "w": normal(1, 3, 2)}
    grads = {"bias": normal(2, 3), "w": normal(3, 3, 2)}
    tx = optim.orthograd(optax.sgd(1.0), mask=lambda path, x: x.ndim > 1)
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_array_equal(updates["bias"], -grads["bias"])
    np.testing.assert_allclose(updates["w"], -orthogonal(grads["w"], params["w"]), atol=1e-6)
    nothing = optim.orthograd()
    none, _ = nothing.update({"bias": None, "w": grads["w"]}, nothing.init(params), params)
    assert none["bias"] is None


# StableMax.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stablemax_on_grids(dtype):
    with jax.enable_x64(dtype == np.float64):
        edge = [0.0, 1.0, -1.0, 1e-30, 3.4, 80.0, -80.0, 1e4, -1e4, 1e15, -1e15, 1e30, -1e30]
        x = np.stack(np.meshgrid(edge, edge, edge), -1).reshape(-1, 3).astype(dtype)
        wide = x.astype(np.longdouble)
        s = np.where(wide >= 0, 1 + np.abs(wide), 1 / (1 + np.abs(wide)))
        expected = np.log(s) - np.log(s.sum(1, keepdims=True))
        found = jax.jit(optim.losses.log_stablemax)(x)
        tolerance = 1e-5 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
        labels = np.arange(len(x)) % 3

        def loss(x):
            return jnp.sum(optim.losses.stablemax_cross_entropy(x, labels))

        slopes = jax.jit(jax.grad(loss))(x)
        p, hot = np.exp(expected), np.eye(3)[labels]
        np.testing.assert_allclose(slopes, (p - hot) / (1 + np.abs(wide)), atol=tolerance)


def test_stablemax_takes_both_kinds_of_labels():
    x, labels = normal(0, 5, 3), np.array([0, 2, 1, 1, 0])
    loss = jax.jit(optim.losses.stablemax_cross_entropy, static_argnames="axis")
    by_number = loss(x, labels)
    np.testing.assert_allclose(loss(x, np.eye(3, dtype=np.float32)[labels]), by_number, rtol=1e-6)
    np.testing.assert_allclose(loss(x.T, labels, axis=0), by_number, rtol=1e-6)
    without = loss(x, np.minimum(labels, 1), where=np.array([[True, True, False]] * 5))
    np.testing.assert_allclose(without, loss(x[:, :2], np.minimum(labels, 1)), rtol=1e-6)


# Step Law.


def test_step_law_says_where_it_extrapolates():
    law = optim.scaling.step_law(2e8, 4e9)
    np.testing.assert_allclose(law.learning_rate, 1.79 * 2e8**-0.713 * 4e9**0.307, rtol=1e-12)
    for n in (1e8, 2e9):
        with pytest.warns(UserWarning, match="n_params: the Step Law was fitted to 2e"):
            optim.scaling.step_law(n, 1e10)


# Cautious decay.


def test_cautious_decay_ends_in_the_minimizer():
    c = jnp.array([2.0, -1.0, 0.5])
    rate, decay = 0.1, 0.3

    def minimum(tx):
        def step(carry, _):
            x, state = carry
            updates, state = tx.update(x - c, state, x)
            return (optax.apply_updates(x, updates), state), None

        start = jnp.zeros(3)
        return jax.jit(lambda x: jax.lax.scan(step, (x, tx.init(x)), length=400)[0][0])(start)

    plain = optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate))
    np.testing.assert_allclose(minimum(plain), c / 1.3, rtol=1e-4)
    for strict in (True, False):
        wrapped = optim.cautious_decay(optax.sgd(rate), rate, decay, strict=strict)
        inside = optax.chain(optim.cautious_weight_decay(decay, strict=strict), optax.sgd(rate))
        np.testing.assert_allclose(minimum(wrapped), c, rtol=1e-4)
        np.testing.assert_allclose(minimum(inside), c, rtol=1e-4)


@few
@given(seeds)
def test_cautious_decay_shrinks_what_the_update_shrinks(seed):
    x, g = normal(seed, 2, 6)
    g[:2] = x[3] = 0
    for strict, decays in ((True, g * x > 0), (False, g * x >= 0)):
        tx = optim.cautious_weight_decay(0.5, strict=strict)
        updates, _ = tx.update(g, tx.init(x), x)
        np.testing.assert_allclose(updates, g + 0.5 * decays * x, rtol=1e-6)


def test_cautious_decay_composes_with_cautious_schedules_and_masks():
    params, grads = {"a": normal(0, 6), "b": normal(1, 6)}, {"a": normal(2, 6), "b": normal(3, 6)}
    rates = lambda t: 0.1 / (1 + t)  # noqa: E731
    inner = optim.cautious(optim.lion(rates, weight_decay=0.0))
    mask = {"a": True, "b": False}
    tx = optim.cautious_decay(inner, rates, lambda t: 0.2 * (t + 1), decay_power=2, mask=mask)
    state, inner_state = tx.init(params), inner.init(params)
    for t in range(3):
        updates, state = jax.jit(tx.update)(grads, state, params)
        plain, inner_state = jax.jit(inner.update)(grads, inner_state, params)
        x, u = params["a"], plain["a"]
        expected = u - rates(t) ** 2 * 0.2 * (t + 1) * (u * x <= 0) * x
        np.testing.assert_allclose(updates["a"], expected, rtol=1e-5)
        np.testing.assert_array_equal(updates["b"], plain["b"])
        params = optax.apply_updates(params, updates)
    assert int(state.count) == 3


# Large steps on logistic losses.


@pytest.mark.parametrize(("n", "steps"), [(100, (3, 90)), (1000, (5, 904)), (10000, (7, 9038))])
def test_steps_to_separation(n, steps):
    x = np.float32([[1.0, 0.5]] * (n - 1) + [[-0.5, 0.1]])

    def until_separated(gradient, gamma):
        def wrong(carry):
            return jnp.any(x @ carry[0] <= 0)

        def step(carry):
            theta, count = carry
            return theta - gamma * gradient(theta), count + 1

        return jax.lax.while_loop(wrong, step, (jnp.zeros(2), 0))[1]

    y = np.ones(n, np.float32)
    normalized = partial(optim.normalized_logistic_gradient, features=x, labels=y)
    points, share = x[-2:], np.float32([1 - 1 / n, 1 / n])  # All but one are the same.
    plain = jax.grad(lambda theta: share @ jax.nn.softplus(-points @ theta))
    assert int(until_separated(normalized, 10.0)) == steps[0]
    assert int(until_separated(normalized, 100.0)) == 3
    assert int(until_separated(plain, 100.0)) == pytest.approx(steps[1], rel=0.01)


def test_normalized_gradient_where_all_is_classified():
    x, y = np.float32([[1.0, 0.0], [0.0, 2.0]]), np.int8([1, -1])
    theta = np.float32([500.0, -400.0])  # Sigmoids of -500 and -800 are zero.
    found = optim.normalized_logistic_gradient(theta, x, y)
    np.testing.assert_allclose(found, [-1.0, 0.0])
    # The batch perceptron is the limit of large steps.
    x, y = normal(0, 30, 4), np.sign(normal(1, 30))
    theta = 1e4 * normal(2, 4)
    wrong = y * (x @ theta) < 0
    weight = np.mean(jax.nn.sigmoid(-y * (x @ theta)))
    np.testing.assert_allclose(
        weight * optim.normalized_logistic_gradient(theta, x, y),
        -np.mean(wrong[:, None] * y[:, None] * x, 0),
        atol=1e-4,
    )


# Noise scale and batch sizes.


def test_noise_scale_of_a_quadratic():
    # Loss |A(w - x)|^2 / 2 with x ~ N(0, 1): gradient H(w - x), noise H^2.
    d, parts, b, steps = 6, 4, 8, 400
    h = np.diag(np.linspace(0.5, 2.0, d)).astype(np.float32)
    w = np.full(d, 0.3, np.float32)
    true = float(np.trace(h @ h) / np.sum((h @ w) ** 2))
    tx = optim.gradient_noise_scale(0.995)

    def step(state, key):
        x = jax.random.normal(key, (parts, b, d))
        mean, micro = optim.micro_gradients((w[None] - x.mean(1)) @ h, size=b)
        _, state = tx.update(mean, state, micro=micro)
        return state, None

    keys = jax.random.split(jax.random.key(0), steps)
    state, _ = jax.jit(partial(jax.lax.scan, step))(tx.init(w), keys)
    found = optim.noise_scale(state)
    assert float(found.noise_scale) == pytest.approx(true, rel=0.1)
    assert float(found.variance) == pytest.approx(np.trace(h @ h), rel=0.05)
    assert optim.state_bytes(tx, w) == 16
    raw = optim.noise_scale((state, optax.EmptyState()), debias=False)
    share = 1 - 0.995**steps
    np.testing.assert_allclose(raw.variance / found.variance, share, rtol=1e-4)
    negative = state._replace(square_norm=-state.square_norm)
    assert np.isnan(optim.noise_scale(negative).noise_scale)
    assert optim.noise_scale(negative, floor=1e-8).noise_scale > 0


def test_noise_scale_of_devices_is_that_of_micro_batches():
    w, x = normal(0, 5), normal(1, 8, 4, 5)

    def loss(w, x):
        return jnp.mean(jnp.sum(jnp.tanh(x * w[None]), -1))

    def gradient(w, x):
        return optim.micro_gradients(
            jax.grad(loss)(optim.parallel.vary(w, "data"), x[0]), 4, axis_name="data"
        )[0:2]

    mesh = optim.parallel.data_mesh()
    of_devices = jax.jit(
        jax.shard_map(
            lambda w, x: jax.tree.map(jnp.asarray, gradient(w, x)),
            mesh=mesh,
            in_specs=(P(), P("data")),
            out_specs=P(),
        )
    )
    parts = jax.vmap(jax.grad(loss), (None, 0))(w, x)
    expected = optim.micro_gradients(parts, 4)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), of_devices(w, x), expected)


def test_noise_scale_in_a_chain_does_not_recompile():
    tx, traces = optax.chain(optim.gradient_noise_scale(), optax.adam(0.1)), []
    w = jnp.ones(3)

    @jax.jit
    def step(w, state, gradients):
        traces.append(1)
        mean, micro = optim.micro_gradients(gradients, size=2)
        updates, state = tx.update(mean, state, w, micro=micro)
        return optax.apply_updates(w, updates), state

    state = jax.jit(tx.init)(w)
    for seed in range(3):
        w, state = step(w, state, normal(seed, 4, 3))
    assert len(traces) == 1


def sizes(g, **options):
    eta = {"theta": 0.3, "nu": 0.2}
    return (
        optim.batch_size.norm_test(g, 0.2, **options),
        optim.batch_size.inner_product_test(g, eta["theta"], **options),
        optim.batch_size.orthogonality_test(g, eta["nu"], **options),
        optim.batch_size.augmented_test(g, **eta, **options),
    )


def test_batch_sizes_by_their_definitions():
    tree = {"a": normal(0, 24, 3, 2) + 0.2, "b": 2 * normal(1, 24, 4)}
    flat = np.concatenate([tree["a"].reshape(24, -1), tree["b"]], 1).astype(float)
    mean = flat.mean(0)
    square, products = mean @ mean, flat @ mean
    residuals = flat - np.outer(products, mean) / square
    variances = [flat.var(0, ddof=1).sum(), products.var(ddof=1), residuals.var(0, ddof=1).sum()]
    wanted = [
        variances[0] / 0.2**2 / square,
        variances[1] / 0.3**2 / square**2,
        variances[2] / 0.2**2 / square,
    ]
    wanted = [max(24, int(np.ceil(x))) for x in wanted]
    wanted.append(max(wanted[1:]))
    assert len(set(wanted)) >= 3
    whole = jax.jit(sizes)(tree)
    assert [int(r.size) for r in whole] == wanted
    for result, variance in zip(whole, variances, strict=False):
        np.testing.assert_allclose(result.variance, variance, rtol=1e-5)
    # Parts on an axis are one batch.
    parts = jax.tree.map(lambda x: x.reshape(4, 6, *x.shape[1:]), tree)
    merged = jax.jit(jax.vmap(partial(sizes, axis_name="parts"), axis_name="parts"))(parts)
    assert [int(r.size[0]) for r in merged] == wanted
    rounded = partial(jax.jit, static_argnames=("power_of_two", "maximum"))(sizes)
    powers = [int(r.size) for r in rounded(tree, power_of_two=True)]
    assert powers == [2 ** int(np.ceil(np.log2(x))) for x in wanted]
    capped = [int(r.size) for r in rounded(tree, power_of_two=True, maximum=100)]
    assert capped == [min(x, 64) for x in powers]
    still = jax.tree.map(np.zeros_like, tree)
    assert [int(r.size) for r in rounded(still, power_of_two=True, maximum=100)] == [64] * 4


def test_batch_size_of_unit_noise():
    # |w - x|^2 / 2 with x ~ N(0, 1): the norm test wants d / (eta^2 |w|^2).
    d, w = 10, np.full(10, 2.0, np.float32)
    g = w[None] - normal(0, 20000, d)
    result = jax.jit(lambda g: optim.batch_size.norm_test(g, 0.002))(g)
    assert int(result.size) == pytest.approx(d / (0.002**2 * np.sum(w**2)), rel=0.05)


# Error feedback.


def workers(n, d, seed=0):
    """Hessians whose smoothness differs by worker, and the constants of EF21."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, d, d))
    a = np.einsum("nij,nkj->nik", a, a) * np.geomspace(0.1, 3.0, n)[:, None, None]
    each = np.array([np.linalg.eigvalsh(x)[-1] for x in a])
    return a, each, np.linalg.eigvalsh(a.mean(0))[-1]


def descend(a, x, compressor, gamma, steps, weights=None, **options):
    tx = optim.error_feedback(compressor, weights=weights, axis_name="workers", **options)
    update = jax.vmap(tx.update, axis_name="workers", out_axes=(None, 0))

    def step(carry, _):
        x, state = carry
        mean, state = update(a @ x, state)
        return (x - gamma * mean, state), jnp.linalg.norm(a.mean(0) @ x)

    state = jax.vmap(tx.init)(jnp.zeros((len(a), len(x))))
    (x, state), norms = jax.jit(lambda c: jax.lax.scan(step, c, length=steps))((x, state))
    return x, norms, state


def test_weighted_error_feedback_is_the_plain_one_for_top_k():
    with jax.enable_x64(True):
        a, each, smooth = workers(4, 6)
        x = np.ones(6)
        for compressor, same in (
            (optim.compressors.top_k(2), True),
            (optim.compressors.natural(), False),  # Not homogeneous.
        ):
            alpha = optim.compressors.contraction(compressor, x)
            gamma = optim.ef21_step_size(smooth, each, alpha)
            plain, norms, _ = descend(a, x, compressor, gamma, 100)
            weighted, _, _ = descend(a, x, compressor, gamma, 100, weights=each)
            assert bool(np.abs(plain - weighted).max() < 1e-14) is same
            assert norms[-1] < 0.9 * norms[0]


def test_weights_allow_a_longer_step():
    each = np.array([1.0] * 19 + [100.0])
    steps = [optim.ef21_step_size(each.mean(), each, 0.2, weighted=w) for w in (False, True)]
    np.testing.assert_allclose(steps, [0.0051, 0.0177], atol=5e-5)
    a = each[:, None, None] * np.eye(5)[None].astype(np.float32)
    a = a.astype(np.float32)
    top = optim.compressors.top_k(1)
    slow = descend(a, jnp.ones(5), top, steps[0], 100)[1]
    fast = descend(a, jnp.ones(5), top, steps[1], 100, weights=each)[1]
    assert fast[30] < 0.1 * slow[30]


@pytest.mark.parametrize("seed", [0])
def test_compressors_contract(seed):
    x = normal(seed, 6, 5) * np.exp(normal(seed + 9, 6, 5))
    keys = jax.random.split(jax.random.key(seed), 400)
    for compressor in (
        optim.compressors.top_k(4),
        optim.compressors.rand_k(0.2),
        optim.compressors.natural(),
        optim.compressors.natural(stochastic=True),
    ):
        sent = jax.jit(jax.vmap(compressor.compress, (0, None)))(keys, x)
        error = np.mean(np.sum(np.square(sent - x[None]), (1, 2))) / np.sum(np.square(x))
        assert error <= (1 - compressor.alpha(x.size)) * 1.1
    kept = np.count_nonzero(optim.compressors.rand_k(0.2).compress(keys[0], x))
    assert kept == 6
    np.testing.assert_allclose(np.mean(sent, 0), 8 / 9 * x, rtol=0.15)


def test_compressors_by_hand():
    key = jax.random.key(0)
    x = np.float32([3.0, -3.0, 1.0, 0.0, 2.9, -0.75, 1e-20])
    np.testing.assert_array_equal(
        optim.compressors.natural().compress(key, x), [4, -4, 1, 0, 2, -1, 2.0**-67]
    )
    top = optim.compressors.top_k(1).compress(key, x)  # Of equal ones the first.
    np.testing.assert_array_equal(top, [3, 0, 0, 0, 0, 0, 0])
    count = partial(optim.compressors.communicated_floats, params={"a": x, "b": x[:2]})
    assert count(optim.compressors.top_k(3), steps=3) == 9 + 2 * (6 + 4)
    assert count(optim.compressors.natural(), steps=4, start="zeros") == 4 * 9 * 9 / 32
    assert count(optim.compressors.rand_k(0.1), steps=2, start="zeros") == 2 * (2 + 2)


def test_error_feedback_on_devices_is_that_of_a_vmap():
    a, each, _ = workers(8, 6)
    a = a.astype(np.float32)
    compressor = optim.compressors.rand_k(2)
    expected, _, last = descend(a, jnp.ones(6), compressor, 0.01, 5, weights=each)
    tx = optim.error_feedback(compressor, weights=each, axis_name="data")

    def run(a, x):
        state = tx.init(optim.parallel.vary(x, "data"))
        for _ in range(5):
            mean, state = tx.update(a[0] @ x, state)
            x = x - 0.01 * mean
        return x, state.estimate[None]

    mapped = jax.shard_map(
        run, mesh=optim.parallel.data_mesh(), in_specs=(P("data"), P()), out_specs=(P(), P("data"))
    )
    x, estimates = jax.jit(mapped)(a, jnp.ones(6))
    np.testing.assert_allclose(x, expected, atol=1e-5)
    np.testing.assert_allclose(estimates, last.estimate, atol=1e-4)


# AdaGrad-Norm.


def test_adagrad_norm_is_one_step_size():
    params, grads = {"a": normal(0, 3, 2), "b": normal(1, 4)}, {"a": normal(2, 3, 2), "b": None}
    tx = optim.adagrad_norm(0.5, initial_accumulator_value=0.2, weight_decay=0.1)
    state, square = tx.init(params), 0.2
    assert optim.state_bytes(tx, params) == 4
    for _ in range(3):
        updates, state = tx.update(grads, state, params)
        square += np.sum(grads["a"] ** 2)
        expected = -0.5 * (grads["a"] / np.sqrt(square) + 0.1 * params["a"])
        np.testing.assert_allclose(updates["a"], expected, rtol=1e-5)
        assert updates["b"] is None


def test_one_model_per_device():
    """A scan of steps under shard_map, with states that are each device's own."""
    tx = optax.chain(
        optim.gradient_noise_scale(),
        optim.error_feedback(optim.compressors.top_k(2)),
        optim.orthograd(optim.adagrad_norm(0.1)),
    )

    def train(params, grads):
        micro = optim.MicroGradients(2 * jnp.sum(grads * grads), 2, 4)

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(grads, state, params, micro=micro)
            return (params + updates, state), None

        (params, state), _ = jax.lax.scan(step, (params, tx.init(params)), length=3)
        return params, optim.noise_scale(state).variance

    def alone(*trees):
        return jax.tree.map(lambda x: x[None], train(*(x[0] for x in trees)))

    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    pair = normal(0, 8, 3, 2), normal(1, 8, 3, 2)
    mapped = jax.shard_map(alone, mesh=mesh, in_specs=P("d"), out_specs=P("d"))
    got, expected = jax.jit(lambda p, g: (mapped(p, g), jax.vmap(train)(p, g)))(*pair)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, expected)


# State and compilations.

LABELLED = np.float32([[1.0, 0.5], [-0.5, 0.1]]), np.float32([1.0, -1.0])
DIRECTION = optim.project_scale_invariant(optax.identity(), weight_decay=optax.constant_schedule(1))
STATES = {  # Bytes beside the two float32 parameters of a solver.
    "orthograd": (optim.orthograd(), 0),
    "cautious_weight_decay": (optim.cautious_weight_decay(0.1), 0),
    "cautious_weight_decay, schedule": (optim.cautious_weight_decay(lambda _: 0.1), 4),
    "cautious_decay": (optim.cautious_decay(optax.sgd(1.0), 1.0, 0.1), 0),
    "project_scale_invariant, schedule": (DIRECTION, 4),
    "adagrad_norm": (optim.adagrad_norm(0.1), 4),
    "gradient_noise_scale": (optim.gradient_noise_scale(), 16),
    "error_feedback": (optim.error_feedback(optim.compressors.top_k(1), start="zeros"), 8 + 4),
    "normalized_gradient_descent": (optim.normalized_gradient_descent(0.1), 8),
    "greedy_bcd": (optim.greedy_bcd(lambda x, _: x @ x, 1, np.eye(2)), 8 + 4),
    "greedy_bcd, adaptive": (optim.greedy_bcd(lambda x, _: x @ x, 1, step="adaptive"), 16 + 4),
}


@pytest.mark.parametrize("name", STATES)
def test_state_bytes_and_one_compilation(name):
    made, wanted = STATES[name]
    params, traces = jnp.float32([1.0, -2.0]), []

    @jax.jit
    def step(state, x):
        traces.append(1)
        if isinstance(made, optim.Solver):
            return made.step(state, LABELLED)[0]
        micro = optim.MicroGradients(jnp.sum(2 * x * x), jnp.float32(2), jnp.float32(4))
        tx = optax.with_extra_args_support(made)
        return tx.update(x, state, params, micro=micro)[1]

    state = jax.jit(made.init)(params)
    assert sum(x.nbytes for x in jax.tree.leaves(state)) == wanted
    for scale in (1.0, 2.0, 3.0):
        state = step(state, scale * params)
    assert len(traces) == 1


# Bad input.

TOP = optim.compressors.top_k(1)
X, G = jnp.ones(2), jnp.ones((3, 2))
BAD = [
    (lambda: optim.orthograd(3), "inner must be an optax.GradientTransformation, got 3"),
    (lambda: optim.orthograd(guard=1.0), "guard must be in [0, 1), got 1.0"),
    (lambda: optim.orthograd().update(X, optax.EmptyState()), "params must be passed"),
    (lambda: optim.losses.log_stablemax(np.arange(3)), "logits must be floating-point, got int32"),
    (lambda: optim.scaling.step_law(-1, 1e9), "n_params must be > 0, got -1"),
    (lambda: optim.cautious_weight_decay(-1.0), "weight_decay must be >= 0, got -1.0"),
    (lambda: optim.cautious_weight_decay(1.0, strict=1), "strict must be True or False, got 1"),
    (lambda: optim.cautious_decay(optax.scale_by_adam(), 1.0, 0.1), "inner must be a whole opti"),
    (lambda: optim.cautious_decay(optax.sgd(1), 1.0, 0.1, decay_power=-1), "decay_power must be"),
    (lambda: optim.normalized_gradient_descent(optax.trace(0.9)), "learning_rate must be a whole"),
    (lambda: optim.normalized_logistic_gradient(X, G, jnp.zeros(3)), "labels must be 1 or -1, got"),
    (lambda: optim.normalized_logistic_gradient(X, G, X), "features must have shape (2, 2)"),
    (lambda: optim.gradient_noise_scale(1.0), "beta must be in [0, 1), got 1.0"),
    (lambda: optim.gradient_noise_scale().update(X, None), "gradient_noise_scale needs micro="),
    (lambda: optim.micro_gradients(G[:1], 4), "at least 2 parts of the batch, got 1"),
    (lambda: optim.micro_gradients([X, G], 4), "the same leading axis of parts, got lengths"),
    (lambda: optim.noise_scale(optax.EmptyState()), "one state of gradient_noise_scale, got 0"),
    (lambda: optim.batch_size.norm_test(G, 0.0), "eta must be > 0, got 0.0"),
    (lambda: optim.batch_size.norm_test(G[:1]), "the same >= 2 examples in all leaves, got"),
    (lambda: optim.batch_size.norm_test(G, merge="mean"), "merge must be one of exact, authors"),
    (lambda: optim.batch_size.augmented_test(G, maximum=0), "maximum must be an integer >= 1"),
    (lambda: optim.compressors.top_k(0), "k must be an integer >= 1, got 0"),
    (lambda: optim.compressors.rand_k(1.0), "k must be in (0, 1), got 1.0"),
    (lambda: optim.error_feedback("top_k"), "compressor must be one of optim.compressors, got"),
    (lambda: optim.error_feedback(TOP, weights=[1.0, -1.0]), "weights must be > 0"),
    (lambda: optim.error_feedback(TOP, start="none"), "start must be one of gradient, zeros"),
    (lambda: optim.ef21_step_size(1.0, [1.0], 0.0), "alpha must be in (0, 1], got 0.0"),
    (lambda: optim.adagrad_norm(0.1, eps=-1.0), "eps must be >= 0, got -1.0"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_names_the_argument_the_value_and_the_range(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_weights_must_be_as_many_as_workers():
    tx = optim.error_feedback(TOP, weights=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"one number for each of the 1 workers, got shape \(3,\)"):
        tx.update(X, tx.init(X))
