"""Stopping and looking: tolerances, patience, callbacks, fixed batches, what a run says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import datasets, linear_model

import bilevel
from bilevel import power
from experiments.problems import closed_form, constrained


def upper(x, y, batch):
    return jnp.sum((y - 1.0) ** 2) + 0.5 * jnp.sum(x**2)


def lower(x, y, batch):
    return jnp.sum((y - x) ** 2)


PROBLEM = bilevel.Problem(upper, lower)  # x* = y* = 2 / 3.
SOLVER = bilevel.implicit(upper_step=0.2, lower_step=0.3)
ZERO = np.zeros(2, np.float32)


def test_a_run_says_what_ended_it():
    stopped = bilevel.solve(PROBLEM, SOLVER, ZERO, ZERO, tol=1e-4)
    assert stopped.ended_by == "tol"
    assert len(stopped.metrics["upper"]) == int(stopped.state.count) == 100
    assert all(stopped.metrics[k][-1] <= 1e-4 for k in SOLVER.residuals)
    np.testing.assert_allclose(stopped.state.x, 2 / 3, atol=1e-4)
    state, metrics = stopped
    assert state is stopped.state
    assert metrics is stopped.metrics

    seen = []

    def callback(state, metrics):
        seen.append((int(state.count), len(metrics["upper"])))
        return len(seen) == 2

    called = bilevel.solve(PROBLEM, SOLVER, ZERO, ZERO, callback=callback, steps_per_call=7)
    assert (called.ended_by, seen) == ("callback", [(7, 7), (14, 7)])
    assert bilevel.solve(PROBLEM, SOLVER, ZERO, ZERO, steps=3).ended_by == "steps"
    ended = bilevel.solve(PROBLEM, SOLVER, ZERO, ZERO, stop=lambda t: True, steps_per_call=5)
    assert (ended.ended_by, int(ended.state.count)) == ("stop", 5)

    again = bilevel.solve(
        PROBLEM, SOLVER, None, None, state=called.state, max_steps=4, history=False,
        steps_per_call=3,
    )  # fmt: skip
    assert int(again.state.count) == 18  # Counted from where it starts.
    assert len(again.metrics["upper"]) == 3  # Those of the last call.
    with pytest.warns(UserWarning, match=r"tol=1e-12 was not reached: {'residual'"):
        bilevel.solve(PROBLEM, SOLVER, ZERO, ZERO, tol=1e-12, max_steps=3)


def test_patience_keeps_the_best_iterate():
    overfits = bilevel.Problem(
        lambda x, y, b: jnp.sum((y - jnp.minimum(x, 0.5)) ** 2) - jnp.sum(x) + 2 * jnp.sum(x**2),
        lower,
    )
    solver = bilevel.unrolled(10, upper_step=lambda k: jnp.where(k < 20, 0.05, -0.05))
    solution = bilevel.solve(
        overfits, solver, ZERO, ZERO, patience=4, steps_per_call=2, max_steps=200
    )
    values = solution.metrics["upper"]
    assert solution.ended_by == "patience"
    best = solution.best
    assert best.value == values[best.step - 1] == values[1::2].min()
    assert int(solution.state.count) == best.step + 4
    assert not np.array_equal(best.x, solution.state.x)
    with pytest.raises(ValueError, match=r"monitor must be one of .*, upper, got 'loss'"):
        bilevel.solve(overfits, solver, ZERO, ZERO, patience=1, monitor="loss", max_steps=2)


def test_one_batch_for_all_steps_and_bad_batches():
    problem = bilevel.Problem(
        lambda x, y, b: jnp.sum((y - b) ** 2) + 0.5 * jnp.sum(x**2),
        lambda x, y, b: jnp.sum((y - b * x) ** 2),
    )
    batch = (np.float32(1.0), np.float32(1.0))
    solution = bilevel.solve(problem, SOLVER, ZERO, ZERO, batch=batch, tol=1e-4)
    np.testing.assert_allclose(solution.state.x, 2 / 3, atol=1e-4)
    with pytest.raises(ValueError, match="batch and batches exclude each other"):
        bilevel.solve(problem, SOLVER, ZERO, ZERO, lambda k: iter(()), batch=batch)
    with pytest.raises(ValueError, match="for one batch in all iterations pass batch="):
        bilevel.solve(problem, SOLVER, ZERO, ZERO, batch)
    mean = bilevel.Problem(
        lambda x, y, b: jnp.sum(y**2) + 0 * jnp.sum(b), lambda x, y, b: jnp.sum((y - x) ** 2)
    )
    features, labels = np.ones((8, 3), np.float32), np.ones(8, np.float32)
    with pytest.raises(ValueError, match=r"make \(\(X, y\), \(X, y\)\)"):
        bilevel.solve(mean, SOLVER, ZERO, ZERO, batch=(features, labels), max_steps=2)


def test_a_state_belongs_to_its_problem():
    other = bilevel.Problem(lambda x, y, b: jnp.sum(y**2), lower)
    state = bilevel.solve(PROBLEM, SOLVER, ZERO, ZERO, steps=3).state
    for run in (bilevel.solve, bilevel.minimize):
        with pytest.raises(ValueError, match="state is of another problem"):
            run(other, SOLVER, None, None, state=state)
    warm = bilevel.solve(other, SOLVER, None, None, state=state._replace(problem=other), tol=1e-4)
    np.testing.assert_allclose(warm.state.x, 0, atol=1e-3)
    same = dataclasses.replace(PROBLEM)
    assert same == PROBLEM
    assert hash(same) == hash(PROBLEM)
    state = bilevel.solve(PROBLEM, SOLVER, ZERO, ZERO, steps=3).state
    assert int(bilevel.solve(same, SOLVER, None, None, state=state, steps=5).state.count) == 5


def test_a_run_says_where_it_is_not_to_be_trusted():
    diverges = bilevel.implicit("neumann", 1e-3, 0.1, linear_step=2.0)
    with pytest.warns(UserWarning, match=r"the linear system was not solved: .* residual is"):
        bilevel.solve(PROBLEM, diverges, ZERO, ZERO, steps=1)
    deaf = bilevel.Problem(upper, lambda x, y, b: jnp.sum(x**2))
    with pytest.warns(UserWarning, match="the lower level did not move"):
        bilevel.solve(deaf, bilevel.unrolled(), ZERO + 1, ZERO, steps=5)
    # From zero the upper gradient in x vanishes too.
    with pytest.warns(UserWarning, match="nothing moved: x and y are what they were"):
        bilevel.solve(deaf, bilevel.unrolled(), ZERO, ZERO, steps=5)
    mute = bilevel.Problem(lambda x, y, b: jnp.sum(y**2), lambda x, y, b: jnp.sum((y - 1) ** 2))
    with pytest.warns(UserWarning, match="the upper level did not move"):
        bilevel.solve(mute, bilevel.unrolled(), ZERO, ZERO, steps=5)
    loss = bilevel.pruning.problem(lambda p, b: jnp.sum((p["w"] - 1) ** 2))
    weights = {"w": np.zeros((4, 4), np.float32)}
    with pytest.warns(UserWarning, match="nothing moved"):
        bilevel.solve(loss, bilevel.sparse_training(0.0), None, weights, steps=2)
    # x may stay where its set ends.
    bounded = dataclasses.replace(PROBLEM, project_x=bilevel.projections.box(0.0, 0.5))
    bilevel.solve(bounded, SOLVER, ZERO + 0.5, ZERO, steps=3)


def test_what_solve_cannot_run_is_refused_by_name():
    def run(problem=PROBLEM, solver=SOLVER, x0=ZERO, y0=ZERO, run=bilevel.solve, **options):
        return run(problem, solver, x0, y0, **options)

    penalty = bilevel.penalty(0.3, 0.8, 0.2)
    wide = bilevel.implicit(upper_step=lambda k: jnp.full(2, 0.1), lower_step=0.3)
    adam = bilevel.implicit(upper_step=optax.adam(0.1), lower_step=0.3)
    started = SOLVER.init(PROBLEM, ZERO, ZERO)
    for options, message in (
        ({"solver": bilevel.implicit}, "solver must be a bilevel.Solver .*, got implicit"),
        ({"problem": upper}, "problem must be a bilevel.Problem, got function"),
        (
            {"solver": wide, "steps": 2},
            r"schedule must return one number, got an array of shape \(2",
        ),
        ({"y0": None}, r"y0 must be a pytree of arrays \(or pass state=\), got None"),
        ({"x0": None}, "x must have at least one array, got None"),
        ({"x0": {"a": "b"}}, r"x\['a'\] must be a floating-point array, got str"),
        ({"monitor": "lower"}, "monitor is what patience looks at: .* got monitor='lower'"),
        ({"callback": 3}, "callback must be callable, got 3"),
        ({"solver": penalty, "state": started}, r"ImplicitState of another solver than this pen"),
        ({"solver": adam, "state": started}, r"or of other options; they differ in \.opt_x\[0\]"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**options)
    for method in (bilevel.solve, bilevel.minimize):
        with pytest.raises(ValueError, match="tol: hydra has no residual that vanishes"):
            method(PROBLEM, bilevel.hydra(0.1, 0.5), ZERO, ZERO, tol=1e-3)
    with pytest.raises(ValueError, match=r"not under jit, vmap or grad: bilevel\.minimize does"):
        jax.jit(lambda x: run(x0=x, steps=2).state.x)(ZERO)


def test_minimize_is_a_pure_function():
    zero = jnp.zeros(2)
    alone = bilevel.minimize(PROBLEM, SOLVER, zero, zero, tol=1e-4)
    assert bool(alone.converged)
    assert 1 < int(alone.steps) == int(alone.state.count) < 100
    np.testing.assert_allclose(alone.x, 2 / 3, atol=1e-4)
    starts = jnp.array([[0.0, 0.0], [3.0, -2.0]])
    many = jax.jit(jax.vmap(lambda x0: bilevel.minimize(PROBLEM, SOLVER, x0, zero, tol=1e-4)[:2]))(
        starts
    )
    np.testing.assert_allclose(many[0], np.full((2, 2), 2 / 3), atol=1e-4)
    short = bilevel.minimize(PROBLEM, SOLVER, zero, zero, tol=1e-4, max_steps=2)
    assert (int(short.steps), bool(short.converged)) == (2, False)
    grown = bilevel.minimize(PROBLEM, bilevel.implicit(upper_step=1e6), zero, zero, max_steps=500)
    assert int(grown.steps) < 500  # Ends where a residual is not finite.


@dataclasses.dataclass
class Fit:
    """A callable that compares by value and does not hash."""

    a: jax.Array

    def __call__(self, x, y, batch):
        return jnp.sum((self.a @ y - 1) ** 2) + jnp.sum(x**2)

    def method(self, x, y, batch):
        return self(x, y, batch)


def test_problems_of_any_callables():
    for scale in (1.0, 2.0, 1.0):
        for fun in (Fit(scale * jnp.eye(2)), Fit(scale * jnp.eye(2)).method):
            problem = bilevel.Problem(fun, lower)
            found = bilevel.minimize(problem, bilevel.implicit(), ZERO, ZERO, tol=1e-5)
            np.testing.assert_allclose(found.x, scale / (scale**2 + 1), atol=1e-4)
            assert problem != bilevel.Problem(Fit(scale * jnp.eye(2)), lower)
    constant = bilevel.Problem(lambda x, y, b: np.float32(1.0), lower)
    assert float(bilevel.solve(constant, SOLVER, ZERO, ZERO, steps=1).metrics["upper"][0]) == 1
    bounded = bilevel.Problem(
        upper, lower, lambda x, y, b: y - x, multiplier_bound=jnp.array(5.0),
        project_xy=lambda x, y: (x, y),
    )  # fmt: skip
    assert bounded.multiplier_bound == 5.0
    assert bounded == dataclasses.replace(bounded)


# What is solved, the sigma of the penalty (None: the hyper-objective itself), the error allowed.
TO_A_TOLERANCE = {
    "p1": (bilevel.implicit("cg", 0.1, 0.2), None),
    "p2a": (bilevel.implicit("normal_cg", 0.1, 0.05, inner_steps=20), None),
    "p2b": (bilevel.penalty(1.0, 1.0, 0.05, 0.05, prox=10.0, inner_steps=20), 0.05),
    "p3": (bilevel.penalty(0.5, 1.0, 0.05, 0.1, prox=10.0, inner_steps=20), 0.1),
    "p5": (bilevel.unrolled(20, 0.1, 0.05), None),
}


@pytest.mark.filterwarnings("ignore:y0 is infeasible")
@pytest.mark.parametrize("name", TO_A_TOLERANCE)
def test_a_tolerance_is_kept_on_the_closed_forms(name):
    solver, sigma = TO_A_TOLERANCE[name]
    tol = 1e-6
    with jax.enable_x64(True):
        form = closed_form.PROBLEMS[name](*closed_form.random_data(name))
        found = bilevel.minimize(form.problem, solver, form.x0, form.y0, tol=tol, max_steps=20_000)
        assert bool(found.converged)
        gradient = form.grad_psi if sigma is None else lambda x: form.grad_psi_sigma(x, sigma)
        project = form.problem.project_x or (lambda x: x)
        left = np.linalg.norm(found.x - project(found.x - jax.jit(gradient)(found.x)))
        assert left <= 10 * tol
        if form.minimizer is not None:
            best = form.minimizer() if sigma is None else form.minimizer(sigma)
            assert np.linalg.norm(found.x - best) <= 10 * tol


def test_a_problem_that_does_not_settle_reaches_no_tolerance():
    with jax.enable_x64(True):
        form = closed_form.PROBLEMS["p4"](*closed_form.random_data("p4"))
        solver = bilevel.penalty(0.2, 0.8, 0.05, power(1.0, -1 / 3), prox=0.5, inner_steps=5)
        found = bilevel.minimize(form.problem, solver, form.x0, form.y0, tol=1e-3, max_steps=2000)
        assert (int(found.steps), bool(found.converged)) == (2000, False)


def test_a_tolerance_is_kept_under_a_coupling_constraint():
    with jax.enable_x64(True):
        task = constrained.llc(n=4)
        solver = bilevel.lv_hba(0.028, 0.02, 0.024, 10.0, 0.28, power(40.0, 0.4))
        found = bilevel.minimize(
            task.problem, solver, task.x0, task.y0, tol=1e-2, max_steps=100_000
        )
        assert bool(found.converged)
        assert float(task.evaluate(None, found.x, found.y)["error"]) <= 1e-2


def test_ridge_regression_reaches_the_optimum_of_scikit_learn():
    """One penalty, chosen on validation data; scikit-learn solves the lower level exactly."""
    features, target = datasets.load_diabetes(return_X_y=True)
    features, target = features / features.std(0), (target - target.mean()) / target.std()
    n = 100
    parts = [(features[i : i + n], target[i : i + n]) for i in (0, n)]

    def fit(y, part):
        return 0.5 * jnp.mean((part[0] @ y - part[1]) ** 2)

    problem = bilevel.Problem(
        lambda x, y, b: fit(y, b), lambda x, y, b: fit(y, b) + 0.5 * jnp.exp(x[0]) * y @ y
    )

    def exact(x):
        ridge = linear_model.Ridge(alpha=n * np.exp(x), fit_intercept=False, tol=1e-12)
        y = ridge.fit(*parts[0]).coef_
        return y, 0.5 * np.mean((parts[1][0] @ y - parts[1][1]) ** 2)

    grid = np.linspace(-6, 3, 901)
    best = grid[np.argmin([exact(x)[1] for x in grid])]
    with jax.enable_x64(True):
        found = bilevel.minimize(
            problem, bilevel.implicit(upper_step=3.0), np.zeros(1), np.zeros(features.shape[1]),
            (parts[1], parts[0]), tol=1e-6, max_steps=5000,
        )  # fmt: skip
        assert bool(found.converged)
        assert abs(found.x[0] - best) <= 0.01  # The grid's step.
        np.testing.assert_allclose(found.y, exact(float(found.x[0]))[0], atol=1e-5)
        assert float(found.metrics["upper"]) <= exact(best)[1] + 1e-9
