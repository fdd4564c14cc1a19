"""Refined schedules against the reference arrays, and the recording of gradient norms."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from schedule_records import evaluate, load

import optim


@pytest.mark.fidelity
@pytest.mark.parametrize("x64", [False, True])
def test_refined_schedules_replay_the_reference(x64):
    z = load("refined_synth")
    checked = 0
    for key in z.files:
        case, *setting, last = key.split("/")
        tau = float(setting[0][3:]) if setting and setting[0].startswith("tau") else 0.0
        if last == "normalized":
            norms = z[f"{case}/norms"]
            multipliers = optim.refine(norms, norm=setting[-1], tau=tau)
            np.testing.assert_allclose(multipliers, z[key], rtol=0, atol=1e-12, err_msg=key)
            with jax.enable_x64(x64):
                schedule = optim.refined_schedule(2.0, norms, norm=setting[-1], tau=tau)
                values = evaluate(schedule, norms.size) / 2.0
            np.testing.assert_allclose(values, z[key], rtol=0, atol=1e-12 if x64 else 2e-6)
            assert values[-1] == 0
            checked += 1
        elif last == "smoothed":
            np.testing.assert_array_equal(optim.smooth_norms(z[f"{case}/norms"], tau), z[key])
            width = int(z[f"{case}/{setting[0]}/filter_width"])
            again = optim.smooth_norms(z[f"{case}/norms"], filter_width=width)
            np.testing.assert_array_equal(again, z[key])
            checked += 1
    assert checked > 15


@pytest.mark.fidelity
def test_the_bound_is_minimized_as_by_the_authors():
    z = load("refined_synth")
    norms, rates, objective = (z[f"lbfgs/{k}"] for k in ("norms", "lr", "objective"))
    assert optim.last_iterate_bound(rates, norms, z["lbfgs/D"])[0] == pytest.approx(
        float(objective), rel=1e-12
    )
    multipliers = optim.refine(norms, tau=0, method="bound")
    np.testing.assert_allclose(multipliers, rates / rates.max(), rtol=0, atol=1e-4)
    ours = optim.last_iterate_bound(multipliers * rates.max(), norms)[0]
    assert ours == pytest.approx(float(objective), rel=1e-6)
    # Other units and distances change the scale of the solution alone.
    np.testing.assert_allclose(
        optim.refine(1e3 * norms, tau=0, method="bound"), multipliers, atol=1e-5
    )


def test_gradient_of_the_bound():
    rng = np.random.default_rng(0)
    rates, norms = rng.uniform(0.5, 2, 7), rng.uniform(0.5, 2, 7)
    _, gradient = optim.last_iterate_bound(rates, norms, 1.5)
    for i, e in enumerate(1e-6 * np.eye(7)):
        up, down = (optim.last_iterate_bound(rates + s * e, norms, 1.5)[0] for s in (1, -1))
        assert gradient[i] == pytest.approx((up - down) / 2e-6, abs=1e-7)


def test_constant_norms_give_linear_decay_with_its_last_step_at_zero():
    np.testing.assert_allclose(optim.refine(np.full(50, 3.7)), np.arange(49, -1, -1) / 49)
    assert optim.refine([3.0]).tolist() == [1.0]


def test_smoothing_reflects_at_the_end_only():
    # Start: the first value repeated; end: 4, 5, then 4, 3 by reflection.
    np.testing.assert_array_equal(
        optim.smooth_norms([9.0, 1, 2, 3, 4, 5], filter_width=5), [9, 3, 3, 3, 4, 4]
    )


def test_zero_and_non_finite_norms():
    multipliers = optim.refine([1.0, 0.0, 1.0, 1.0], tau=0)
    assert np.isfinite(multipliers).all()
    assert multipliers.argmax() == 1
    # The floor is that of the smoothed norms, whose maximum is 1 here, not 1e9.
    spike = np.array([1.0] * 5 + [1e9] + [1.0] * 6 + [0.0] * 12)
    smoothed = np.maximum(optim.smooth_norms(spike, filter_width=3), 1e-12)
    np.testing.assert_array_equal(
        optim.refine(spike, filter_width=3), optim.refine(smoothed, tau=0)
    )
    norms = np.array([np.inf, 2.0, np.nan, 1.0, 3.0, -np.inf])
    with pytest.warns(UserWarning, match=r"dropped 3 of 6 gradient norms: not finite"):
        kept = optim.refine(norms, tau=0)
    np.testing.assert_array_equal(kept, optim.refine([2.0, 1.0, 3.0], tau=0))
    with pytest.warns(UserWarning, match="dropped 3 of 6"):
        schedule = optim.refined_schedule(1.0, norms, tau=0)  # Spread over the six steps again.
    values = schedule(jnp.arange(6))
    assert float(values[5]) == 0 < float(values[4])
    tiny, huge = optim.refine([1e-200, 2e-200]), optim.refine([1e200, 2e200])
    np.testing.assert_array_equal(tiny, huge)


def test_other_budgets_by_interpolation():
    norms = np.linspace(1, 2, 101)
    same = optim.refine(norms, tau=0)
    halved = optim.refined_schedule(1.0, norms, tau=0, decay_steps=51)(jnp.arange(51))
    np.testing.assert_allclose(halved, same[::2], atol=1e-2)
    with pytest.raises(ValueError, match="decay_steps must be an integer >= 1, got 0"):
        optim.refined_schedule(1.0, norms, decay_steps=0)


def test_a_recorder_per_device_under_shard_map():
    mesh = Mesh(np.array(jax.devices()), ("d",), axis_types=(AxisType.Auto,))
    tx = optim.record_norms(3)

    def train(grads):
        body = lambda state, _: (tx.update(grads, state)[1], None)  # noqa: E731
        return jax.lax.scan(body, tx.init(grads), length=2)[0].norms[None]

    mapped = jax.jit(jax.shard_map(train, mesh=mesh, in_specs=P("d"), out_specs=P("d")))
    norms = mapped(jnp.arange(16.0))
    expected = np.linalg.norm(np.arange(16.0).reshape(8, 2), axis=1)
    np.testing.assert_allclose(norms, np.outer(expected, [1, 1, 0]), rtol=1e-6)


def test_fit_of_warmup_and_polynomial_decay():
    for fraction, power in [(0.0, 1.5), (0.45, 0.8)]:
        t = np.arange(100.0)
        w = 100 * fraction
        curve = np.where(t < w, t / max(w, 1), ((100 - t) / (100 - w)) ** power)
        fitted = optim.fit_warmup_polynomial(curve)
        np.testing.assert_allclose(fitted, (fraction, power), atol=2e-3)


BAD = [
    (lambda: optim.refine([]), "grad_norms must have shape [T] with T >= 1, got (0,)"),
    (lambda: optim.refined_schedule(1.0, []), "grad_norms must have shape [T] with T >= 1"),
    (lambda: optim.refine(np.ones((2, 2))), "grad_norms must have shape [T] with T >= 1"),
    (lambda: optim.refine([0.0, 0.0]), "grad_norms must be >= 0 and not all zero, got 0 to 0"),
    (lambda: optim.refine([1.0, -1.0]), "grad_norms must be >= 0 and not all zero, got -1 to 1"),
    (lambda: optim.refine([0.0, 1.0, 0.0, 0.0], filter_width=3), "zero everywhere after smoothing"),
    (lambda: optim.refine([1.0], norm="L2"), "norm must be one of l2, l1, got 'L2'; nearest: l2"),
    (lambda: optim.refine([1.0], method="lbfgs"), "method must be one of closed_form, bound, got"),
    (lambda: optim.refine([1.0], norm="l1", method="bound"), "norm must be 'l2' with method"),
    (lambda: optim.refine([1.0], tau=1.5), "tau must be in [0, 1], got 1.5"),
    (lambda: optim.refine([1.0], filter_width=4), "filter_width must be odd and >= 1, got 4"),
    (lambda: optim.refine([1.0], num_steps=0), "num_steps must be an integer >= 1, got 0"),
    (lambda: optim.last_iterate_bound([1.0], [1.0, 2.0]), "learning_rates and grad_norms must"),
    (lambda: optim.last_iterate_bound([1.0, 0.0], [1.0, 2.0]), "learning_rates must be > 0, got 0"),
    (lambda: optim.fit_warmup_polynomial([1.0]), "multipliers must be at least 2 finite numbers"),
    (lambda: optim.record_norms(0), "num_steps must be an integer >= 1, got 0"),
    (lambda: optim.record_norms(5, "l3"), "norm must be one of l2, l1, got 'l3'"),
    (lambda: optim.recorded_norms(()), "state must hold one record_norms transform, got 0"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_names_the_argument_the_value_and_the_range(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
    with (
        pytest.warns(UserWarning, match="dropped 1 of 1"),
        pytest.raises(ValueError, match="no finite ones"),
    ):
        optim.refine([np.nan])


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_norms_are_global_resumable_and_stop_at_the_end(norm):
    rng = np.random.default_rng(1)
    gradients = [
        {
            "w": rng.normal(size=(8, 3)).astype(np.float32),
            "b": rng.normal(size=3).astype(np.float32),
        }
        for _ in range(4)
    ]
    order = 2 if norm == "l2" else 1
    flat = [np.concatenate([g["w"].ravel(), g["b"]]) for g in gradients]
    expected = [np.linalg.norm(f, order) for f in flat]

    mesh = optim.parallel.data_mesh()
    sharding = {"w": NamedSharding(mesh, P("data")), "b": NamedSharding(mesh, P())}
    tx = optax.chain(optim.record_norms(3, norm), optax.sgd(0.1))
    state = tx.init(gradients[0])
    update = jax.jit(tx.update)
    for i, g in enumerate(gradients):
        g = jax.device_put(g, sharding) if i else g
        out, state = (update if i else tx.update)(g, jax.tree.map(np.asarray, state))
        np.testing.assert_allclose(out["b"], -0.1 * gradients[i]["b"], rtol=1e-6)
        # As a checkpoint does: through numpy and back.
        state = jax.tree.map(np.asarray, state)
        seen = min(i + 1, 3)
        np.testing.assert_allclose(optim.recorded_norms(state), expected[:seen], rtol=1e-6)
    assert int(optax.tree.get(state, "norms").shape[0]) == 3


def test_norms_of_a_population_and_of_half_precision():
    tx = optim.record_norms(4)
    state = jax.vmap(tx.init)(jnp.zeros((2, 300)))
    with jax.numpy_dtype_promotion("strict"):
        halves = tx.init({"w": jnp.ones(3, jnp.bfloat16), "n": jnp.arange(2)})
        assert halves.norms.dtype == jnp.float32
    _, state = jax.vmap(tx.update)(jnp.ones((2, 300), jnp.bfloat16), state)
    np.testing.assert_allclose(optim.recorded_norms(state), np.full((2, 1), 300**0.5), rtol=1e-6)
