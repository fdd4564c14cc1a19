"""The loop: one device, many devices, many runs, the same numbers; and what stops it."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import optim
from optim._loop import program
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


def test_each_device_sees_its_part_of_the_batch():
    seen = []

    def step(x, batch):
        jax.debug.inspect_array_sharding(
            batch, callback=lambda s: seen.append(s.shard_shape((16,)))
        )
        return x + batch.mean(), {}

    batches = lambda start: itertools.repeat(np.ones(16, np.float32))  # noqa: E731
    run(step, jnp.zeros(()), batches, 1, mesh=optim.parallel.data_mesh(), scan=False)
    assert {*seen} == {(2,)}


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
        return x + 1.0, {"x": x.sum()}

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


def test_convolutions_by_the_code_of_xla(monkeypatch):
    def step(w, _):
        loss = lambda w: (jax.lax.conv(jnp.ones((16, 8, 32, 32)), w, (1, 1), "SAME") ** 2).mean()  # noqa: E731
        value, grad = jax.value_and_grad(loss)(w)
        return w - 0.1 * grad, {"loss": value}

    w, asked, options = jnp.full((8, 8, 3, 3), 0.1), [], optim.loop.compiler_options
    with monkeypatch.context() as patch:
        spy = lambda convolutions: asked.append(convolutions) or options(convolutions)  # noqa: E731
        patch.setattr(program, "compiler_options", spy)
        ours, xla = (
            run(step, jnp.copy(w), None, 2, convolutions=c) for c in optim.loop.CONVOLUTIONS
        )
    assert asked == ["default", "xla"]
    np.testing.assert_allclose(ours, xla, rtol=1e-5)
    lowered = jax.jit(step).lower(w, None)
    texts = [lowered.compile(options(c)).as_text() for c in optim.loop.CONVOLUTIONS]
    assert ["ynn" in text for text in texts] == [True, False]
    with pytest.raises(ValueError, match="convolutions must be one of default, xla, got 'XLA'"):
        run(step, w, None, 1, convolutions="XLA")


def test_values_shared_inside_the_state_are_donated_once():
    x = jnp.arange(3.0)
    state = run(lambda s, _: ({"a": s["a"] + 1, "b": s["b"]}, {}), {"a": x, "b": x}, None, 5)
    assert state["a"].tolist() == [5, 6, 7]
    assert state["b"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"state\['a'\] was donated to an earlier run"):
        run(lambda s, _: (s, {}), {"a": x}, None, 5)


def test_a_state_broken_by_its_gradient_reaches_no_hook():
    def step(state, _):
        # The loss |w| - 1 is finite at 0, and its derivative is not.
        loss, grad = jax.value_and_grad(lambda w: jnp.sqrt(w @ w) - 1.0)(state["w"])
        return {"n": state["n"] + 1, "w": state["w"] - grad}, {"loss": loss}

    def state():
        return {"n": 0, "w": jnp.array([3.0, 0.0])}  # Three steps of length 1, then 0 / 0.

    for every in (1, 2, 4):
        seen = []
        hook = (every, lambda t, s: seen.append((t, np.isfinite(s["w"]).all())))  # noqa: B023
        with pytest.raises(NonFiniteError, match=r"state\['w'\] is not finite after st") as error:
            run(step, state(), None, 4, hooks=[hook])
        assert (error.value.step, error.value.metric) == (4, "state['w']")
        assert seen == [(t, True) for t in range(every, 4, every)]
    with pytest.raises(NonFiniteError, match="loss is nan at step 5"):
        run(step, state(), None, 6, hooks=[(6, lambda t, s: seen.append(t))])
    for vmap in (True, False):  # The others go on, and the last one that is left raises.
        both = {"n": jnp.zeros(2, int), "w": jnp.array([[3.0, 0.0], [0.25, 0.0]])}
        run(step, jax.tree.map(jnp.copy, both), None, 4, replicas=2, vmap=vmap)
        both["w"] = jnp.array([[3.0, 0.0], [2.0, 0.0]])
        with pytest.raises(NonFiniteError, match=r"state\['w'\] is not finite after step 4"):
            run(step, both, None, 4, replicas=2, vmap=vmap, hooks=[(1, lambda t, s: None)])


def test_a_leaf_that_begins_at_infinity_may_stay_there():
    def step(state, _):
        return {"best": state["best"], "x": state["x"] + 1.0}, {"x": state["x"]}

    state = run(step, {"best": jnp.array(jnp.inf), "x": 0.0}, None, 3)
    assert state["x"] == 3.0
    assert state["best"] == jnp.inf


@pytest.mark.parametrize("scan", [True, False])
def test_the_state_is_checked_in_every_run(scan):
    def step(x, _):
        return x + 0.5, {"loss": x * 1.0}

    assert run(step, jnp.float32(0), None, 2, scan=scan) == 1.0
    with pytest.raises(ValueError, match=r"step changed state from int32\(\) to float32\(\)"):
        run(step, jnp.int32(0), None, 3, scan=scan)
    assert run(step, jnp.float32(0), None, 3, scan=not scan) == 1.5


def test_steps_beyond_int32():
    top, seen, keys = 2**31, [], []

    def collect(t, values):
        seen.append((t - top, len(values["u"])))
        keys.extend(values["u"].tolist())

    state = run(
        lambda x, key: (x + 1.0, {"u": jax.random.uniform(key)}),
        jnp.array(0.0),
        None,
        top + 5,
        start=top - 3,
        key=jax.random.key(0),
        prepare=lambda data, inputs, key: key,
        steps_per_call=4,
        on_metrics=collect,
    )
    assert state == 8.0
    assert seen == [(-3, 3), (0, 4), (4, 1)]
    folded = [jax.random.fold_in(jax.random.key(0), np.uint32(t)) for t in range(top - 3, top + 5)]
    assert keys == [float(jax.random.uniform(key)) for key in folded]
    with pytest.raises(ValueError, match=r"steps must be <= 2\*\*32 - 1, got 4294967296"):
        run(plus_one, 0, None, 2**32, start=2**32 - 1)


def test_a_mesh_with_explicit_axes():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)

    def step(w, batch):
        loss, grad = jax.value_and_grad(lambda w: ((batch @ w - 1.0) ** 2).mean())(w)
        return w - 0.1 * grad, {"loss": loss}

    for scan in (True, False):
        one = run(step, jnp.zeros(3), lambda t: itertools.repeat(x), 5, scan=scan)
        split = run(step, jnp.zeros(3), lambda t: itertools.repeat(x), 5, scan=scan, mesh=mesh)
        assert split.sharding.mesh.axis_types == (AxisType.Explicit,)
        np.testing.assert_allclose(split, one, rtol=1e-6)
        shapes = []
        many = run(
            step,
            jnp.zeros((8, 3)),
            lambda t: itertools.repeat(x),
            5,
            scan=scan,
            mesh=mesh,
            replicas=8,
            on_metrics=lambda t, m, shapes=shapes: shapes.append(m["loss"].shape),
        )
        np.testing.assert_allclose(many, np.tile(one, (8, 1)), rtol=1e-6)
        assert shapes == [(5, 8)]


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_state_split_over_a_second_axis(kind):
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind, kind))
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)  # 2 divides 6, 8 does not.

    def step(w, batch):
        loss, grad = jax.value_and_grad(lambda w: ((batch @ w - 1.0) ** 2).mean())(w)
        return w - 0.1 * grad, {"loss": loss}

    def batches(t):
        return itertools.repeat(x)

    one = run(step, jnp.zeros((3, 8)), batches, 5)
    w = jax.device_put(jnp.zeros((3, 8)), NamedSharding(mesh, PartitionSpec(None, "model")))
    split = run(step, w, batches, 5, mesh=mesh)
    assert split.sharding.spec == PartitionSpec(None, "model")
    np.testing.assert_allclose(split, one, rtol=1e-6)


@pytest.mark.parametrize("scan", [True, False])
def test_arrays_of_the_state_that_are_also_data(scan):
    start = jnp.ones(3)
    keys = jax.random.split(jax.random.key(0), 2)
    state = run(
        lambda x, batch: (x + batch, {}),
        start,
        None,
        6,
        data={"start": start},
        prepare=lambda data, inputs, key: data["start"],
        steps_per_call=2,
        scan=scan,
    )
    assert state.tolist() == [7, 7, 7]
    assert start.tolist() == [1, 1, 1]
    population = {"key": keys, "x": jnp.zeros(2)}
    run(lambda s, _: (s, {}), population, None, 4, key=keys, replicas=2, vmap=True, scan=scan)
    assert not keys.is_deleted()


def plus_one(x, _):
    return x + 1, {}


class Unhashable:
    """As an Equinox module with arrays is."""

    __hash__ = None

    def __call__(self, x, _):
        return x, {}


def shorter(t):
    return iter([np.ones(4, np.float32)] * 2 + [np.ones(2, np.float32)] * 3)


def narrower(t):
    return iter([{"x": np.ones(4, np.float32)}, {"x": np.ones(4, np.float16)}])


OLD_KEYS = jax.random.split(jax.random.PRNGKey(0), 2)
MISTAKES = [
    ({"steps": 3.0}, "steps must be an integer >= 0, got 3.0"),
    ({"steps": "3"}, "steps must be an integer >= 0, got '3'"),
    ({"steps": -1}, "steps must be an integer >= 0, got -1"),
    ({"start": 1.0}, "start must be an integer >= 0, got 1.0"),
    ({"steps_per_call": 0.5}, "steps_per_call must be an integer >= 1, got 0.5"),
    ({"replicas": 4.0}, "replicas must be an integer >= 1, got 4.0"),
    ({"hooks": print}, "hooks must be pairs (every, call), got <built-in"),
    ({"hooks": [print]}, "hooks must be pairs (every, call), got [<built-in"),
    ({"hooks": (10, print)}, "hooks must be pairs (every, call), got (10, <built-in"),
    ({"hooks": [(2.5, print)]}, "the period of a hook must be an integer >= 1, got 2.5"),
    ({"hooks": [(2, None)]}, "hooks must be pairs (every, call), got None for a call"),
    ({"on_metrics": []}, "on_metrics must be a function of (t, values), got []"),
    ({"stop": True}, "stop must be a function of the step, got True"),
    ({"stop": lambda: True}, "stop must be a function of the step, <function"),
    ({"step": None}, "step must be a function of (state, batch), got None"),
    ({"step": lambda x: (x, {})}, "step must be a function of (state, batch), <function"),
    (
        {"prepare": lambda data, x: x},
        "prepare must be a function of (data, inputs, key), <fun",
    ),
    ({"batches": lambda: iter([1.0])}, "batches must be a function of the first step, <function"),
    ({"step": Unhashable()}, "step must be a hashable function, got Unhashable, which holds arr"),
    ({"prepare": Unhashable()}, "prepare must be a hashable function, got Unhashable"),
    ({"step": lambda x, _: x}, "step must return the pair (state, metrics), got PyTreeDef(*)"),
    ({"step": lambda x, _: (x, {}, {})}, "step must return the pair (state, metrics), got"),
    ({"step": lambda x, _: (x, x.sum())}, "metrics as a dict of scalars, got float32()"),
    ({"step": lambda x, _: (x, None)}, "metrics as a dict of scalars, got NoneType"),
    ({"step": lambda x, _: (x, {"a": {"b": x.sum()}})}, "flat dict of scalars, got dict for 'a'"),
    ({"step": lambda x, _: (x, {"a": x})}, "flat dict of scalars, got float32(4,) for 'a'"),
    ({"step": lambda x, _: (x, {"a": "low"})}, "flat dict of scalars, got str for 'a'"),
    ({"step": lambda x, _: (x, {1: x.sum()})}, "metrics must have strings as names, got 1"),
    ({"state": {"model": jnp.zeros(4), "act": jnp.tanh}}, "state['act'] must be an array, got <"),
    ({"state": {"name": "mlp"}}, "state['name'] must be an array, got 'mlp'"),
    ({"data": {"name": "digits"}}, "data['name'] must be an array, got 'digits'"),
    ({"key": 0}, "key must be a key of jax.random.key, got 0"),
    ({"key": OLD_KEYS[0]}, "key must be a key of jax.random.key, got uint32(2,)"),
    ({"key": OLD_KEYS, "replicas": 2, "state": jnp.zeros(2)}, "key must be a key of shape (2,)"),
    ({"batches": iter([1.0])}, "batches must be a function of the first step, got list_iterator"),
    ({"batches": lambda t: 3}, "batches(t) must return an iterator: 'int' object is not iterable"),
    (
        {"batches": lambda t: iter(["a"] * 5)},
        "batch of step 1 must hold arrays of numbers, got 'a'",
    ),
    ({"batches": lambda t: iter([np.array(["a"])])}, "of step 1 must hold arrays of numbers"),
    ({"data": np.array(["a"])}, "data must be an array, got array(['a']"),
    ({"vmap": True}, "vmap needs replicas"),
    ({"vmap": 1, "replicas": 4}, "vmap must be True or False, got 1"),
    ({"mesh": 8}, "mesh must be a jax.sharding.Mesh, got 8"),
    ({"batches": shorter}, "the batch of step 3 is float32(2,), those before float32(4,)"),
    ({"batches": narrower}, "step 2 is {'x': 'float16(4,)'}, those before {'x': 'float32(4,)'}"),
    ({"mesh": jax.make_mesh((8,), ("batch",))}, "mesh must have an axis 'data', got the axes"),
]


@pytest.mark.parametrize(("kwargs", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_gets_one_line_that_names_the_argument(kwargs, message):
    given = {"step": plus_one, "state": jnp.zeros(4), "batches": None, "steps": 5, **kwargs}
    for scan in (None, False):
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            run(**given, scan=scan)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"steps_per_call": 0}, "steps_per_call must be an integer >= 1, got 0"),
        ({"start": 9}, r"start must be in \[0, steps=5\], got 9"),
        ({"hooks": [(0, print)]}, "the period of a hook must be an integer >= 1, got 0"),
        ({"batches": lambda t: iter([np.zeros(3)])}, "batches ended after step 1, before step 5"),
        ({"batches": []}, "batches must be a function"),
        ({"replicas": 2}, r"its leading axis must be replicas=2"),
        ({"replicas": 4, "mesh": 8}, "replicas must be a multiple of the 8 devices .* got 4"),
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
