"""What every solver promises: devices, resume, compilation, vmap, optax, errors, gradients."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import bilevel
from bilevel import Problem, Samples, power, projections
from optim import loop, parallel

rng = np.random.default_rng(0)
N, P, Q = 16, 3, 8  # Examples in a batch, numbers in x, numbers in y.


def upper(x, y, batch):
    a, b = batch
    return jnp.mean((a @ y["w"] + y["b"] - b) ** 2) + 0.1 * jnp.sum(x**2)


def lower(x, y, batch):
    a, b = batch
    weights = jnp.sum(jnp.exp(x) * jnp.arange(1.0, P + 1))
    return jnp.mean((a @ y["w"] + y["b"] - b) ** 2) + 0.05 * weights * jnp.sum(y["w"] ** 2)


PROBLEM = Problem(upper, lower, project_x=projections.box(-1.0, 1.0))
CONSTRAINED = Problem(
    upper,
    lower,
    constraint=lambda x, y, batch: jnp.sum(x)[None] + jnp.sum(y["w"]) + y["b"] - 0.5,
    project_xy=projections.joint(
        projections.halfspace((np.ones(P), {"b": 1.0, "w": np.ones(Q)}), 0.5)
    ),
    multiplier_bound=5.0,
)
X0, Y0 = np.zeros(P), {"b": np.zeros(()), "w": np.full(Q, 0.05)}


@functools.cache
def make(name, axis_name=None):
    """Returns a problem and a solver on it; cached, so that compiled steps are shared."""
    solver = {
        "f2sa": lambda **k: bilevel.f2sa(*bilevel.f2sa_schedules("both"), inner_steps=2, **k),
        "f3sa": lambda **k: bilevel.f3sa(*bilevel.f3sa_schedules("both"), **k),
        "penalty1": lambda **k: bilevel.penalty(0.1, 0.8, 0.1, power(1, -0.3), 1.0, 2, **k),
        "penalty2": lambda **k: bilevel.penalty(**bilevel.penalty_schedules("both"), **k),
        "lv_hba": lambda **k: bilevel.lv_hba(0.05, 0.1, 0.1, **k),
    }[name](axis_name=axis_name)
    return CONSTRAINED if name == "lv_hba" else PROBLEM, solver


SOLVERS = ["f2sa", "f3sa", "penalty1", "penalty2", "lv_hba"]


def batches(start):
    for k in range(start, 1000):
        r = np.random.default_rng(k)

        def one(r=r):
            return r.standard_normal((N, Q)), r.standard_normal(N)

        yield one(), one()


def close(a, b, tolerance=1e-11):
    for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(p, q, rtol=tolerance, atol=tolerance)


def same_bits(a, b):
    for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize("name", SOLVERS)
def test_eight_devices_equal_one_and_resume_is_bit_exact(name):
    """By the loop over a mesh, y split over it, by shard_map in the loop, in a user's own pmap."""
    with jax.enable_x64(True):
        problem, solver = make(name)
        one, metrics = bilevel.solve(problem, solver, X0, Y0, batches, 6, steps_per_call=3)
        assert all(m.shape == (6,) for m in metrics.values())
        assert not np.array_equal(one.x, X0)

        half, _ = bilevel.solve(problem, solver, X0, Y0, batches, 3, steps_per_call=3)
        half = jax.tree.map(lambda a: np.array(a), half)  # As from a checkpoint.
        resumed, rest = bilevel.solve(
            problem, solver, X0, Y0, batches, 6, state=half, steps_per_call=3
        )
        same_bits(resumed, one)
        same_bits(rest, {k: v[3:] for k, v in metrics.items()})

        mesh = parallel.data_mesh()
        assert mesh.size == 8
        rules = (("w$", PartitionSpec("data")), ("", None))
        placed = parallel.shard(solver.init(problem, X0, Y0), mesh, rules)
        split, split_metrics = bilevel.solve(
            problem, solver, X0, Y0, batches, 6, state=placed, mesh=mesh, steps_per_call=3
        )
        close(split, one)
        close(split_metrics, metrics)
        # What has the shape of y is still split.
        for before, after in zip(jax.tree.leaves(placed), jax.tree.leaves(split), strict=True):
            assert after.sharding.is_equivalent_to(before.sharding, after.ndim)
        assert [s.data.shape for s in split.y["w"].addressable_shards] == [(1,)] * 8
        _, mapped = make(name, "data")
        shard, shard_metrics = bilevel.solve(
            problem, mapped, X0, Y0, batches, 6, mesh=mesh, axis_name="data", steps_per_call=3
        )
        close(shard, one)
        close(shard_metrics, metrics)

        first = solver.init(problem, X0, Y0)
        stacked = jax.tree.map(lambda a: np.stack([a] * 8), first)
        many = jax.device_put(stacked, NamedSharding(mesh, PartitionSpec("data")))
        traces = []

        def counted(state, batch):
            traces.append(1)
            return mapped.step(state, batch)

        step, feed = jax.pmap(counted, "data"), batches(0)
        for k in range(6):
            shares = jax.tree.map(lambda a: a.reshape(8, -1, *a.shape[1:]), next(feed))
            many, many_metrics = step(many, shares)
            close(many_metrics["upper"], np.full(8, metrics["upper"][k]))
        close(jax.tree.map(lambda a: a[5], many), one)
        assert len(traces) == 1  # Schedules of sigma_k, c_k compile nothing anew.

        if name != "penalty1":
            return
        # A named axis is one of vmap as well.
        many = stacked
        step, feed = jax.jit(jax.vmap(mapped.step, axis_name="data")), batches(0)
        for _ in range(6):
            shares = jax.tree.map(lambda a: a.reshape(8, -1, *a.shape[1:]), next(feed))
            many, _ = step(many, shares)
        close(jax.tree.map(lambda a: a[5], many), one)


