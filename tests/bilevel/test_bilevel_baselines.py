"""Implicit, unrolled, SOBA and SABA: hypergradients, convergence, devices, errors."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bilevel_records import load
from jax.sharding import NamedSharding, PartitionSpec

import bilevel
from experiments.problems import closed_form
from optim import parallel


def form(name, record=None):
    stored = load(record or f"penalty_{name[0].upper()}{name[1:]}_s0")
    data = {k.removeprefix("data_"): v for k, v in stored.items() if k.startswith("data_")}
    return closed_form.PROBLEMS[name](data, stored["x0"], stored["y0"])


def direction(solver, problem, x, y, batch=None):
    """The hypergradient a solver uses: its step in x with alpha = 1, which the tests set."""
    step = jax.jit(solver.step)
    state, metrics = step(solver.init(problem, x, y), batch)
    d = jax.tree.map(lambda a, b: a - b, x, state.x)
    np.testing.assert_allclose(metrics["hypergradient"], jnp.linalg.norm(d), rtol=1e-12)
    return d


EXACT = {
    ("p1", "cg"): bilevel.implicit("cg", 1.0, 0.4, inner_steps=300, linear_steps=6),
    ("p1", "neumann"): bilevel.implicit(
        "neumann", 1.0, 0.4, inner_steps=300, linear_steps=300, linear_step=0.4
    ),
    ("p3", "normal_cg"): bilevel.implicit("normal_cg", 1.0, 0.4, inner_steps=300, linear_steps=60),
    ("p3", "unrolled"): bilevel.unrolled(300, 1.0, 0.4),
}


@pytest.mark.parametrize(("name", "method"), EXACT)
def test_hypergradient_is_exact_with_enough_steps(name, method):
    with jax.enable_x64(True):
        case = form(name)
        x = 0.3 * case.x0
        problem = dataclasses.replace(case.problem, project_x=None)
        d = direction(EXACT[name, method], problem, x, case.y0)
        np.testing.assert_allclose(d, jax.jit(case.grad_psi)(x), rtol=1e-9, atol=1e-9)


def test_unrolled_is_reverse_mode_through_the_loop_and_starts_as_told():
    with jax.enable_x64(True):
        case = form("p3")
        problem = case.problem
        x, y = 0.3 * case.x0, 2.0 * case.y0
        rates = [0.3, 0.15]

        def through_the_loop(x, y, rate):
            for _ in range(4):
                y = problem.project_y(y - rate * jax.grad(problem.lower, 1)(x, y, None))
            return problem.upper(x, y, None), y

        expected = jax.jit(jax.grad(through_the_loop, has_aux=True))
        start = problem.project_y(y)
        for warm in (True, False):
            solver = bilevel.unrolled(4, 0.1, lambda k: jnp.array(rates)[k], warm_start=warm)
            step = jax.jit(solver.step)
            with pytest.warns(UserWarning, match="y0 is infeasible"):
                state = solver.init(problem, x, y)
            a, b = state.x, start
            for rate in rates:
                d, end = expected(a, b, rate)
                a, b = problem.project_x(a - 0.1 * d), end if warm else start
                state, metrics = step(state, None)
                np.testing.assert_allclose(state.x, a, rtol=1e-12)
                np.testing.assert_allclose(state.y, end, rtol=1e-12)
        assert set(metrics) >= {"upper", "lower", "residual", "lower_residual"}


def test_unrolled_differentiates_through_an_optimizer_and_is_maml():
    with jax.enable_x64(True):
        case = form("p1")
        problem, x, tx = case.problem, 0.3 * case.x0, optax.adam(0.1)

        def adapted(x):
            y, opt = case.y0, tx.init(case.y0)
            for _ in range(3):
                updates, opt = tx.update(jax.grad(problem.lower, 1)(x, y, None), opt, y)
                y = optax.apply_updates(y, updates)
            return problem.upper(x, y, None), y

        solver = bilevel.unrolled(3, 1.0, tx, warm_start=False)
        step = jax.jit(solver.step)
        state, metrics = step(solver.init(problem, x, case.y0), None)
        d, y = jax.jit(jax.grad(adapted, has_aux=True))(x)
        np.testing.assert_allclose(x - state.x, d, rtol=1e-10)
        np.testing.assert_allclose(state.y, y, rtol=1e-12)
        np.testing.assert_allclose(metrics["hypergradient"], np.linalg.norm(d), rtol=1e-10)

        def maml(x):  # The task's parameters begin at x.
            params = x
            for _ in range(2):
                params = params - 0.1 * jax.grad(loss)(params, 3.0)
            return loss(params, 2.0)

        def loss(params, task):
            return jnp.sum(jnp.sin(params - task) ** 2)

        meta = bilevel.Problem(
            lambda x, y, task: loss(x + y, task), lambda x, y, task: loss(x + y, task)
        )
        solver = bilevel.unrolled(2, 1.0, 0.1, warm_start=False)
        state = solver.init(meta, np.ones(2), np.zeros(2))
        state, _ = jax.jit(solver.step)(state, (2.0, 3.0))
        np.testing.assert_allclose(1 - state.x, jax.grad(maml)(np.ones(2)), rtol=1e-10)
    with pytest.raises(ValueError, match="no optax transform with axis_name"):
        bilevel.unrolled(2, 0.1, optax.sgd(0.1), axis_name="i")


def test_unrolled_and_implicit_take_a_batch_for_each_inner_step():
    with jax.enable_x64(True):
        case = form("p1", "penalty_stoch_s0")
        ids = np.array([3, 0, 7], np.int32)
        problem = case.problem
        x, y = case.x0, case.y0

        def run(x):
            z = y
            for i in ids:
                z = z - 0.2 * jax.grad(problem.lower, 1)(x, z, i)
            return problem.upper(x, z, 5), z

        @jax.jit
        def expected(x):
            d, z = jax.grad(run, has_aux=True)(x)
            H = jax.hessian(problem.lower, 1)(x, z, 2)
            J = jax.jacfwd(jax.grad(problem.lower, 1), 0)(x, z, 2)
            F_x, F_y = jax.grad(problem.upper, (0, 1))(x, z, 5)
            return d, F_x - J.T @ jnp.linalg.solve(H, F_y), z

        through, by_theorem, end = expected(x)
        samples = bilevel.Samples(ids, ids, ids, np.int32(5), None, np.int32(2))
        solver = bilevel.unrolled(3, 1.0, 0.2)
        state, _ = jax.jit(solver.step)(solver.init(problem, x, y), samples)
        np.testing.assert_allclose(x - state.x, through, rtol=1e-12)
        solver = bilevel.implicit("cg", 1.0, 0.2, inner_steps=3, linear_steps=8)
        state, _ = jax.jit(solver.step)(solver.init(problem, x, y), samples)
        np.testing.assert_allclose(x - state.x, by_theorem, rtol=1e-9)
        np.testing.assert_allclose(state.y, end, rtol=1e-12)


def test_soba_takes_all_three_steps_at_one_point():
    with jax.enable_x64(True):
        case = form("p1", "penalty_stoch_s0")
        problem, i, j = case.problem, np.int32(4), np.int32(9)
        solver = bilevel.soba(lower_step=lambda k: 0.2 / (k + 1), upper_step=0.05)
        state, step = solver.init(problem, case.x0, case.y0), jax.jit(solver.step)

        @jax.jit
        def expected(x, y, v, rho):
            H = jax.hessian(problem.lower, 1)(x, y, j)
            J = jax.jacfwd(jax.grad(problem.lower, 1), 0)(x, y, j)
            F_x, F_y = jax.grad(problem.upper, (0, 1))(x, y, i)
            f_y = jax.grad(problem.lower, 1)(x, y, j)
            return x - 0.05 * (J.T @ v + F_x), y - rho * f_y, v - rho * (H @ v + F_y)

        point = case.x0, case.y0, np.zeros(6)
        for k in range(3):
            point = expected(*point, 0.2 / (k + 1))
            state, _ = step(state, (i, j))
        for got, want in zip((state.x, state.y, state.v), point, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12)


def indexed(problem):
    """The same problem with components {"i": index}, which have a leading axis in a batch."""
    return bilevel.Problem(
        lambda x, y, b: problem.upper(x, y, b["i"]), lambda x, y, b: problem.lower(x, y, b["i"])
    )


def saba_batch(upper, lower):
    return (upper, {"i": upper}), (lower, {"i": lower})


def test_saba_converges_with_constant_steps_where_soba_does_not():
    with jax.enable_x64(True):
        case = form("p1", "penalty_stoch_s0")
        problem = indexed(case.problem)
        ids = np.random.default_rng(0).integers(0, 16, (2, 4000, 2))  # With repeats in a batch.

        def last(solver, batches):
            state = solver.init(problem, case.x0, case.y0)
            body = lambda s, b: (solver.step(s, b)[0], None)  # noqa: E731
            return jax.jit(lambda s, b: jax.lax.scan(body, s, b)[0])(state, batches)

        solver = bilevel.saba(16, 16, lower_step=0.15, upper_step=0.15)
        state = last(solver, saba_batch(*ids))
        assert np.linalg.norm(state.x - case.minimizer()) < 1e-9
        for table in (state.f_y, state.f_xy_v, state.F_x):
            np.testing.assert_allclose(table.mean, table.rows.mean(0), atol=1e-13)
        noisy = last(bilevel.soba(0.15, 0.15), tuple({"i": i[:, 0]} for i in ids))
        assert np.linalg.norm(noisy.x - case.minimizer()) > 1e-3


def test_saba_of_one_component_without_a_leading_axis():
    case = form("p1", "penalty_stoch_s0")
    solver = bilevel.saba(16, 16)
    problem, step = indexed(case.problem), jax.jit(solver.step)
    a = b = solver.init(problem, case.x0, case.y0)
    for i in np.int32([3, 5, 3]):
        a, _ = step(a, saba_batch(i, i))
        b, _ = step(b, saba_batch(np.array([i]), np.array([i])))
    np.testing.assert_allclose(a.x, b.x, rtol=1e-6)
    lost, _ = step(a, saba_batch(np.int32(16), np.int32(16)))  # The table has no row for it.
    assert np.isnan(lost.x).all()


MEANS = bilevel.Problem(
    lambda x, y, b: jnp.mean((b @ y - 1.0) ** 2) + 0.1 * x @ x,
    lambda x, y, b: 0.5 * jnp.mean((b @ (y - x)) ** 2) + 0.05 * y @ y,
)


@pytest.mark.parametrize(
    "solver",
    [
        partial(bilevel.implicit, "normal_cg", inner_steps=2, linear_steps=2),
        partial(bilevel.unrolled, 3),
        bilevel.soba,
        partial(bilevel.saba, 32, 32),
    ],
    ids=["normal_cg", "unrolled", "soba", "saba"],
)
def test_eight_devices_equal_one_and_y_may_be_split(solver):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2, 2, 16, 8)).astype(np.float32)
    batches = [(rows[t, 0], rows[t, 1]) for t in range(2)]
    is_saba = solver.func is bilevel.saba if isinstance(solver, partial) else False
    if is_saba:
        ids = np.stack([np.arange(16), np.arange(16)[::-1]]).astype(np.int32)
        batches = [
            ((i, b[0][:, None]), (i, b[1][:, None])) for i, b in zip(ids, batches, strict=True)
        ]
    start = rng.normal(size=(2, 8)).astype(np.float32)
    mesh = parallel.data_mesh()
    whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))

    def run(step, place=lambda b: b, on=None):
        state = solver().init(MEANS, *start)
        layout = on if on is None else jax.tree.map(on, state)
        state = jax.device_put(state, layout)  # Where a step leaves it.
        for batch in batches:
            state, metrics = step(state, place(batch))
        if layout is not None:
            kept = jax.tree.map(lambda a, s: a.sharding.is_equivalent_to(s, a.ndim), state, layout)
            assert all(jax.tree.leaves((kept.y, kept.v if hasattr(kept, "v") else ())))
        return jax.device_get((state.x, state.y, metrics["hypergradient"], metrics["upper"]))

    expected = run(jax.jit(solver().step))
    mapped = jax.shard_map(
        solver(axis_name="data").step,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec(),
    )

    def columns(x):
        """Splits what has the shape of x or y, SABA's tables of such too."""
        axes = [None] * (x.ndim - 1) + ["data"]
        return NamedSharding(mesh, PartitionSpec(*axes)) if x.shape[-1:] == (8,) else whole

    def spread(batch):
        return jax.device_put(batch, split)

    got = [
        run(jax.jit(mapped), spread, lambda x: whole),
        run(jax.jit(solver().step), spread, columns),
    ]
    for result in got:
        for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_pmap_equals_one_device():
    solver = bilevel.unrolled(3, axis_name="i")
    rows = np.random.default_rng(1).normal(size=(2, 16, 3)).astype(np.float32)
    start = np.float32([0.5, -1.0, 2.0]), np.float32([1.0, 0.0, -1.0])
    alone = bilevel.unrolled(3)
    expected, _ = jax.jit(alone.step)(alone.init(MEANS, *start), tuple(rows))
    step = jax.pmap(solver.step, axis_name="i", in_axes=(None, 0), out_axes=None)
    got, _ = step(solver.init(MEANS, *start), tuple(rows.reshape(2, 8, 2, 3)))
    np.testing.assert_allclose(got.x, expected.x, rtol=1e-5)


