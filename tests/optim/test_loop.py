"""The loop: one device, many devices, many runs, the same numbers; and what stops it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

import optim
from optim.loop import NonFiniteError, run

FEATURES, CLASSES, BATCH = 12, 4, 32


def examples(seed=0, n=256):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, FEATURES)).astype(np.float32)
    return {"x": x, "y": rng.integers(0, CLASSES, n).astype(np.int32)}


def order(seed=0, n=256, batch=BATCH):
    def batches(start):
        for t in itertools.count(start):
            yield np.random.default_rng((seed, t)).integers(0, n, batch)

    return batches


def gather(data, index, key):
    noise = 0.01 * jax.random.normal(key, (index.shape[0], FEATURES))
    return {"x": data["x"][index] + noise, "y": data["y"][index]}


TX = optax.sgd(0.3, momentum=0.9)


def mean_loss(params, batch):
    logits = batch["x"] @ params["w"] + params["b"][None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def make_step(axis_name=None):
    value_and_grad = optim.parallel.value_and_grad(mean_loss, axis_name=axis_name)

    def step(state, batch):
        params, opt_state = state
        loss, grads = value_and_grad(params, batch)
        updates, opt_state = TX.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), {"loss": loss}

    return step


STEP = make_step()


def init(seed=0):
    w = 0.1 * jax.random.normal(jax.random.key(seed), (FEATURES, CLASSES))
    params = {"w": w, "b": jnp.zeros(CLASSES)}
    return params, TX.init(params)


def trained(steps=20, **kwargs):
    rows = []
    kwargs = {"key": jax.random.key(1), "data": examples(), "prepare": gather, **kwargs}
    step = kwargs.pop("step", STEP)
    state = kwargs.pop("state", None) or init()
    batches = kwargs.pop("batches", order())
    state = run(step, state, batches, steps, on_metrics=lambda t, m: rows.append((t, m)), **kwargs)
    return jax.device_get(state), rows


def relative(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(np.abs(x - y).max() / max(np.abs(y).max(), 1e-30) for x, y in pairs)


def test_matches_a_plain_loop_and_reports_every_step():
    state, rows = trained(steps=25, steps_per_call=10)
    expected, data, losses = init(), jax.tree.map(jnp.asarray, examples()), []
    for t, index in zip(range(25), order()(0), strict=False):
        batch = gather(data, index, jax.random.fold_in(jax.random.key(1), t))
        expected, metrics = jax.jit(STEP)(expected, batch)
        losses.append(metrics["loss"])
    assert relative(state, expected) < 1e-6
    assert [(t, m["loss"].shape) for t, m in rows] == [(0, (10,)), (10, (10,)), (20, (5,))]
    np.testing.assert_allclose(np.concatenate([m["loss"] for _, m in rows]), losses, rtol=1e-6)


@pytest.mark.parametrize("scan", [True, False])
def test_interrupted_run_is_bit_identical(scan):
    kwargs = {"steps_per_call": 8, "scan": scan}
    whole, rows = trained(steps=30, **kwargs)
    saved = {}
    hook = (12, lambda t, state: saved.update({t: jax.device_get(state)}))
    hooked, _ = trained(steps=30, hooks=[hook], **kwargs)
    assert sorted(saved) == [12, 24, 30]
    resumed, tail = trained(steps=30, hooks=[hook], state=saved[24], start=24, **kwargs)
    for a, b, c in zip(*map(jax.tree.leaves, (whole, hooked, resumed)), strict=True):
        assert (b == c).all()
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert (tail[-1][1]["loss"] == np.concatenate([m["loss"] for _, m in rows])[24:]).all()


def test_eight_devices_equal_one():
    one, _ = trained(mesh=optim.parallel.data_mesh(jax.devices()[:1]))
    none, _ = trained()
    assert relative(one, none) == 0
    for scan in (True, False):
        eight, _ = trained(mesh=optim.parallel.data_mesh(), scan=scan)
        assert relative(eight, one) <= 1e-6


def user_loop(mapped, replicate):
    """Twenty steps of the step under the user's own map over eight devices."""
    state, data = init(), jax.tree.map(jnp.asarray, examples())
    state = replicate(state)
    for t, index in zip(range(20), order()(0), strict=False):
        batch = gather(data, index, jax.random.fold_in(jax.random.key(1), t))
        state = mapped(state, batch)
    return jax.device_get(state)


def by_pmap(step):
    mapped = jax.pmap(step, axis_name="data")

    def call(state, batch):
        batch = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch)
        return mapped(state, batch)[0]

    replicate = lambda state: jax.tree.map(lambda x: jnp.stack([x] * 8), state)  # noqa: E731
    return jax.tree.map(lambda x: x[0], user_loop(call, replicate))


def by_shard_map(step, check_vma):
    specs = {"in_specs": (PartitionSpec(), PartitionSpec("data")), "out_specs": PartitionSpec()}
    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    mapped = jax.jit(jax.shard_map(step, mesh=mesh, check_vma=check_vma, **specs))
    return user_loop(lambda state, batch: mapped(state, batch)[0], lambda state: state)


def test_step_inside_the_users_own_map():
    one, _ = trained()
    step = make_step(axis_name="data")
    assert relative(by_pmap(step), one) <= 1e-6
    assert relative(by_shard_map(step, check_vma=True), one) <= 1e-6
    assert relative(by_shard_map(step, check_vma=False), one) <= 1e-6
    # The check has teeth: a step that forgets the mean is caught by it.
    assert relative(by_pmap(STEP), one) > 1e-2