def test_samples_give_each_gradient_its_own_batch():
    problem, solver = make("penalty1")
    feed = batches(0)
    f, g = zip(*(next(feed) for _ in range(4)), strict=True)

    def inner(pair):
        return jax.tree.map(lambda *a: np.stack(a), *pair)

    s = Samples(inner(f[:2]), inner(g[:2]), inner(g[2:]), f[2], g[1], g[3])
    state = solver.init(problem, jnp.zeros(P), jax.tree.map(jnp.asarray, Y0))
    got, _ = jax.jit(solver.step)(state, jax.tree.map(jnp.asarray, s))

    u, v = state.y, state.z
    f_y, g_y = jax.jit(jax.grad(upper, 1)), jax.jit(jax.grad(lower, 1))
    for t in range(2):
        h_y = jax.tree.map(jnp.add, f_y(state.x, u, f[t]), g_y(state.x, u, g[t]))
        g_z = g_y(state.x, v, g[2 + t])
        u = jax.tree.map(lambda w, d, c: w - 0.1 * (d + w - c), u, h_y, state.y)
        v = jax.tree.map(lambda w, d, c: w - 0.1 * (d + w - c), v, g_z, state.z)
    f_x, g_x = jax.jit(jax.grad(upper)), jax.jit(jax.grad(lower))
    d = f_x(state.x, u, f[2]) + g_x(state.x, u, g[1]) - g_x(state.x, v, g[3])
    close((got.wy, got.wz, got.x), (u, v, jnp.clip(state.x - 0.1 * d, -1, 1)), 1e-5)
    with pytest.raises(ValueError, match=r"leading axis inner_steps=2, got shape \(3"):
        solver.step(
            state, s._replace(g_z=jax.tree.map(lambda a: np.concatenate([a, a[:1]]), s.g_z))
        )


