"""Zeroth-order methods: known answers, devices, memory, cost, and bad input."""

import collections
import functools
import json
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import bilevel
import optim
from benchmarks import zeroth_order as benchmark
from optim import zeroth_order as zo

KEY = jax.random.key(0)
D = 50
A = np.random.default_rng(0).normal(size=(D, D)) / np.sqrt(D)
H = A @ A.T + np.eye(D)
X = np.random.default_rng(1).normal(size=D)


def quadratic(x, batch=None):
    return x @ H @ x / 2


@pytest.fixture
def double_precision():
    with jax.enable_x64(True):
        yield


def draws(estimator, n):
    """``n`` estimates at X with keys of their own."""
    vg = zo.value_and_grad(quadratic, estimator)
    keys = jax.random.split(KEY, n)
    return np.asarray(jax.jit(jax.vmap(lambda k: vg(jnp.asarray(X), None, k)[1]))(keys))


# Known answers.


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("distribution", ["normal", "rademacher", "sphere"])
def test_the_mean_of_the_estimates_is_the_gradient(distribution):
    found = draws(zo.rge(distribution=distribution), 25_000)
    error = found.std(0) / np.sqrt(len(found))
    assert (np.abs(found.mean(0) - H @ X) < 4.5 * error).all()  # 50 coordinates.


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("q", [1, 4, 16])
def test_variance_falls_with_the_number_of_directions(q):
    found = draws(zo.rge(samples=q, chunk=q), 40_000 // q)
    ratio = (found**2).sum(1) / np.sum((H @ X) ** 2)
    error = ratio.std() / np.sqrt(len(ratio))
    assert abs(ratio.mean() - (1 + (D + 1) / q)) < 4 * error


@pytest.mark.usefixtures("double_precision")
def test_differences_on_a_quadratic():
    z, mask = np.random.default_rng(2).normal(size=D), np.arange(D) % 3 == 0
    along = {"distribution": lambda *_: z}
    estimators = {
        "forward": zo.forward_gradient(**along),
        **{("two", mu): zo.rge(mu, **along) for mu in (1e-3, 0.5)},
        **{("one", mu): zo.rge(mu, two_sided=False, **along) for mu in (1e-3, 0.5)},
        "forward 3": zo.forward_gradient(3),
        "two 3": zo.rge(samples=3),
        "cge": zo.cge(0.01),
        "central": zo.cge(0.01, True, chunk=8),
        "masked": zo.cge(0.01, mask=mask),
    }

    @jax.jit
    def all_of_them(x):
        return [zo.value_and_grad(quadratic, e)(x, None, KEY)[1] for e in estimators.values()]

    found = dict(zip(estimators, map(np.asarray, all_of_them(jnp.asarray(X))), strict=True))
    np.testing.assert_allclose(found["forward"], (H @ X @ z) * z, rtol=1e-12)
    for mu in (1e-3, 0.5):
        np.testing.assert_allclose(found["two", mu], found["forward"], rtol=1e-9)
        bent = found["forward"] + mu / 2 * (z @ H @ z) * z
        np.testing.assert_allclose(found["one", mu], bent, rtol=1e-9)
    # One key, the same directions.
    np.testing.assert_allclose(found["forward 3"], found["two 3"], rtol=1e-9)
    np.testing.assert_allclose(found["cge"], H @ X + 0.005 * np.diag(H), atol=1e-10)
    np.testing.assert_allclose(found["central"], H @ X, atol=1e-10)
    np.testing.assert_array_equal(found["masked"], np.where(mask, found["cge"], 0))


def test_signs():
    z = np.float32(np.random.default_rng(2).normal(size=D))

    @jax.jit
    def both(x):
        slope = zo.value_and_grad(quadratic, zo.sign(distribution=lambda *_: z))
        whole = zo.value_and_grad(
            lambda x, b: 100 * quadratic(x), zo.sign(samples=8, of="gradient")
        )
        return slope(x, None, KEY)[1], whole(x, None, KEY)[1]

    slope, whole = both(jnp.asarray(X, jnp.float32))
    np.testing.assert_array_equal(slope, np.sign(H @ X @ z) * z)
    assert set(np.unique(whole)) == {-1, 1}
    assert whole @ (H @ X) > 0


TREE = {"a": jnp.ones((3, 2)), "b": {"c": jnp.arange(3.0), "d": jnp.ones(()), "none": None}}


def tree_loss(p, batch):
    b = p["b"]
    return jnp.sum(p["a"] ** 2) * b["d"] + jnp.sum(jnp.sin(b["c"])) + batch


COUNTS = [
    (zo.rge(samples=3), 6, 0),
    (zo.rge(samples=3, two_sided=False), 4, 0),
    (zo.sign(samples=2), 4, 0),
    (zo.forward_gradient(2), 4, 2),
    (zo.cge(), 11, 0),
    (zo.cge(central=True), 20, 0),
    (zo.blockwise("^[ab]"), 4, 0),
    (zo.blockwise(lambda path, leaf: leaf.ndim, zo.rge(two_sided=False)), 6, 0),
    (zo.sparse(zo.random_mask(0.5), 3), 2, 0),
    (zo.hybrid({"a": True, "b": False}), 4, 1),
    (zo.deepzero_rge(samples=5), 6, 0),
]


def test_evaluations_are_counted_and_estimates_depend_on_the_key_alone():
    calls = collections.Counter()

    def loss(p, batch):
        value, i = batch
        jax.debug.callback(lambda _: calls.update([i]), p["b"]["d"])
        return tree_loss(p, value)

    @jax.jit
    def all_of_them(params, key):
        return [
            zo.value_and_grad(loss, row[0])(params, (2.0, i), key, 4)
            for i, row in enumerate(COUNTS)
        ]

    found = all_of_them(TREE, KEY)
    jax.effects_barrier()
    for i, (estimator, count, derivatives) in enumerate(COUNTS):
        value, gradient = found[i]
        assert estimator.evaluations(TREE) == count
        assert calls[i] == count - derivatives  # Each counts twice.
        assert jnp.shape(value) == ()
        assert jax.tree.map(lambda g: (g.shape, g.dtype), gradient) == jax.tree.map(
            lambda p: (p.shape, p.dtype), TREE
        )
    jax.tree.map(np.testing.assert_array_equal, found, all_of_them(TREE, KEY))
    assert all_of_them._cache_size() == 1


@pytest.mark.parametrize("estimator", [row[0] for row in COUNTS])
def test_auxiliary_data(estimator):
    def loss(p, batch):
        return tree_loss(p, batch), {"seen": batch, "a": p["a"]}

    vg = zo.value_and_grad(loss, estimator, has_aux=True)
    (value, aux), gradient = jax.eval_shape(vg, TREE, 2.0, KEY)
    assert (value.shape, aux["a"].shape, gradient["a"].shape) == ((), (3, 2), (3, 2))


@pytest.mark.filterwarnings("ignore:mu=0.00. is lost in bfloat16")
@pytest.mark.parametrize("estimator", [row[0] for row in COUNTS])
def test_runs_and_steps_at_once_in_any_dtype(estimator):
    half, brain = TREE["b"]["c"].astype(jnp.float16), TREE["a"].astype(jnp.bfloat16)
    params = {"a": brain, "b": {**TREE["b"], "c": half}}
    vg = zo.value_and_grad(tree_loss, estimator)

    def run(key):
        def step(p, t):
            value, gradient = vg(p, 2.0, jax.random.fold_in(key, t), t)
            return jax.tree.map(lambda p, g: p - g, p, gradient), value

        return jax.lax.scan(step, params, jnp.arange(3))

    after, values = jax.eval_shape(jax.vmap(run), jax.random.split(KEY, 4))
    assert values.shape == (4, 3)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: ((4, *x.shape), x.dtype), params
    )


