"""Evaluation takes place at the point that a method calls its result."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from experiments.supervised import averages, optimizers, training


def test_average_is_the_recursion():
    tx = optax.chain(optax.sgd(0.1), averages.average(0.8))
    params = {"w": jnp.array([1.0, 2.0])}
    state, mean = tx.init(params), np.array([1.0, 2.0])
    for i in range(4):
        updates, state = tx.update({"w": jnp.array([1.0, i])}, state, params)
        params = optax.apply_updates(params, updates)
        mean = 0.8 * mean + 0.2 * np.asarray(params["w"])
    np.testing.assert_allclose(averages.eval_params(state, params)["w"], mean, rtol=1e-6)


def test_lookahead_is_optaxs():
    """Its own form keeps two sets of parameters; this one has the slow weights in the state."""
    theirs = optax.lookahead(optax.adam(0.1), sync_period=3, slow_step_size=0.4)
    ours = averages.lookahead(optax.adam(0.1), 3, 0.4)
    start = {"w": jnp.array([1.0, -2.0])}
    both = optax.LookaheadParams.init_synced(start)
    state, their_state, params = ours.init(start), theirs.init(both), start
    for i in range(8):
        grads = {"w": jnp.array([np.sin(i), 0.5])}
        updates, state = ours.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        updates, their_state = theirs.update(grads, their_state, both)
        both = optax.apply_updates(both, updates)
        np.testing.assert_allclose(params["w"], both.fast["w"], rtol=1e-6)
        np.testing.assert_allclose(averages.eval_params(state, params)["w"], both.slow["w"], 1e-6)


def test_without_an_average_the_parameters_are_evaluated():
    params = {"w": jnp.ones(3)}
    state = optax.adamw(0.1).init(params)
    assert averages.eval_params(state, params) is params
    assert not averages.is_averaged(state)


def test_average_around_lookahead():
    tx = optax.chain(averages.lookahead(optax.sgd(1.0), 2, 0.5), averages.average(0.5))
    params = jnp.array([4.0])
    state = tx.init(params)
    updates, state = tx.update(jnp.array([2.0]), state, params)
    np.testing.assert_allclose(averages.eval_params(state, params + updates), [3.0])


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("schedule_free_adamw", {}),
        ("adamw", {"ema": 0.9}),
        ("sgd", {"lookahead": (5, 0.5)}),
        ("adamw", {}),
    ],
)
def test_the_supervised_job_evaluates_there(name, more):
    """Alone and in a population, against an evaluation of the average itself."""
    config = common.supervised()
    config.model.options = {"widths": (8,)}
    config.optimizer.name, config.optimizer.learning_rate = name, 0.05
    config.steps = 6
    with config.optimizer.unlocked():
        config.optimizer.update(more)
    job = training.job_of(config, None)
    state, _ = training.start(job, [config])
    index = next(iter(job.batches(0)(0)))
    batch = job.prepare(job.resident, index, jax.random.key(0))
    step = jax.jit(job.step)
    for _ in range(6):
        state, _ = step(state, batch)
    there = averages.eval_params(state.opt_state, state.params)
    plain = optax.sgd(0.1).init(there)  # A state without an average.
    expected = job.evaluate(state._replace(params=there, opt_state=plain), "valid")
    found = job.evaluate(state, "valid")
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-6)
    at_params = job.evaluate(state._replace(opt_state=plain), "valid")
    assert (abs(at_params["loss"] - found["loss"]) > 1e-4) == (name != "adamw" or bool(more))
    two = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    for vmap in (False, True):
        losses = job.evaluate(two, "valid", None, vmap)["loss"]
        np.testing.assert_allclose(losses, [found["loss"]] * 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ema", 1.0, "optimizer.ema must be"),
        ("lookahead", (0, 0.5), "optimizer.lookahead"),
        ("lookahead", (5, 0.0), "optimizer.lookahead"),
    ],
)
def test_bad_averages(key, value, message):
    config = common.supervised()
    with config.optimizer.unlocked():
        config.optimizer[key] = value
    with pytest.raises(ValueError, match=message):
        optimizers.build(config, 10).init({"w": jnp.ones(2)}, 0.1, 0.0)
