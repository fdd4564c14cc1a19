"""NaN that must be seen, numbers too large or small to be squared, leaves that are no jax array."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optim

W = np.float32([[1.0, -2.0], [0.5, 3.0]])
G = np.float32([[0.3, 0.1], [-0.2, 0.4]])
svd = optim.kappas.spectral("svd")

HIDE = {
    "cautious": optim.cautious(optax.adam(0.1)),
    "cautious direction": optim.cautious(optax.scale_by_adam(), direction=True, rescale=True),
    "orthograd": optim.orthograd(optax.sgd(0.1)),
    "orthograd as the authors": optim.orthograd(guard=0.0, rescale=False),
    "dead zone": optim.lion_k(0.1, optim.kappas.dead_zone(0.01)),
    "spectral": optim.lion_k(0.1, svd),
    "adagrad norm": optim.adagrad_norm(0.1),
}


@pytest.mark.parametrize("name", HIDE)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_that_is_no_number_is_seen(name, value):
    """Replaced by a zero it would stop the training of its leaf, or of its scale, in silence."""
    if value == np.inf and name == "dead zone":
        return  # The sign of infinity is one.
    tx, grads = HIDE[name], {"a": np.where(W > 2, np.float32(value), G), "b": G}
    params = {"a": W, "b": W}
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(grads, state, params)
    assert np.isnan(updates["a"]).any()
    assert np.isnan(updates["b"]).any() == (name == "adagrad norm" and np.isnan(value))


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_orthograd_has_no_scale(scale):
    tx = optim.orthograd()
    want, _ = tx.update(G, tx.init(W), W)
    got, _ = tx.update(np.float32(scale) * G, tx.init(W), W)
    np.testing.assert_allclose(got / np.float32(scale), want, rtol=1e-5)


def test_the_matrix_sign_has_no_scale():
    sign = optim.kappas.spectral().grad
    np.testing.assert_allclose(sign(np.float32(1e-25) * W), sign(W), rtol=1e-5)


def test_a_product_of_rates_in_sixteen_bits_is_not_zero():
    rate = np.float16(1e-4)
    tx = optim.cautious_decay(optax.sgd(0.0), rate, 1e4, decay_power=2)
    updates, _ = tx.update(G, tx.init(W), W)
    np.testing.assert_allclose(updates, -(float(rate) ** 2) * 1e4 * W, rtol=1e-3)


def test_derivatives_through_steps_of_zero_gradients():
    """Of a square root at 0 they would be infinite, and a scan multiplies that by zero."""
    steps = [
        optim.orthograd(optax.sgd(0.1)),
        optim.adagrad_norm(0.1, initial_accumulator_value=0.0),
        optax.chain(optim.record_norms(3), optax.sgd(0.1)),
    ]

    def trained(scale):
        def step(carry, _):
            params, states = carry
            grads = [scale * jax.nn.relu(p - 5.0) for p in params]
            pairs = [
                tx.update(g, s, p) for tx, g, s, p in zip(steps, grads, states, params, strict=True)
            ]
            params = [p + u for p, (u, _) in zip(params, pairs, strict=True)]
            return (params, [s for _, s in pairs]), None

        params = [scale * jnp.asarray(W) for _ in steps]
        carry = params, [tx.init(p) for tx, p in zip(steps, params, strict=True)]
        (params, _), _ = jax.lax.scan(step, carry, length=3)
        return jnp.stack([jnp.sum(p) for p in params])

    # The gradients are zero, so the weights stay.
    np.testing.assert_allclose(jax.jit(jax.jacfwd(trained))(1.0), W.sum(), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.jacrev(trained))(1.0), W.sum(), rtol=1e-6)


LEAVES = {
    "adamp": optim.adamp(0.1),
    "adagrad norm": optim.adagrad_norm(0.1),
    "cautious": optim.cautious(optax.sgd(0.1), rescale=True),
    "cautious decay": optim.cautious_decay(optax.sgd(0.1), 0.1, 0.1),
    "diffgrad": optim.diffgrad(0.1, weight_decay=0.1),
    "error feedback": optim.error_feedback(optim.compressors.top_k(np.float32(0.5))),
    "frugal": optim.frugal(0.1, projectable=True, subspace="columns"),
    "lion": optim.lion(0.1),
    "lion joint": optim.lion_k(0.1, optim.kappas.over_tree(optim.kappas.top_k(2))),
    "masked update": optim.masked_update(optax.adamw(0.1)),
    "momentum": optim.scale_by_momentum(),
    "orthograd": optim.orthograd(optax.sgd(0.1)),
    "sgdp": optim.sgdp(0.1),
}


@pytest.mark.parametrize("name", LEAVES)
def test_leaves_of_python_and_numpy_and_none_at_all(name):
    """float64 of numpy is float32 to jax; nothing warns of it."""
    tx = LEAVES[name]
    trees = [{"w": W.astype(np.float64)}, {}]
    if name != "frugal":  # A subspace needs axes.
        trees.append({"w": W, "x": 2.0, "y": np.float64(-1.0)})
    for params in trees:
        grads = jax.tree.map(lambda p: 0.5 * p, params)
        updates, _ = tx.update(grads, tx.init(params), params)
        as_jax = jax.tree.map(jnp.asarray, params)
        want, _ = tx.update(jax.tree.map(jnp.asarray, grads), tx.init(as_jax), as_jax)
        jax.tree.map(np.testing.assert_array_equal, updates, want)
        assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(updates))


def test_no_array_of_a_first_state_is_there_twice():
    """A buffer cannot be donated twice, and the parameters are the user's."""
    more = {
        "badam": optim.badam(0.1, projectable=True),
        "noise scale": optim.gradient_noise_scale(),
        "record": optim.record_norms(3),
        "start": optim.scale_by_momentum(start="params"),
        "masks": optim.masked_update(optax.sgd(0.1), {"w": jnp.ones((2, 2), bool)}),
    }
    params = {"w": jnp.asarray(W)}
    for name, tx in {**LEAVES, **more}.items():
        arrays = [*jax.tree.leaves(tx.init(params)), params["w"]]
        assert len({id(x) for x in arrays}) == len(arrays), name
    zo = optim.zeroth_order
    for solver in (
        zo.rank_sgd(zo.by_value(lambda w, _: jnp.sum(w["w"] ** 2))),
        zo.conservative(lambda w, _: jnp.sum(w["w"] ** 2), optax.adam(0.1)),
        zo.mezo(lambda w, _: jnp.sum(w["w"] ** 2), 0.1),
    ):
        arrays = jax.tree.leaves(solver.init(params, jax.random.key(0)))
        assert len({id(x) for x in arrays}) == len(arrays)


def test_rates_that_eight_bits_round_to_one():
    """As under ``optax.inject_hyperparams`` for a leaf of float8."""
    rate = jnp.asarray(0.999, jnp.float8_e4m3fn)
    assert rate == 1
    updates, _ = optim.adamp(0.1, b2=rate).update(G, optim.adamp(0.1).init(W), W)
    assert np.isfinite(updates).all()


def test_wrappers_around_what_optax_takes_for_a_transformation():
    every_second = optax.MultiSteps(optax.sgd(0.1), 2)
    for wrap in (
        optim.cautious,
        optim.orthograd,
        lambda inner: optim.cautious_decay(inner, 0.1, 0.0),
    ):
        tx = wrap(every_second)
        first, state = tx.update(G, tx.init(W), W)
        assert not np.any(first)
        assert np.any(tx.update(G, state, W)[0])
    for make in (optim.cautious, optim.masked_update, lambda tx: optim.state_bytes(tx, W)):
        with pytest.raises(ValueError, match=r"must be an optax\.GradientTransformation, got "):
            make(optax.MultiSteps)