def test_probes_in_chunks_are_the_same_probes():
    @jax.jit
    def both(p):
        return [
            zo.value_and_grad(tree_loss, zo.rge(samples=6, chunk=c))(p, 1.0, KEY) for c in (1, 3)
        ]

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), *both(TREE))


def test_paths_that_read_alike_are_two_leaves():
    params = {"enc": {"w": jnp.ones(2)}, "enc/w": jnp.full(2, 2.0)}

    def loss(p, _):
        return p["enc"]["w"] @ p["enc"]["w"] + 3 * p["enc/w"] @ p["enc/w"]

    estimator = zo.blockwise(lambda path, x: len(path), zo.cge(central=True))
    gradient = zo.value_and_grad(loss, estimator)(params, None, KEY)[1]
    np.testing.assert_allclose(gradient["enc"]["w"], 2.0, atol=0.05)
    np.testing.assert_allclose(gradient["enc/w"], 12.0, atol=0.05)


def test_blocks_masks_and_exact_leaves():
    alike = {"a": jnp.ones(4), "b": jnp.ones(4)}

    @jax.jit
    def all_of_them():
        def gradient(estimator, step=0):
            return zo.value_and_grad(tree_loss, estimator)(TREE, 0.0, KEY, step)[1]

        def of_twins(shared):
            vg = zo.value_and_grad(
                lambda p, _: p["a"].sum() + p["b"].sum(),
                zo.blockwise("[ab]", shared_noise=shared),
            )
            return vg(alike, None, KEY)[1]

        sparse = zo.sparse(zo.random_mask(0.5), 5)
        return (
            jax.grad(tree_loss)(TREE, 0.0),
            gradient(zo.hybrid(lambda path, leaf: leaf.ndim == 2)),
            gradient(zo.blockwise(r"^(a|b/c)", zo.cge(central=True))),
            [of_twins(shared) for shared in (False, True)],
            [gradient(sparse, t)["a"] == 0 for t in (0, 4, 5)],
        )

    exact, mixed, parts, twins, zeros = all_of_them()
    np.testing.assert_allclose(mixed["a"], exact["a"], rtol=1e-6)
    assert not np.allclose(mixed["b"]["c"], exact["b"]["c"])
    # Blocks by central differences are the whole gradient; leaves in no block stay.
    np.testing.assert_allclose(parts["a"], exact["a"], rtol=1e-2)
    np.testing.assert_allclose(parts["b"]["c"], exact["b"]["c"], atol=1e-2)
    assert parts["b"]["d"] == 0
    assert [np.allclose(g["a"], g["b"], rtol=1e-3) for g in twins] == [False, True]
    assert 0 < zeros[0].sum() < 6
    np.testing.assert_array_equal(zeros[0], zeros[1])
    assert not np.array_equal(zeros[0], zeros[2])


