"""Masks that change during training: exchanges, ramps, what is said of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel
from bilevel import masks
from bilevel.pruning import problem

RNG = np.random.default_rng(0)
PARAMS = {
    "hidden": {"kernel": RNG.standard_normal((6, 16)).astype(np.float32) / 2},
    "head": {"kernel": RNG.standard_normal((16, 3)).astype(np.float32) / 4},
}
BATCH = (RNG.standard_normal((32, 6)), RNG.standard_normal((32, 3)))


def loss(params, batch):
    hidden = jnp.tanh(batch[0] @ params["hidden"]["kernel"])
    return jnp.mean((hidden @ params["head"]["kernel"] - batch[1]) ** 2)


PROBLEM = problem(loss)


def changed(a, b):
    pairs = zip(*map(jax.tree.leaves, (a, b)), strict=True)
    return any(bool((x != y).any()) for x, y in pairs)


def numpy_exchange(mask, w, g, fraction):
    k = int(np.ceil(fraction * mask.sum()))
    left = mask.copy()
    live = np.flatnonzero(mask)
    left.ravel()[live[np.argsort(np.abs(w).ravel()[live], kind="stable")[:k]]] = False
    dead = np.flatnonzero(~left)
    left.ravel()[dead[np.argsort(np.abs(g).ravel()[dead], kind="stable")[::-1][:k]]] = True
    return left


def test_an_exchange_follows_the_gradient_and_keeps_each_layers_count():
    half = masks.from_scores(bilevel.criteria.magnitude(PARAMS), 0.5)
    given = bilevel.Exchange(every=2, steps=6, fraction=0.4, last=0.1)
    solver = bilevel.sparse_training(optax.sgd(0.1, momentum=0.9), exchange=given)
    state, step = solver.init(PROBLEM, half, PARAMS), jax.jit(solver.step)
    plain = jax.jit(bilevel.sparse_training(optax.sgd(0.1, momentum=0.9)).step)
    for t in range(1, 9):
        grads = jax.grad(loss)(state.y, BATCH)
        trained, _ = plain(state, BATCH)
        before, (state, _) = state, step(state, BATCH)
        moved = t % 2 == 0 and t <= 6
        fraction = 0.1 + 0.15 * (1 + np.cos(np.pi * t / 6)) if moved else 0.0
        leaves = map(jax.tree.leaves, (before.masks, trained.y, grads, state.masks, state.y))
        for old, w, g, new, now in zip(*leaves, strict=True):
            want = numpy_exchange(np.asarray(old), np.asarray(w), np.asarray(g), fraction)
            assert np.array_equal(new, want)
            assert np.asarray(new).sum() == np.asarray(old).sum()
            assert np.array_equal(now, np.where(new, np.where(old, w, 0), 0))  # What enters is 0.
        if moved:
            assert changed(before.masks, state.masks)
            after, _ = step(state, BATCH)
            grown = jax.tree.map(lambda new, old: new & ~old, state.masks, before.masks)
            trace = after.opt.inner_state[0].trace
            grads = jax.grad(loss)(state.y, BATCH)
            for m, v, g in zip(*map(jax.tree.leaves, (grown, trace, grads)), strict=True):
                np.testing.assert_allclose(np.asarray(v)[m], np.asarray(g)[m], rtol=1e-4)
    assert step._cache_size() == 1


def after(solver, steps):
    state, step = solver.init(PROBLEM, None, PARAMS), jax.jit(solver.step)
    for _ in range(steps):
        state, _ = step(state, BATCH)
    return state


def test_granet_cuts_before_it_exchanges():
    ramp = bilevel.Gradual(0.2, start=0, updates=3, every=2)
    solver = bilevel.sparse_training(0.1, gradual=ramp, exchange=bilevel.Exchange(2, 6, 0.5, 0.0))
    found = bilevel.solve(PROBLEM, solver, None, PARAMS, batch=BATCH, steps=8, steps_per_call=1)
    want = [1.0] + [float(bilevel.density.cubic(t, 0.2, start=0, updates=3, every=2))
                    for t in range(2, 9)]  # fmt: skip
    np.testing.assert_allclose(found.metrics["density"], want, atol=1.01 / 144)
    alone = bilevel.sparse_training(0.1, gradual=ramp, exchange=bilevel.Exchange(2, 6, 0.0, 0.0))
    cut, both, trained = (after(s, 2) for s in (alone, solver, bilevel.sparse_training(0.1)))
    assert changed(cut.masks, both.masks)
    drop = 144 - int(masks.count(cut.masks))
    ranked = masks.from_counts(trained.y, drop)
    for a, b in zip(*map(jax.tree.leaves, (cut.masks, ranked)), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("options", [
    {"every": 0, "steps": 4}, {"every": 2, "steps": 1}, {"every": 1, "steps": 4, "fraction": 1.5},
    {"every": 1, "steps": 4, "last": -0.1},
])  # fmt: skip
def test_exchanges_outside_their_ranges(options):
    with pytest.raises(ValueError, match=r"exchange\.(every|steps|fraction|last) must be"):
        bilevel.sparse_training(0.1, exchange=bilevel.Exchange(**options))


def test_a_ramp_that_has_not_ended_is_said_at_the_end_of_a_run():
    ramp = bilevel.Gradual(0.5, start=1, updates=3, every=4)
    solver = bilevel.sparse_training(0.1, gradual=ramp)
    text = "the ramp to density 0.5 has not ended: its last change is at step 13, and 13 steps"
    with pytest.warns(UserWarning, match=text):
        found = bilevel.solve(PROBLEM, solver, None, PARAMS, batch=BATCH, steps=13)
    with pytest.warns(UserWarning, match=text):
        solver.export(found.state)
    whole = bilevel.solve(PROBLEM, solver, None, None, state=found.state, batch=BATCH, steps=14)
    assert solver.doubts(whole.state) == ()
    empty = {"hidden": {"kernel": np.zeros((6, 16), bool)}, "head": {"kernel": np.ones((16, 3))}}
    with pytest.warns(UserWarning, match="no weight is left in hidden/kernel"):
        bilevel.solve(PROBLEM, bilevel.sparse_training(0.1), empty, PARAMS, batch=BATCH, steps=2)


def test_tied_leaves_are_said():
    shared = jnp.ones((4, 4)).at[0, 0].set(2.0)
    with pytest.warns(UserWarning, match=r"first/kernel and last/kernel are one array \(tied\)"):
        masks.prunable({"first": {"kernel": shared}, "last": {"kernel": shared}})
    jax.jit(masks.prunable)({"first": {"kernel": shared}, "last": {"kernel": shared}})


def test_features_and_labels_are_no_pair_of_batches():
    features, labels = np.ones((8, 6), np.float32), np.ones(8, np.float32)
    solver = bilevel.bip(0.1, 1.0, 0.5)
    with pytest.raises(ValueError, match=r"Of features and labels make \(\(X, y\), \(X, y\)\)"):
        solver.step(solver.init(PROBLEM, None, PARAMS), (features, labels))


def test_granet_refuses_what_is_no_number():
    mask = {"kernel": jnp.ones((2, 3), bool), "bias": None}
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.full(3, jnp.nan)}
    bilevel.granet(mask, params, params, 0.5, 0.1)
    bad = {"kernel": jnp.full((2, 3), jnp.nan), "bias": None}
    with pytest.raises(ValueError, match="grads must be numbers: kernel has 6 NaN"):
        bilevel.granet(mask, params, bad, 0.5, 0.1)
    with pytest.raises(ValueError, match="params must be numbers: kernel has 6 NaN"):
        bilevel.granet(mask, bad, params, 0.5, 0.1)