def test_x_stays_in_its_set_and_the_residual_is_of_the_hypergradient():
    component = (np.int32(0), np.zeros(1))
    cases = (
        (bilevel.f2sa(0.1, 0.2, multiplier=2.0, step_ratio=1.0), 0.1, None),
        (bilevel.f3sa(0.1, 0.2, 1.0, multiplier=2.0, step_ratio=1.0), 0.1, None),
        (bilevel.penalty(0.3, 0.8, 0.2, 0.25, 1.0, 1), 0.3 * 0.25, None),
        (bilevel.penalty(0.3, 0.8, 0.2, 0.25, 1.0, momentum=1.0), 0.3 * 0.25, None),
        (bilevel.implicit(upper_step=0.1), 0.1, None),
        (bilevel.unrolled(upper_step=0.1), 0.1, None),
        (bilevel.soba(0.1, 0.1), 0.1, None),
        (bilevel.saba(1, 1, 0.1, 0.1), 0.1, (component, component)),
    )

    @jax.jit
    def first_steps(high):
        problem = Problem(
            upper=lambda x, y, b: (y - 1) ** 2 - 3 * x,
            lower=lambda x, y, b: (y - x) ** 2 / 2,
            project_x=projections.box(0.0, high),
        )
        steps = [solver.step(solver.init(problem, 0.0, 0.0), batch) for solver, _, batch in cases]
        return [(new.x, metrics["residual"]) for new, metrics in steps]

    for x, residual in first_steps(0.01):
        assert float(x) == float(residual) == pytest.approx(0.01)
    for (x, residual), (_, scale, _) in zip(first_steps(5.0), cases, strict=True):
        assert 2 < float(residual) == pytest.approx(float(x) / scale, rel=1e-5)


def test_ridge_damps_the_linear_system():
    problem = Problem(
        upper=lambda x, y, b: (y - 1) ** 2 - 3 * x, lower=lambda x, y, b: (y - x) ** 2 / 2
    )
    for ridge, expected in ((0.0, 5.0), (1.0, 4.0)):  # v = -2 / (1 + ridge), d = -3 + v.
        solver = bilevel.implicit(ridge=ridge)
        _, metrics = jax.jit(solver.step)(solver.init(problem, 0.0, 0.0), None)
        assert float(metrics["hypergradient"]) == pytest.approx(expected, rel=1e-6)


def test_cold_and_warm_inner_starts_of_the_penalty_method():
    batch, ends = jax.tree.map(jnp.asarray, next(batches(0))), []
    for warm in (True, False):
        solver = bilevel.penalty(0.1, 0.8, 0.1, 0.5, 1.0, 2, warm_start=warm)
        state = solver.init(PROBLEM, X0, Y0)
        far = jax.tree.map(lambda a: a + 1, state.wy)
        step = jax.jit(solver.step)
        ends.append([step(state._replace(wy=w), batch)[0].wy["b"] for w in (state.wy, far)])
    assert ends[0][0] == ends[1][0] == ends[1][1] != ends[0][1]