@pytest.mark.parametrize(("density", "kept"), [("exact", 0.5), ("normal_cdf", 0.3085)])
def test_density_of_masks(density, kept):
    mask = zo.random_mask(0.5, density)(KEY, jnp.zeros(100_000))
    assert abs(float(mask.mean()) - kept) < 0.006


def test_weights_of_ranks_are_sums_over_pairs():
    for m, k in ((6, 3), (5, 5), (10, 1)):
        total, pairs = np.zeros(m), 0
        for i in range(k):
            for j in range(i + 1, m):
                total[i] += 1
                total[j] -= 1
                pairs += 1
        np.testing.assert_allclose(zo.rank_weights(m, k), total / pairs, rtol=1e-6)
        assert float(zo.rank_weights(m, k, zero_sum=False).sum()) == pytest.approx(k / pairs)


@pytest.mark.usefixtures("double_precision")
def test_ranks_do_not_see_the_scale():
    eigenvalues = np.linspace(1, 10, 20)

    def run(loss, rounds=150):
        solver = zo.rank_sgd(zo.by_value(loss), 1.0, 0.1, samples=10, best=10, line=8)
        state = solver.init(jnp.asarray(np.random.default_rng(3).normal(size=20)), KEY)
        last, _ = jax.lax.scan(lambda s, _: solver.step(s, None), state, length=rounds)
        return last.params

    def f(x, _):
        return jnp.sum(eigenvalues * x**2) / 2

    points = [jax.jit(functools.partial(run, g))() for g in (f, lambda x, b: jnp.exp(f(x, b) / 50))]
    np.testing.assert_array_equal(*points)
    assert f(points[0], None) < 0.05  # From about 40.


def test_conservative_takes_the_best_of_three():
    # The estimate is wrong on purpose, by a factor: the step may overshoot or go uphill.
    for factor, choice in ((0.1, 1), (3.0, 0), (-0.1, 2)):
        wrong = zo.Estimator(lambda f, p, key, step, factor=factor: (f(p), factor * p), lambda p: 1)
        solver = zo.conservative(lambda p, _: p @ p, optax.sgd(1.0), wrong)
        state = solver.init(jnp.array([1.0, -2.0]), KEY)
        state, metrics = solver.step(state, None)
        assert metrics["choice"] == choice
        scale = {0: 1.0, 1: 0.9, 2: 0.9}[choice]
        np.testing.assert_allclose(state.params, scale * np.array([1.0, -2.0]), rtol=1e-6)
        np.testing.assert_allclose(metrics["loss"], 5.0)