@pytest.mark.parametrize("own_order", [False, True])
def test_population_equals_single_runs(own_order):
    keys = jax.random.split(jax.random.key(3), 4)
    orders = [order(seed) for seed in range(4)] if own_order else order()
    population = jax.tree.map(lambda *x: jnp.stack(x), *[init(seed) for seed in range(4)])
    singles = [
        trained(key=keys[i], state=init(i), batches=orders[i] if own_order else orders)
        for i in range(4)
    ]
    expected = jax.tree.map(lambda *x: np.stack(x), *[state for state, _ in singles])
    losses = np.stack([rows[-1][1]["loss"] for _, rows in singles], axis=1)
    for kwargs in (
        {"vmap": True},
        {"vmap": False},
        {"mesh": optim.parallel.data_mesh(jax.devices()[:4])},
    ):
        copy = jax.tree.map(jnp.copy, population)
        state, rows = trained(replicas=4, key=keys, state=copy, batches=orders, **kwargs)
        np.testing.assert_allclose(rows[-1][1]["loss"], losses, rtol=1e-5)
        assert relative(state, expected) <= 1e-5


def test_population_survives_a_run_that_diverges():
    def step(x, _):
        return x * 10, {"loss": x}

    rows = []
    run(step, jnp.array([1e37, 1.0]), None, 10, replicas=2, on_metrics=lambda t, m: rows.append(m))
    assert np.isinf(rows[0]["loss"][-1, 0])
    assert np.isfinite(rows[0]["loss"][:, 1]).all()
    with pytest.raises(NonFiniteError, match="loss is inf at step 6"):
        run(step, jnp.array([1e37, 1e34]), None, 10, replicas=2)


def test_stops_at_the_first_value_that_is_not_finite():
    def step(x, _):
        return x + 1, {"a": 1.0 / x, "b": jnp.where(x == 7, jnp.nan, 0.0)}

    saved = []
    hook = (4, lambda t, _: saved.append(t))
    with pytest.raises(NonFiniteError, match="b is nan at step 7") as error:
        run(step, 1.0, None, 20, steps_per_call=4, hooks=[hook])
    assert (error.value.step, error.value.metric) == (7, "b")
    assert saved == [4]  # Nothing is saved that a bad step has touched.


def test_stop_ends_the_run_between_calls():
    seen = []
    state = run(
        lambda x, _: (x + 1, {}),
        0,
        None,
        100,
        steps_per_call=10,
        stop=lambda t: seen.append(t) or t >= 30,
    )
    assert state == 30
    assert seen == [10, 20, 30]


def test_compiles_once_whatever_the_length_of_the_calls():
    traces = []

    def step(x, _):
        traces.append(1)
        return x + 1.0, {"x": x}

    for steps, hooks in ((7, []), (40, [(9, lambda t, s: None)]), (40, [])):
        assert (
            run(step, jnp.zeros(3), None, steps, hooks=hooks, steps_per_call=10).tolist()
            == [steps] * 3
        )
    assert len(traces) == 1


def test_convolutions_on_cpu_are_not_looped(monkeypatch):
    loops, fori_loop = [], jax.lax.fori_loop
    spy = lambda *args: loops.append(1) or fori_loop(*args)  # noqa: E731
    monkeypatch.setattr(jax.lax, "fori_loop", spy)
    w, x = jnp.ones((1, 1, 3, 3)), jnp.ones((2, 1, 8, 8))
    run(lambda w, _: (w, {"loss": jax.lax.conv(x, w, (1, 1), "SAME").sum()}), w, None, 3)
    assert not loops
    run(lambda w, _: (w, {"loss": w.sum()}), jnp.ones(3), None, 3)
    assert loops


def test_values_shared_inside_the_state_are_donated_once():
    x = jnp.arange(3.0)
    state = run(lambda s, _: ({"a": s["a"] + 1, "b": s["b"]}, {}), {"a": x, "b": x}, None, 5)
    assert state["a"].tolist() == [5, 6, 7]
    assert state["b"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"state\['a'\] was donated to an earlier run"):
        run(lambda s, _: (s, {}), {"a": x}, None, 5)


def plus_one(x, _):
    return x + 1, {}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"steps_per_call": 0}, "steps_per_call must be >= 1, got 0"),
        ({"start": 9}, r"start must be in \[0, steps=5\], got 9"),
        ({"hooks": [(0, print)]}, "a hook's period must be >= 1, got 0"),
        ({"batches": lambda t: iter([np.zeros(3)])}, "batches ended after step 1, before step 5"),
        ({"batches": []}, "batches must be a function"),
        ({"replicas": 2}, r"its leading axis must be replicas=2"),
        ({"step": lambda x, _: ((x, x), {})}, "step changed the structure of the state"),
        ({"step": lambda x, _: (x.astype(jnp.int32), {})}, r"from float32\(4,\) to int32\(4,\)"),
        (
            {"batches": lambda t: itertools.repeat({"x": np.zeros(12)}), "mesh": 8},
            r"a batch of 12 examples does not divide over 8 devices \(inputs\['x'\]\)",
        ),
    ],
)
def test_bad_arguments(kwargs, message):
    kwargs = {"step": plus_one, "batches": None, **kwargs}
    if "mesh" in kwargs:
        kwargs["mesh"] = optim.parallel.data_mesh()
    with pytest.raises(ValueError, match=message):
        run(kwargs.pop("step"), jnp.zeros(4), kwargs.pop("batches"), 5, **kwargs)