def test_what_lv_hba_reports():
    solver = bilevel.lv_hba(0.05, 0.1, 0.1, prox=2.0, multiplier_prox=0.5)
    batch = jax.tree.map(jnp.asarray, next(batches(0)))
    old = solver.init(CONSTRAINED, X0, Y0)._replace(lam=jnp.ones(1), z=jnp.full(1, 0.3))
    new, metrics = jax.jit(solver.step)(old, batch)
    g = CONSTRAINED.constraint
    value = lower(old.x, new.theta, batch[1]) + (new.lam * g(old.x, new.theta, None))[0]
    apart = sum(jnp.sum((new.theta[k] - old.y[k]) ** 2) for k in old.y)
    value += apart / (2 * 2.0) - jnp.sum((new.lam - old.z) ** 2) / (2 * 0.5)
    close(metrics["gap"], lower(old.x, old.y, batch[1]) - value, 1e-5)
    assert float(g(old.x, old.y, None)[0]) < 0 == float(metrics["feasibility"])
    moved = optax.tree.norm(optax.tree.sub((new.x, new.y), (old.x, old.y)))
    close(metrics["residual"], moved / 0.05, 1e-5)

    free = solver.init(Problem(upper, lower), X0, Y0)
    for alpha, size in ((0.05, 0.05), (optax.sgd(0.05), 1.0)):
        step = jax.jit(bilevel.lv_hba(alpha, 0.1, 0.1).step)
        start = free._replace(opt_xy=() if size < 1 else optax.sgd(0.05).init((free.x, free.y)))
        new, metrics = step(start, batch)
        moved = optax.tree.norm(optax.tree.sub((new.x, new.y), (free.x, free.y)))
        close(metrics["residual"], moved / size, 1e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_few_gradients_are_in_memory_at_once(name, users_compiler):
    """In a network, whose gradients XLA cannot fuse into the steps that they make."""
    width, samples = 128, 4
    y0 = [np.full((width, width), 0.1, np.float32), np.ones((width, 1), np.float32)]

    def loss(x, y, batch):
        return jnp.mean((jnp.tanh(batch @ y[0]) @ y[1] - jnp.sum(x)) ** 2)

    _, solver = make(name)
    state = solver.init(Problem(loss, loss), np.zeros(2, np.float32), y0)
    batch = (np.ones((samples, width), np.float32), np.zeros((samples, width), np.float32))
    step = jax.jit(solver.step, donate_argnums=0)
    compiled = step.lower(state, batch).compile(loop.compiler_options() | users_compiler)
    size = sum(a.nbytes for a in y0)
    assert compiled.memory_analysis().temp_size_in_bytes < 2.3 * size
    if name == "lv_hba":  # Nor are x, y and theta copied.
        assert f"f32[{width},{width}]{{1,0}} copy(" not in compiled.as_text()


def test_vmap_over_step_sizes_and_seeds():
    batch = jax.tree.map(jnp.asarray, next(batches(0)))

    def run(alpha, seed):
        solver = bilevel.penalty(alpha, 0.8, 0.1, 0.5, 1.0, 2)
        x0 = jax.random.uniform(jax.random.key(seed), (P,))
        state = solver.init(PROBLEM, x0, Y0)
        return jax.lax.fori_loop(0, 5, lambda _, s: solver.step(s, batch)[0], state).x

    alphas, seeds = jnp.array([0.1, 0.2]), jnp.array([0, 1])
    both = jax.jit(jax.vmap(run))(alphas, seeds)
    one = jax.jit(run)
    close(both, jnp.stack([one(alphas[0], 0), one(alphas[1], 1)]), 1e-5)


def test_schedules_of_traced_constants():
    both = jax.vmap(lambda b: bilevel.penalty_schedules("none", beta0=b)["averaging"])
    np.testing.assert_array_equal(both(jnp.array([0.5, 2.0])), [0.5, 1.0])
    assert jax.jit(lambda p: bilevel.lv_hba_schedule(p=p)(15))(0.25) == 2.0


def test_z0_takes_the_dtypes_of_y0():
    problem, solver = make("penalty1")
    z0 = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), Y0)
    state = solver.init(problem, X0, Y0, z0)
    assert jax.tree.map(jnp.result_type, state.z) == jax.tree.map(jnp.result_type, state.y)


def test_optax_transforms_are_step_sizes():
    batch = jax.tree.map(jnp.asarray, next(batches(0)))

    def after(solver, problem=PROBLEM):
        state = solver.init(problem, jnp.zeros(P), Y0)
        for _ in range(3):
            state, metrics = jax.jit(solver.step)(state, batch)
        return state, metrics

    plain, _ = after(bilevel.f2sa(0.1, 0.2, multiplier=2.0, inner_steps=2, step_ratio=1.0))
    sgd, adam = optax.sgd(0.1), optax.adam(0.1)
    same, _ = after(
        bilevel.f2sa(sgd, optax.sgd(0.2), multiplier=2.0, inner_steps=2, upper_step=sgd)
    )
    close((plain.x, plain.y), (same.x, same.y), 1e-6)
    plain, _ = after(bilevel.lv_hba(0.1, 0.1, 0.1), CONSTRAINED)
    same, _ = after(bilevel.lv_hba(sgd, 0.1, 0.1), CONSTRAINED)
    close((plain.x, plain.y), (same.x, same.y), 1e-6)
    state, metrics = after(bilevel.penalty(adam, 0.8, 0.1, 0.5, 1.0, 1))
    assert int(optax.tree.get(state.opt_x, "count")) == 3
    assert np.all(np.isfinite(list(metrics.values())))
    assert np.max(np.abs(state.x)) <= 1