def test_conservative_does_not_step_where_the_loss_is_no_number():
    wrong = zo.Estimator(lambda f, p, key, step: (f(p), jnp.full_like(p, 3.0)), lambda p: 1)
    solver = zo.conservative(lambda p, _: jnp.sum(p - jnp.log(p)), optax.sgd(1.0), wrong)
    state, metrics = solver.step(solver.init(jnp.array([2.0]), KEY), None)
    assert (metrics["choice"], state.params) == (0, 2.0)


def test_parameters_of_python_and_numpy():
    for params in (2.0, np.float32([2.0])):
        for estimator in (zo.rge(), zo.cge(), zo.forward_gradient()):
            vg = zo.value_and_grad(lambda p, _: jnp.sum(p * p), estimator)
            assert vg(params, None, KEY)[1].shape == np.shape(params)


# MeZO.


def layers(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return {f"l{i}": jnp.asarray(rng.normal(size=s) / 8, jnp.float32) for i, s in enumerate(sizes)}


def network(params, batch):
    x = batch
    for w in params.values():
        x = jnp.tanh(x @ w)
    return jnp.mean(x**2)


def test_mezo_is_rge_with_sgd():
    params = layers([(300, 400), (400, 3)])  # The first leaf has two pieces, one of them short.
    batch = np.float32(np.random.default_rng(1).normal(size=(4, 300)))
    solver = zo.mezo(network, lambda count: 0.1 / (1 + count), samples=3, weight_decay=0.5)
    state = solver.init(params, KEY)
    step = jax.jit(solver.step)
    vg = jax.jit(zo.value_and_grad(network, zo.rge(samples=3)))
    for t in range(2):
        state, metrics = step(state, batch)
        value, gradient = vg(params, batch, jax.random.fold_in(KEY, t))
        rate = 0.1 / (1 + t)
        params = jax.tree.map(
            lambda p, g, rate=rate: (1 - rate * 0.5) * p - rate * g, params, gradient
        )
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
        assert metrics["evaluations"] == 6
        flat = gradient["l0"].ravel()
        assert not np.allclose(flat[:9], flat[2**16 :][:9])  # The pieces are not the same numbers.
        # The differences of the losses carry float32 rounding over 2 mu.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), state.params, params)
    assert step._cache_size() == 1


@pytest.mark.parametrize("samples", [1, 16])
def test_mezo_needs_one_copy_of_the_parameters(samples, users_compiler):
    params = jax.eval_shape(lambda: layers([(512, 512)] * 2))
    solver = zo.mezo(network, 0.1, samples=samples)
    state = jax.eval_shape(solver.init, params, KEY)
    batch = jax.ShapeDtypeStruct((8, 512), jnp.float32)
    step = jax.jit(solver.step, donate_argnums=0)
    compiled = step.lower(state, batch).compile(users_compiler)
    size = sum(p.size * 4 for p in jax.tree.leaves(params))
    # One perturbed copy, and a few pieces of 65,536 numbers.
    assert compiled.memory_analysis().temp_size_in_bytes <= size + 2 * 2**20
    assert jax.tree.structure(state) == jax.tree.structure(zo.MeZOState(0, params, 0))


@pytest.mark.parametrize(("batch", "mezo_is_less"), [(1, False), (2048, True)])
def test_mezo_saves_memory_where_activations_dominate(batch, mezo_is_less, users_compiler):
    params = jax.eval_shape(lambda: layers([(256, 256)] * 6))
    x = jax.ShapeDtypeStruct((batch, 256), jnp.float32)
    solver = zo.mezo(network, 0.1)

    def descent(params, x):
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(network)(params, x))

    def temporaries(step, state):
        compiled = jax.jit(step, donate_argnums=0).lower(state, x).compile(users_compiler)
        return compiled.memory_analysis().temp_size_in_bytes

    ours = temporaries(solver.step, jax.eval_shape(solver.init, params, KEY))
    assert (ours < temporaries(descent, params) / 1.5) == mezo_is_less


def test_the_page_of_costs_is_that_of_its_json_and_keeps_the_bounds():
    folder = Path(__file__).parents[2] / "results"
    found = json.loads((folder / "zeroth_order.json").read_text(encoding="utf-8"))
    assert benchmark.page(found) == (folder / "zeroth_order.md").read_text(encoding="utf-8")
    memory = found["sections"]["memory"]["rows"]
    assert benchmark.crossing(memory) <= 2  # Examples of 256 tokens, LLaMA 60M.
    over = {(r["step"], r["directions"], r["examples"]): r["over"] for r in memory}
    assert max(v for k, v in over.items() if k[0] == "MeZO") <= 2.3
    assert over["MeZO", 16, 1] <= over["MeZO", 1, 1] + 0.05


