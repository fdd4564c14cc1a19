"""Lower levels with more than a smooth function: statistics of a model, nonsmooth terms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn import linear_model

import bilevel
from configs.bilevel import common
from experiments import problems, solve
from experiments.problems import Task

RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((2, 24, 4)).astype(np.float32)  # Of validation, of training.
TARGETS = FEATURES @ np.array([2.0, -1.0, 0.0, 0.0], np.float32)
TARGETS += 0.5 * RNG.standard_normal((2, 24)).astype(np.float32)
BATCH = tuple(zip(FEATURES, TARGETS, strict=True))


def fit(y, part):
    return 0.5 * jnp.mean((part[0] @ y - part[1]) ** 2)


LASSO = bilevel.Nonsmooth(
    value=lambda x, y: jnp.exp(x) * jnp.sum(jnp.abs(y)),
    prox=lambda x, v, s: jnp.sign(v) * jnp.maximum(jnp.abs(v) - s * jnp.exp(x), 0),
)
NONSMOOTH = bilevel.Problem(
    lambda x, y, part: fit(y, part), lambda x, y, part: fit(y, part), nonsmooth=LASSO
)


def lasso(x):
    """The hyper-objective by scikit-learn, its slope along the active weights, and these."""
    model = linear_model.Lasso(alpha=np.exp(x), fit_intercept=False, tol=1e-12, max_iter=10**5)
    y = model.fit(*BATCH[1]).coef_
    on = np.flatnonzero(y)
    a, v = FEATURES[1][:, on].astype(float), FEATURES[0].astype(float)
    upper = v.T @ (v @ y - TARGETS[0]) / 24
    move = -np.exp(x) * np.linalg.solve(a.T @ a / 24, np.sign(y[on]))
    return 0.5 * np.mean((v @ y - TARGETS[0]) ** 2), upper[on] @ move, y


@pytest.mark.parametrize("x", [-2.0, -0.5])
def test_unrolled_proximal_steps_have_the_hypergradient_of_the_lasso(x):
    with jax.enable_x64(True):
        solver = bilevel.unrolled(400, upper_step=1.0, lower_step=0.3)
        state = solver.init(NONSMOOTH, np.asarray(x), np.zeros(4))
        new, metrics = jax.jit(solver.step)(state, BATCH)
        value, slope, y = lasso(x)
        assert (y == 0).any()
        np.testing.assert_allclose(new.y, y, atol=1e-8)
        np.testing.assert_allclose(state.x - new.x, slope, atol=1e-7)
        np.testing.assert_allclose(metrics["upper"], value, atol=1e-8)
        whole = fit(y, BATCH[1]) + np.exp(x) * np.abs(y).sum()
        np.testing.assert_allclose(metrics["lower"], whole, atol=1e-8)


@pytest.mark.parametrize("momentum", [None, 1.0])
def test_penalty_with_a_nonsmooth_term_is_near_the_hypergradient(momentum):
    """The direction over sigma is the slope of psi, up to the order of sigma."""
    x, errors = -2.0, []
    with jax.enable_x64(True):
        for sigma in (0.02, 0.01):
            solver = bilevel.penalty(
                1e-12, 1.0, 0.2, sigma, prox=10.0, momentum=momentum,
                inner_steps=20 if momentum is None else 1,
            )  # fmt: skip
            state = solver.init(NONSMOOTH, np.asarray(x), np.zeros(4))
            body = lambda _, s, solver=solver: solver.step(s, BATCH)[0]  # noqa: E731
            state = jax.jit(lambda s, body=body: jax.lax.fori_loop(0, 2000, body, s))(state)
            metrics = solver.step(state, BATCH)[1]
            np.testing.assert_allclose(state.wz, lasso(x)[2], atol=1e-7)
            errors.append(abs(float(metrics["residual"]) - abs(lasso(x)[1])))
    assert errors[1] < 0.02 * abs(lasso(x)[1])
    assert 1.8 < errors[0] / errors[1] < 2.2


def test_who_takes_a_nonsmooth_term():
    zero = np.zeros(4, np.float32)
    for solver in (bilevel.implicit(), bilevel.f2sa(), bilevel.f3sa(), bilevel.soba(),
                   bilevel.saba(1, 1), bilevel.lv_hba(0.1, 0.1, 0.1)):  # fmt: skip
        assert "nonsmooth" not in solver.constraints
        with pytest.raises(ValueError, match=f"{solver.name} takes no nonsmooth: use bilevel"):
            solver.init(NONSMOOTH, np.float32(0), zero)
    with pytest.raises(ValueError, match="lower_step must be no optax transform"):
        bilevel.unrolled(2, 0.1, optax.sgd(0.1)).init(NONSMOOTH, np.float32(0), zero)
    with pytest.raises(ValueError, match="takes no problem with nonsmooth"):
        bilevel.check_hypergradient(NONSMOOTH, np.zeros(()), zero, BATCH)
    with pytest.raises(ValueError, match="nonsmooth and project_y exclude each other"):
        bilevel.Problem(fit, fit, project_y=lambda y: y, nonsmooth=LASSO)
    with pytest.raises(ValueError, match=r"nonsmooth must be bilevel.Nonsmooth\(value, prox\)"):
        bilevel.Problem(fit, fit, nonsmooth=lambda y: y)
    found = bilevel.recommend(NONSMOOTH, np.float32(0), zero, BATCH)
    assert {a.solver.name for a in found.advice if a.fits} == {"unrolled", "penalty"}


class Net(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(4, momentum=0.5, use_running_average=False, rngs=rngs)
        self.head = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(x))[:, 0]


GRAPH, PARAMS, STATS = nnx.split(Net(nnx.Rngs(0)), nnx.Param, nnx.BatchStat)


def upper(x, y, stats, part):
    model = nnx.merge(GRAPH, y, stats)
    model.eval()
    return 0.5 * jnp.mean((model(part[0]) - part[1]) ** 2)


def lower(x, y, stats, part):
    model = nnx.merge(GRAPH, y, stats)
    value = 0.5 * jnp.mean((model(part[0]) - part[1]) ** 2)
    decay = jnp.exp(x) * jnp.sum(y["head"]["kernel"][...] ** 2)
    return value + decay, nnx.split(model, nnx.Param, nnx.BatchStat)[2]


BATCHNORM = bilevel.Problem(upper, lower, has_stats=True)
WRAPPED = {
    "implicit": bilevel.implicit(upper_step=0.1),
    "penalty": bilevel.penalty(inner_steps=3),
    "f3sa": bilevel.f3sa(),
    "lv_hba": bilevel.lv_hba(0.05, 0.1, 0.1),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_batchnorm_statistics_are_carried(name):
    plain = WRAPPED[name]
    solver = bilevel.with_stats(plain)
    assert (solver.name, solver.gradients) == (plain.name, plain.gradients)
    state = solver.init(BATCHNORM, np.float32(-3), PARAMS, stats=STATS)
    run = bilevel.solve(BATCHNORM, solver, None, None, state=state, batch=BATCH, steps=60)
    assert int(run.state.count) == 60
    # With the momentum of a half they are those of the batch.
    np.testing.assert_allclose(run.state.stats["norm"]["mean"][...], FEATURES[1].mean(0), atol=1e-5)
    np.testing.assert_allclose(run.state.stats["norm"]["var"][...], FEATURES[1].var(0), atol=1e-5)
    assert run.metrics["lower"][-1] < run.metrics["lower"][0]
    # Each step reads the statistics that the step before left.
    now = solver.init(BATCHNORM, np.float32(-3), PARAMS, stats=STATS)
    first = lambda: jax.tree.map(jnp.array, STATS)  # noqa: E731
    seen = bilevel.Problem(
        lambda x, y, part: upper(x, y, first(), part),
        lambda x, y, part: lower(x, y, first(), part)[0],
    )
    want, _ = jax.jit(plain.step)(plain.init(seen, np.float32(-3), PARAMS), BATCH)
    got, _ = jax.jit(solver.step)(now, BATCH)
    for a, b in zip(*map(jax.tree.leaves, ((want.x, want.y), (got.x, got.y))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    one = jax.tree.leaves(lower(want.x, want.y, first(), BATCH[1])[1])
    for a, b in zip(one, jax.tree.leaves(got.stats), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_statistics_with_a_batch_for_each_inner_step():
    problem = bilevel.Problem(
        lambda x, y, stats, b: jnp.sum((y - stats) ** 2) + 0 * jnp.sum(b),
        lambda x, y, stats, b: (jnp.sum((y - x - b) ** 2), stats + b),
        has_stats=True,
    )
    solver = bilevel.with_stats(bilevel.implicit(upper_step=0.1, inner_steps=3))
    state = solver.init(problem, np.zeros(2), np.zeros(2), stats=np.float32(0))
    each = np.arange(3, dtype=np.float32)
    one = np.float32(1)
    samples = bilevel.Samples(each, each, each, one, one, 5 * one)
    state, _ = solver.step(state, samples)
    assert float(state.stats) == 5  # The batch of the lower level that the x step sees.


def test_statistics_are_averaged_over_a_mapped_axis():
    problem = bilevel.Problem(
        lambda x, y, stats, b: jnp.sum((y - 1) ** 2),
        lambda x, y, stats, b: (jnp.sum((y - x) ** 2), stats + b + jnp.sum(y)),
        has_stats=True,
    )
    solver = bilevel.with_stats(bilevel.unrolled(2, axis_name="devices"))
    state = solver.init(problem, np.ones(2), np.zeros(2), stats=np.float32(0))
    batch = jnp.zeros(2), jnp.array([1.0, 3.0])
    new, _ = jax.jit(jax.vmap(solver.step, (None, 0), axis_name="devices"))(state, batch)
    moved = float(jnp.sum(new.y[0]))
    assert moved > 0.1
    np.testing.assert_allclose(new.stats, [2 + moved, 2 + moved], rtol=1e-6)  # At the new point.


def test_statistics_need_a_solver_that_carries_them():
    with pytest.raises(ValueError, match=r"make the solver by bilevel.with_stats\(solver\)"):
        bilevel.implicit().init(BATCHNORM, np.float32(-3), PARAMS)
    with pytest.raises(ValueError, match="problem has no statistics"):
        bilevel.with_stats(bilevel.implicit()).init(NONSMOOTH, 0.0, np.zeros(4), stats=0.0)
    for solver in (bilevel.saba(1, 1), bilevel.hydra(0.1, 0.5)):
        with pytest.raises(ValueError, match="with_stats takes a solver of batches in pairs"):
            bilevel.with_stats(solver)


def test_the_main_carries_statistics(monkeypatch):
    def task(seed=0):
        del seed

        def evaluate(data, x, y, stats):
            return {"objective": upper(x, y, stats, BATCH[0]), "mean": stats["norm"]["mean"][0]}

        problem = bilevel.Problem(
            lambda x, y, stats, b: upper(x, y, stats, BATCH[0]),
            lambda x, y, stats, b: lower(x, y, stats, BATCH[1]),
            has_stats=True,
        )
        return Task(problem, np.float32(-3), PARAMS, evaluate, stats=STATS)

    monkeypatch.setitem(problems.PROBLEMS, "mine", task)
    config = common.get_config()
    config.problem.name, config.solver.name, config.steps = "mine", "unrolled", 40
    final = solve.run(config, quiet=True).final
    np.testing.assert_allclose(final["mean"], FEATURES[1].mean(0)[0], atol=1e-4)