def gradients(name, steps):
    """Counts, in the compiled step's trace, the gradients of each level and of the constraint."""
    problem, _ = make(name)
    counts = {"upper": 0, "lower": 0}

    def counted(level):
        fun = getattr(problem, level)

        @jax.custom_vjp
        def value(x, y, batch):
            return fun(x, y, batch)

        def forward(x, y, batch):
            counts[level] += 1
            return fun(x, y, batch), (x, y)

        def backward(residuals, cotangent):
            return (*jax.tree.map(jnp.zeros_like, residuals), None)

        value.defvjp(forward, backward)
        return value

    problem = dataclasses.replace(problem, upper=counted("upper"), lower=counted("lower"))
    solver = steps(name)
    state = solver.init(problem, jnp.zeros(P), Y0)
    batch = jax.tree.map(jnp.asarray, next(batches(0)))
    jax.make_jaxpr(solver.step)(state, batch)
    return counts


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("f2sa", {"upper": 2, "lower": 4}),
        ("f3sa", {"upper": 4, "lower": 8}),
        ("penalty1", {"upper": 2, "lower": 4}),
        ("penalty2", {"upper": 4, "lower": 8}),
        ("lv_hba", {"upper": 1, "lower": 3}),
    ],
)
def test_gradients_an_iteration(name, expected):
    # An inner loop is traced once, so these are the documented counts at T = 1.
    assert gradients(name, lambda n: make(n)[1]) == expected


def test_states_keep_their_dtypes():
    def shapes(tree, dtype=None):
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, dtype or a.dtype), tree)

    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        for name in SOLVERS:
            problem, solver = make(name)
            init = functools.partial(solver.init, problem)
            state = jax.eval_shape(init, shapes(X0, dtype), shapes(Y0, dtype))
            after, _ = jax.eval_shape(solver.step, state, shapes(next(batches(0)), dtype))
            assert shapes(after) == shapes(state)
            assert after.x.dtype == dtype