# Devices.


DEVICES = {
    "rge": zo.rge(0.1, samples=2, chunk=2),
    "cge": zo.cge(0.1),
    "forward": zo.forward_gradient(),
    "sign": zo.sign(0.1, distribution="rademacher"),
    "sparse": zo.sparse(zo.random_mask(0.5), 2, zo.rge(0.1)),
    "blocks": zo.blockwise("[wb]", zo.rge(0.1)),
}
START = {"w": jnp.linspace(-1.0, 1.0, 4), "b": jnp.ones(())}


def tanh_loss(p, x):
    return jnp.mean(jnp.tanh(x @ p["w"] + p["b"]) ** 2)


EXAMPLES = np.float32(np.random.default_rng(0).normal(size=(16, 4)))


def on_devices(whole, shared):
    """``whole`` of a batch on one device; ``shared`` of its parts in a pmap of the user's."""
    each = jax.tree.map(np.asarray, jax.pmap(shared, "i")(EXAMPLES.reshape(8, 2, 4)))
    return jax.jit(whole)(EXAMPLES), [jax.tree.map(lambda a, i=i: a[i], each) for i in (0, 7)]


def test_every_estimate_on_eight_devices_is_that_on_one():
    def estimates(x, axis_name=None):
        exact = zo.hybrid({"w": True, "b": False}, zo.rge(0.1), axis_name=axis_name)
        return {
            name: zo.value_and_grad(tanh_loss, e, axis_name=axis_name)(START, x, KEY, 3)
            for name, e in {**DEVICES, "hybrid": exact}.items()
        }

    one, others = on_devices(estimates, lambda x: estimates(x, "i"))
    for found in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), one, found)


def test_every_solver_on_eight_devices_is_that_on_one():
    def solvers(axis_name):
        loss, tx, rge = tanh_loss, optax.sgd(0.1), zo.rge(0.1)
        return [
            zo.mezo(loss, 0.1, 0.1, samples=2, axis_name=axis_name),
            zo.conservative(loss, tx, rge, axis_name=axis_name),
            zo.block_descent(loss, tx, "[wb]", rge, axis_name=axis_name),
        ]

    def steps(x, axis_name=None):
        found = []
        for solver in solvers(axis_name):
            state, metrics = jax.lax.scan(
                lambda s, _, step=solver.step: step(s, x), solver.init(START, KEY), length=2
            )
            found.append((state.params, metrics))
        return found

    one, others = on_devices(steps, lambda x: steps(x, "i"))
    mesh = NamedSharding(optim.parallel.data_mesh(), P("data"))
    for found in (*others, jax.jit(steps)(jax.device_put(EXAMPLES, mesh))):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), one, found)


def test_mezo_in_the_loop():
    solver = zo.mezo(tanh_loss, 0.1, 0.1)
    x = np.float32(np.random.default_rng(0).normal(size=(16, 4)))
    found = []
    for mesh in (None, optim.parallel.data_mesh()):
        seen = []
        state = optim.loop.run(
            solver.step,
            solver.init(jax.tree.map(jnp.copy, START), jax.random.key(0)),  # Of its own: donated.
            lambda start: iter([x] * 4),
            4,
            mesh=mesh,
            steps_per_call=2,
            on_metrics=lambda first, values, seen=seen: seen.append(values),
        )
        assert [list(v["evaluations"]) for v in seen] == [[2.0, 2.0]] * 2
        found.append((state.params, [v["loss"] for v in seen]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), *found)


