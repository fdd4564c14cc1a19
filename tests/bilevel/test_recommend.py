"""What `recommend` finds out, and that it names a solver that works, or none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel
from bilevel import projections
from bilevel._solver._hessian import conjugate_gradient
from experiments.problems import closed_form, constrained


def upper(x, y, batch):
    return jnp.sum((y - 1.0) ** 2) + 0.5 * jnp.sum(x**2)


NAMED = {
    "p1": ("implicit", "strongly convex"),
    "p2a": ("implicit", "convex"),  # Singular, but the upper level sees only what is not.
    "p2b": ("penalty", "convex"),
    "p5": ("implicit", "strongly convex"),
}


@pytest.mark.parametrize("name", NAMED)
def test_the_named_solver_converges(name):
    with jax.enable_x64(True):
        form = closed_form.PROBLEMS[name](*closed_form.random_data(name))
        found = bilevel.recommend(form.problem, form.x0, form.y0)
        assert (found.solver.name, found.facts.lower) == NAMED[name]
        hessian = jax.jit(jax.hessian(form.problem.lower, 1))(form.x0, form.y0, None)
        if name != "p5":  # Quadratic: the same everywhere.
            values = np.linalg.eigvalsh(hessian)
            ends = found.facts.smallest, found.facts.largest
            np.testing.assert_allclose(ends, values[[0, -1]], atol=1e-9)
        run = bilevel.solve(form.problem, found.solver, form.x0, form.y0, steps=3000)
        psi = jax.jit(form.psi)
        best = psi(form.minimizer())
        assert psi(run.state.x) - best <= 0.01 * (psi(form.x0) - best)
        radii = list(found.stable_steps.values())
        assert radii[0] <= 1.001 < radii[-1]


def test_problems_that_no_solver_fits_and_those_that_one_must_not_take():
    with jax.enable_x64(True):
        form = closed_form.PROBLEMS["p4"](*closed_form.random_data("p4"))
        found = bilevel.recommend(form.problem, form.x0, form.y0)
        assert found.solver is None
        assert "linear in y" in found.why
        task = constrained.toy()
        found = bilevel.recommend(task.problem, task.x0, task.y0)
        fits = {a.solver.name: a.fits for a in found.advice}
        assert fits.pop("lv_hba")
        assert not any(fits.values())
        assert "it takes no" in str(found)
    concave = bilevel.Problem(upper, lambda x, y, b: jnp.sum(-((y - x) ** 2) + 0.1 * y**4))
    found = bilevel.recommend(concave, np.zeros(2, np.float32), np.zeros(2, np.float32))
    assert found.facts.lower == "nonconvex"
    assert found.solver.name == "penalty"
    boxed = bilevel.Problem(
        upper, lambda x, y, b: jnp.sum((y - x) ** 2), project_y=projections.box(0, 1)
    )
    found = bilevel.recommend(boxed, np.zeros(2, np.float32), np.zeros(2, np.float32))
    assert {a.solver.name for a in found.advice if not a.fits} == {"f2sa", "soba", "f3sa"}


@pytest.mark.filterwarnings("ignore:(x0, y0) is infeasible")
def test_steps_under_a_coupling_constraint():
    with jax.enable_x64(True):
        task = constrained.llc(n=100)
        found = bilevel.recommend(task.problem, task.x0, task.y0)
        assert found.solver.name == "lv_hba"
        end = bilevel.minimize(
            task.problem, found.solver, task.x0, task.y0, tol=1e-9, max_steps=20_000
        )
        assert float(task.evaluate(None, end.x, end.y)["error"]) <= 0.01


def test_curvature_where_x_may_go():
    """The lower curvature rises with x from 2 to 1 + e^3; what fits at the start alone diverges."""

    def lower(x, y, batch):
        return 0.5 * jnp.sum(jnp.exp(x) * (y - 1) ** 2) + 0.5 * jnp.sum(y**2)

    problem = bilevel.Problem(
        lambda x, y, b: jnp.sum((y - 1) ** 2), lower, project_x=projections.box(-3, 3)
    )
    zero = np.zeros(2, np.float32)
    found = bilevel.recommend(problem, zero, zero)
    np.testing.assert_allclose(found.facts.largest, 1 + np.exp(3), rtol=1e-5)
    end = bilevel.minimize(problem, found.solver, zero, zero, tol=1e-5, max_steps=2000)
    np.testing.assert_allclose(end.x, 3, atol=1e-6)
    np.testing.assert_allclose(end.y, 1 / (1 + np.exp(-3)), rtol=1e-4)


def test_curvature_where_x_leads_without_bounds():
    """It rises from 1 to 32 where psi is least, at x = 5.55; a step of 1 for y diverges there."""

    def lower(x, y, batch):
        return 0.5 * jnp.sum((1 + x**2) * y**2 - 2 * y)

    problem = bilevel.Problem(lambda x, y, b: jnp.sum(y + 0.01 * (x - 5) ** 2), lower)
    zero = np.zeros(2, np.float32)
    found = bilevel.recommend(problem, zero, zero)
    end = bilevel.minimize(problem, found.solver, zero, zero, tol=1e-4, max_steps=5000)
    # psi(x) = 1 / (1 + x^2) + .01 (x - 5)^2, entry by entry.
    np.testing.assert_allclose(0.02 * (end.x - 5), 2 * end.x / (1 + end.x**2) ** 2, atol=2e-4)
    np.testing.assert_allclose(end.y, 1 / (1 + end.x**2), rtol=1e-3)


def test_conjugate_gradients_take_no_direction_whose_curvature_is_rounding():
    """A singular system leaves such directions when it is solved; steps there have no bound."""
    scales, b = jnp.array([1.0, 0.5, 1e-12]), jnp.array([1.0, 1.0, 1e-6])
    v, left = conjugate_gradient(lambda v: scales * v, b, jnp.zeros(3), 20)
    np.testing.assert_allclose(v[:2], [1, 2], rtol=1e-5)
    assert abs(v[2]) < 1  # The exact solution has a million there.
    assert left < 1e-5


def test_momentum_for_a_lower_level_of_large_condition_number():
    scales = np.geomspace(1e-3, 1, 6).astype(np.float32)
    problem = bilevel.Problem(
        upper, lambda x, y, b: 0.5 * jnp.sum(scales * (y - x) ** 2),
        project_x=projections.box(0.5, 0.5),
    )  # fmt: skip
    x0, y0 = np.full(6, 0.5, np.float32), np.zeros(6, np.float32)
    found = bilevel.recommend(problem, x0, y0)
    # 400 steps of 1 / L leave exp(-0.4) of the slowest entry.
    end = bilevel.minimize(problem, found.solver, x0, y0, tol=1e-12, max_steps=40)
    np.testing.assert_allclose(end.y, 0.5, atol=0.01)


def test_noise_between_batches_turns_to_single_loops():
    problem = bilevel.Problem(upper, lambda x, y, b: jnp.sum((y - x - b) ** 2))
    batches = [(None, np.float32(b)) for b in (0.5, 1.0, 1.5)]
    zero = np.zeros(2, np.float32)
    found = bilevel.recommend(problem, zero, zero, batches[1], more_batches=batches[::2])
    assert found.facts.noise > 0.1
    assert found.solver.name == "soba"
    assert bilevel.recommend(problem, zero, zero, batches[1]).facts.noise == 0