def test_check_hypergradient_on_closed_forms():
    with jax.enable_x64(True):
        for name in ("p2a", "p3"):
            case = form(name)
            x = 0.3 * case.x0
            given = np.asarray(jax.jit(case.grad_psi)(x))
            check = bilevel.check_hypergradient(case.problem, x, case.y0, hypergradient=given)
            assert check.relative_error < 1e-7, name
            assert check.lower_residual < 1e-10
            if name == "p3":  # p2a has many lower solutions; the check takes the nearest.
                assert check.given_error < 1e-7
                np.testing.assert_allclose(check.implicit, given, rtol=1e-9)


def test_check_hypergradient_says_that_there_is_no_lower_solution():
    def product(x, y, batch):
        return jnp.sum(x * y)

    problem = bilevel.Problem(lambda x, y, batch: jnp.sum(y**2), product)
    with pytest.warns(UserWarning, match="the lower level is not solved"):
        bilevel.check_hypergradient(problem, np.array([0.1]), np.zeros(1))
    with pytest.raises(ValueError, match=r"hypergradient must have .*\(1,\), got \(3,\)"):
        bilevel.check_hypergradient(MEANS, np.zeros(1), np.zeros(1), hypergradient=np.zeros(3))
    with pytest.raises(ValueError, match="batch must be None or the pair"):
        bilevel.check_hypergradient(MEANS, np.zeros(1), np.zeros(1), np.zeros(3))