def test_bad_hyperparameters():
    bad = [
        (lambda: bilevel.f2sa(-1.0, 0.1), "penalized_step must be > 0, got -1.0"),
        (lambda: bilevel.f2sa(0.1, 0.0), "lower_step must be > 0, got 0.0"),
        (
            lambda: bilevel.f2sa(0.1, 0.1, inner_steps=0),
            "inner_steps must be an integer >= 1, got 0",
        ),
        (lambda: bilevel.f2sa(optax.sgd(0.1), 0.1), "multiplier must be given"),
        (lambda: bilevel.f2sa(0.1, 0.1, multiplier_step=0.1), "multiplier must be the number"),
        (
            lambda: bilevel.f2sa(0.1, 0.1, multiplier=1.0, multiplier_step=-1.0),
            "multiplier_step must be >= 0, got -1.0",
        ),
        (lambda: bilevel.f2sa_schedules("some"), "noise must be one of none, upper, both"),
        (lambda: bilevel.f3sa(0.1, 0.1, float("nan")), r"momentum must be in \(0, 1\], got nan"),
        (lambda: bilevel.penalty(0.1, 0.1, 0.1, 0.0), "upper_weight must be > 0, got 0.0"),
        (
            lambda: bilevel.penalty(0.1, 0.1, 0.1, 0.1, momentum=0.1, inner_steps=2),
            "inner_steps must be 1",
        ),
        (lambda: bilevel.f2sa(upper_step=0.1, step_ratio=1.0), "exclude each other, got both"),
        (lambda: bilevel.f3sa(0.1, 0.1, 2.0), r"momentum must be in \(0, 1\], got 2.0"),
        (lambda: bilevel.f3sa(optax.sgd(0.1), 0.1, 0.5), "penalized_step must be a number or"),
        (lambda: bilevel.penalty(0.1, 2.0, 0.1), r"averaging must be in \(0, 1\], got 2.0"),
        (lambda: bilevel.penalty("0.1", 0.8, 0.1), "upper_step must be a number or .*, got '0.1'"),
        (
            lambda: bilevel.penalty(0.1, 0.8, 0.1, prox=power(1, 0)),
            "prox must be a number, > 0, got",
        ),
        (
            lambda: bilevel.lv_hba(0.1, 0.1, 0.1, prox=True),
            "prox must be a number, > 0, got True",
        ),
        (
            lambda: bilevel.lv_hba(0.1, 0.1, 0.1, multiplier_prox=-3),
            "multiplier_prox must be > 0, got -3",
        ),
        (lambda: Problem(upper, 3), "lower must be callable, got 3"),
        (lambda: Problem(upper, lower, multiplier_bound=1.0), "need a constraint"),
        (
            lambda: Problem(upper, lower, upper, multiplier_bound=-1.0),
            "multiplier_bound must be > 0, got -1.0",
        ),
        (lambda: projections.box(1, 0), "low must be <= high, got 1 > 0"),
        (
            lambda: projections.box({"a": 0.0}, 1.0)({"b": jnp.zeros(2)}),
            "low must be one number or of the structure",
        ),
        (lambda: projections.box(np.zeros(3), 1.0)(jnp.zeros(())), "do not fit leaf root"),
        (lambda: projections.box(1.0, {"a": np.zeros(2)})({"a": np.ones(2)}), "low must be <= hi"),
        (lambda: projections.ball(-1.0), "radius must be > 0, got -1.0"),
        (lambda: projections.svm(np.ones((2, 1)), np.array([0, 1])), "labels must be -1 or 1"),
    ]
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_constraint_that_reads_its_batch():
    problem = Problem(
        upper, lower, lambda x, y, batch: batch[0][:2] @ y["w"],
        project_xy=lambda x, y: (x, y), multiplier_bound=1.0,
    )  # fmt: skip
    solver = bilevel.lv_hba(0.05, 0.1, 0.1)
    with pytest.raises(TypeError) as error:
        bilevel.solve(problem, solver, X0, Y0, batches, 2)
    assert any("solver.init(problem, x0, y0, batch)" in s for s in error.value.__notes__)
    state = solver.init(problem, X0, Y0, next(batches(0)))
    assert bilevel.solve(problem, solver, X0, Y0, batches, 2, state=state).state.lam.shape == (2,)


def test_bad_problems():
    _, f2sa = make("f2sa")
    _, penalty = make("penalty1")
    _, lv_hba = make("lv_hba")

    def start(solver, x0=X0, y0=Y0, **changes):
        fields = {"upper": upper, "lower": lower} | changes
        return solver.init(Problem(**fields), x0, y0)

    g = CONSTRAINED.constraint
    box = projections.box(0.0, 1.0)
    with pytest.raises(ValueError, match="lv_hba needs multiplier_bound > 0"):
        start(lv_hba, constraint=g, project_xy=CONSTRAINED.project_xy)
    with pytest.raises(ValueError, match="lv_hba needs project_xy"):
        start(lv_hba, constraint=g, multiplier_bound=1.0)
    for solver in (penalty, f2sa):
        with pytest.raises(ValueError, match=r"takes no constraint: use .*lv_hba"):
            start(solver, constraint=g)
    with pytest.raises(ValueError, match=r"f2sa takes no project_y: use bilevel\.penalty"):
        start(f2sa, project_y=box)
    with pytest.raises(ValueError, match="project_y must keep the structure"):
        start(penalty, project_y=lambda y: y["w"])
    with pytest.raises(ValueError, match=r"project_y must keep shape and dtype of leaf \['w'\]"):
        start(penalty, project_y=lambda y: y | {"w": y["w"][:1]})
    whole = CONSTRAINED.project_xy
    with pytest.raises(ValueError, match="constraint must return floats, got int32"):
        start(lv_hba, constraint=lambda x, y, b: jnp.zeros(2, int), multiplier_bound=1.0,
              project_xy=whole)  # fmt: skip
    with pytest.raises(ValueError, match="equality must be True or False, got 'yes'"):
        start(lv_hba, constraint=g, equality="yes")
    with pytest.raises(ValueError, match=r"y\['w'\] must be a floating-point array, got int"):
        start(penalty, y0=Y0 | {"w": np.ones(Q, int)})
    with pytest.warns(UserWarning, match="x0 is infeasible: projected by project_x, a move of 2"):
        state = start(penalty, x0=np.array([0, 3.0, 0]), project_x=box)
    assert np.max(state.x) == 1