# Bad input.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zo.rge(0.0), "mu must be > 0"),
        (lambda: zo.cge(-1.0), "mu must be > 0"),
        (lambda: zo.rge(samples=0), "samples must be an integer >= 1, got 0"),
        (lambda: zo.rge(samples=4, chunk=3), "chunk must divide samples=4, got 3"),
        (lambda: zo.rge(distribution="gauss"), "distribution must be one of normal, rademacher"),
        (lambda: zo.sign(of="value"), "of must be one of slope, gradient"),
        (lambda: zo.sparse(zo.random_mask(1.0)), r"ratio must be in \[0, 1\)"),
        (lambda: zo.sparse(0.5), "mask_fn must be a function"),
        (lambda: zo.blockwise("("), "rule must be a function .* or a regex"),
        (lambda: zo.hybrid("("), "rule must be a function .* or a regex"),
        (lambda: zo.conservative(quadratic, "sgd"), "optimizer must be an optax"),
        (lambda: zo.block_descent(quadratic, None, "w"), "optimizer must be an optax"),
        (lambda: zo.block_descent(quadratic, optax.trace(0.9), "w"), "optimizer must be a whole"),
        (lambda: zo.hybrid(True, 3), "estimator must be an Estimator such as rge"),
        (lambda: zo.value_and_grad(quadratic, zo.rge), "estimator must be one of"),
        (lambda: zo.mezo(quadratic, -1.0), "learning_rate must be"),
        (lambda: zo.rank_weights(3, 4), "best must be <= samples=3, got 4"),
        (lambda: zo.rank_sgd(None, line=2), "line must be an integer >= 3"),
        (lambda: zo.conservative(quadratic, optax.sgd(1.0), undo="no"), "undo must be one of"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("params", "loss", "estimator", "message"),
    [
        ({"n": jnp.arange(3)}, tree_loss, zo.rge(), r"leaf \['n'\] is int32"),
        (jnp.ones(3), lambda p, _: p, zo.rge(), r"real scalar, got float32 of shape \(3,\)"),
        (jnp.ones(3), lambda p, _: jnp.int32(1), zo.rge(), "real scalar, got int32"),
        (jnp.ones(9), quadratic, zo.cge(max_parameters=8), "pass max_parameters=9"),
        (jnp.ones(3), quadratic, zo.cge(mask=np.ones(4)), "mask must have the shapes"),
        (jnp.ones(3), quadratic, zo.cge(mask=np.zeros(3)), "nothing to estimate"),
        (jnp.ones(3), quadratic, zo.hybrid("x"), "rule leaves nothing to backpropagation: 'x'"),
        (jnp.ones(3), quadratic, zo.blockwise("x"), "rule puts no leaf in a block: 'x'"),
    ],
)
def test_wrong_parameters_and_losses(params, loss, estimator, message):
    with pytest.raises(ValueError, match=message):
        zo.value_and_grad(loss, estimator)(params, None, KEY)


def test_a_perturbation_that_is_lost_is_said():
    half = {"w": jnp.ones(3, jnp.float16)}
    vg = zo.value_and_grad(lambda p, _: p["w"].sum().astype(jnp.float32), zo.rge(5e-4))
    with pytest.warns(UserWarning, match=r"mu=0.0005 is lost in float16 .* leaf \['w'\]"):
        jax.eval_shape(vg, half, None, KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.eval_shape(vg, {"w": jnp.ones(3)}, None, KEY)


def test_bfloat16_has_the_directions_of_float32():
    vg = zo.value_and_grad(lambda x, _: quadratic(x.astype(jnp.float32)), zo.rge(0.5, samples=4))
    x = jnp.asarray(X, jnp.bfloat16)
    low, high = jax.jit(lambda x: [vg(y, None, KEY)[1] for y in (x, x.astype(jnp.float32))])(x)
    assert np.corrcoef(np.float32(low), high)[0, 1] > 0.98


def test_zo_grasp_is_grasp_with_many_directions():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(12, 12)) / 3
    params = {"kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)}

    def f(p):
        return 0.5 * jnp.square(root.astype(np.float32) @ p["kernel"].ravel()).sum()

    hessian = root.T @ root
    theta = np.asarray(params["kernel"], np.float64).ravel()
    exact = theta * (hessian @ (hessian @ theta))

    @functools.partial(jax.jit, static_argnums=1)
    def scores(key, num):
        return bilevel.criteria.zo_grasp(f, params, key, num, 0.5)["kernel"].ravel()

    # On a quadratic mu gives no error of its own, so directions are all that is between the two.
    correlations = [
        np.corrcoef(np.mean([scores(jax.random.key(s), num) for s in range(4)], 0), exact)[0, 1]
        for num in (20, 5000)
    ]
    assert correlations[1] > 0.97
    assert correlations[1] > correlations[0]
    first_order = bilevel.criteria.grasp(lambda p, _: f(p), params, [None])["kernel"].ravel()
    np.testing.assert_allclose(np.corrcoef(first_order, exact)[0, 1], 1.0, atol=1e-6)