@pytest.mark.parametrize("equality", [False, True])
def test_check_hypergradient_with_a_coupling_constraint(equality):
    # y = (x1 + t, x2 + t) on the line y1 + y2 = x1: t = -x2 / 2 and the multiplier is x2.
    problem = bilevel.Problem(
        upper=lambda x, y, batch: jnp.sum(y["a"] ** 2) + x[1],
        lower=lambda x, y, batch: jnp.sum((y["a"] - x) ** 2),
        constraint=lambda x, y, batch: jnp.sum(y["a"]) - x[0],
        equality=equality,
    )
    x = np.array([1.0, 3.0])
    check = bilevel.check_hypergradient(problem, x, {"a": np.zeros(2)}, hypergradient=-x)
    np.testing.assert_allclose(check.y["a"], [-0.5, 1.5], atol=1e-9)
    np.testing.assert_allclose(check.multipliers, [3.0], atol=1e-9)
    # psi = (x1 - x2 / 2)^2 + (x2 / 2)^2 + x2
    np.testing.assert_allclose(check.implicit, [-1.0, 0.5 + 1.5 + 1.0], atol=1e-8)
    assert check.relative_error < 1e-7
    assert check.given_error > 0.5


def test_bad_input():
    constrained = bilevel.Problem(MEANS.upper, MEANS.lower, constraint=lambda x, y, b: x + y)
    boxed = bilevel.Problem(MEANS.upper, MEANS.lower, project_y=lambda y: jnp.clip(y, 0, 1))
    x, batch = np.zeros(3, np.float32), (np.ones((4, 3), np.float32),) * 2
    for solver in (bilevel.implicit(), bilevel.unrolled(), bilevel.soba(), bilevel.saba(2, 2)):
        with pytest.raises(ValueError, match="takes no constraint"):
            solver.init(constrained, x, x)
    for solver in (bilevel.soba(), bilevel.saba(2, 2)):
        with pytest.raises(ValueError, match="takes no project_y"):
            solver.init(boxed, x, x)
    with pytest.raises(ValueError, match="normal_cg or neumann"):
        bilevel.implicit("cg").init(boxed, x, x)
    for make, text in (
        (lambda: bilevel.implicit("lu"), "linear_solver must be one of cg, normal_cg, neumann"),
        (lambda: bilevel.implicit(ridge=-1.0), "ridge must be >= 0, got -1"),
        (lambda: bilevel.implicit(inner_steps=0), "inner_steps must be an integer >= 1"),
        (lambda: bilevel.unrolled(2.5), "inner_steps must be an integer >= 1"),
        (lambda: bilevel.unrolled(lower_step=-0.1), "lower_step must be > 0"),
        (lambda: bilevel.soba(lower_step=0.0), "lower_step must be > 0"),
        (lambda: bilevel.saba(0, 4), "upper_samples must be an integer >= 1"),
    ):
        with pytest.raises(ValueError, match=text):
            make()
    solver = bilevel.saba(4, 4)
    state = solver.init(MEANS, x, x)
    for wrong, text in (
        (batch, "for one level"),
        (((np.ones(4), batch[0]),) * 2, "ids must be integers"),
        (((np.arange(3), batch[0]),) * 2, "must have the leading axis of ids, 3"),
    ):
        with pytest.raises(ValueError, match=text):
            solver.step(state, wrong)
    with pytest.raises(ValueError, match="at most 1000 numbers"):
        bilevel.check_hypergradient(MEANS, np.zeros(2000), np.zeros(2), batch)