def test_bad_steps():
    batch = next(batches(0))
    for name in SOLVERS:
        problem, solver = make(name)
        state = solver.init(problem, X0, Y0)
        for wrong in (batch[0][0], (batch[0],), {"upper": 1}):
            with pytest.raises(ValueError, match="the pair \\(upper_batch, lower_batch\\)"):
                solver.step(state, wrong)
        for level in ("upper", "lower"):
            vector = dataclasses.replace(problem, **{level: lambda x, y, b: x})
            bad = state._replace(problem=vector)
            with pytest.raises(
                ValueError, match=rf"{level} must return a scalar, got shape \(3,\)"
            ):
                jax.eval_shape(solver.step, bad, batch)
    for wrong, message in ((3, "return a float, got int32"), ((1.0, 2.0), "scalar, got tuple")):
        bad = state._replace(problem=dataclasses.replace(problem, upper=lambda *_, w=wrong: w))
        with pytest.raises(ValueError, match=f"upper must .*{message}"):
            jax.eval_shape(solver.step, bad, batch)
    with pytest.raises(ValueError, match="axis_name must be the solver's, None, got 'data'"):
        bilevel.solve(*make("f2sa"), X0, Y0, batches, 1, axis_name="data")


def test_the_first_number_that_is_not_finite_is_named():
    problem, solver = make("f2sa")

    def poisoned(start):
        for k, (f, g) in zip(range(start, 100), batches(start), strict=False):
            yield ((f[0], f[1] * (np.nan if k == 4 else 1)), g)

    with pytest.raises(loop.NonFiniteError, match="is nan at step 5"):
        bilevel.solve(problem, solver, X0, Y0, poisoned, 10, steps_per_call=5)


def test_diagnose_finds_the_spectral_radius():
    with jax.enable_x64(True):
        a = np.array([[1.0, 0.4], [0.0, 2.0]])
        problem = Problem(
            upper=lambda x, y, b: jnp.sum((y - 1) ** 2) + jnp.sum(x * (a @ y)),
            lower=lambda x, y, b: jnp.sum((y - a @ x) ** 2),
        )
        for alpha, stable in ((0.05, True), (2.0, False)):
            solver = bilevel.f2sa(alpha, 0.2, multiplier=1.0, inner_steps=1, step_ratio=1.0)
            state = solver.init(problem, np.ones(2), np.zeros(2))

            def flat_step(v, state=state, solver=solver):
                x, y, z = jnp.split(v, 3)
                new, _ = solver.step(state._replace(x=x, y=y, z=z), None)
                return jnp.concatenate([new.x, new.y, new.z])

            radius = np.max(np.abs(np.linalg.eigvals(jax.jit(jax.jacobian(flat_step))(np.ones(6)))))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = bilevel.diagnose(problem, solver, state)
            assert found.stable == stable == (radius <= 1)
            assert abs(found.spectral_radius - radius) <= 2e-3 * radius
            assert bool(caught) != stable
            if not stable:
                assert "locally unstable" in str(caught[0].message)
        lost = state._replace(x=jnp.full(2, jnp.nan))
        with pytest.warns(UserWarning, match="no spectral radius: a derivative of the step"):
            assert not bilevel.diagnose(problem, solver, lost).stable
