"""`check_hypergradient` solves constrained lower levels, and refuses what it cannot judge."""

import jax.numpy as jnp
import numpy as np
import pytest

import bilevel


def upper(x, y, batch):
    return jnp.sum((y - 1.0) ** 2) + jnp.sum(x**2)


@pytest.mark.parametrize("x", [0.6, 0.5, 1.0, 2.0])
def test_an_active_inequality(x):
    problem = bilevel.Problem(
        upper,
        lambda x, y, batch: jnp.sum((y - 2 * x) ** 2),
        constraint=lambda x, y, batch: y - x,
    )
    check = bilevel.check_hypergradient(problem, np.full(1, x), np.zeros(1))
    np.testing.assert_allclose(check.y, [x], atol=1e-9)
    np.testing.assert_allclose(check.multipliers, [2 * x], atol=1e-8)
    np.testing.assert_allclose(check.implicit, [2 * (x - 1) + 2 * x], atol=1e-7)
    assert check.doubts == ()
    assert check.relative_error < 1e-6 or abs(4 * x - 2) < 1e-9


REFUSED = {
    "kink": (
        lambda x, y, b: jnp.sum((y - x) ** 2),
        lambda y: jnp.clip(y, 0, 1),
        0.0,
        "a kink at x",
    ),
    "flat": (lambda x, y, b: jnp.sum((y - x) ** 4), None, 0.3, "kink|singular|not solved"),
    "unbounded": (lambda x, y, b: jnp.sum(x * y), None, 0.3, "the lower level is not solved"),
    "maximum": (lambda x, y, b: jnp.sum(jnp.cos(y - x)), None, 0.0, "no minimum"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_numbers_that_are_not_believed_are_nan(name):
    lower, project_y, x, text = REFUSED[name]
    problem = bilevel.Problem(upper, lower, project_y=project_y)
    with pytest.warns(UserWarning, match=text):
        check = bilevel.check_hypergradient(problem, np.full(1, x), np.zeros(1))
    assert np.isnan(check.implicit).all()
    assert np.isnan(check.finite_difference).all()
    assert np.isnan(check.relative_error)
    assert check.doubts


def test_a_singular_level_that_the_upper_function_sees():
    problem = bilevel.Problem(upper, lambda x, y, b: (y[0] - x[0]) ** 2)
    with pytest.warns(UserWarning, match="singular in a direction that the upper function sees"):
        check = bilevel.check_hypergradient(problem, np.full(1, 0.3), np.zeros(2))
    assert np.isnan(check.implicit).all()


def test_an_infeasible_lower_level():
    problem = bilevel.Problem(
        upper,
        lambda x, y, b: jnp.sum((y - x) ** 2),
        constraint=lambda x, y, b: jnp.concatenate([y - x, x + 1 - y]),
    )
    with pytest.warns(UserWarning, match="the lower level is not solved"):
        assert bilevel.check_hypergradient(problem, np.ones(1), np.zeros(1)).doubts


def test_random_inequalities_are_solved_and_not_refused():
    """An infeasible point can have a lower value: what keeps the constraint counts with it."""
    rng = np.random.default_rng(3)
    for n, m in ((1, 1), (3, 4)):
        rows, coupling = rng.standard_normal((m, n)), rng.standard_normal((m, 2))
        target, x = rng.standard_normal(n), rng.standard_normal(2)
        # Feasible by a margin at a point of its own, so that the level has a solution.
        offset = rows @ rng.standard_normal(n) - coupling @ x + rng.uniform(0.1, 1, m)
        problem = bilevel.Problem(
            upper,
            lambda x, y, b, t=target: 0.5 * jnp.sum((y - t) ** 2),
            constraint=lambda x, y, b, G=rows, B=coupling, c=offset: G @ y - B @ x - c,
        )
        check = bilevel.check_hypergradient(problem, x, np.zeros(n))
        assert check.doubts == ()
        assert check.relative_error < 1e-6
        lam, g = check.multipliers, rows @ check.y - coupling @ x - offset
        assert lam.min() >= -1e-12
        assert g.max() <= 1e-9
        np.testing.assert_allclose(lam * g, 0, atol=1e-9)
        np.testing.assert_allclose(check.y - target + rows.T @ lam, 0, atol=1e-9)


def test_a_curved_constraint():
    problem = bilevel.Problem(
        upper,
        lambda x, y, b: (y[0] - 2) ** 2 + y[1] ** 2,
        constraint=lambda x, y, b: jnp.sum(y**2)[None] - x**2,
    )
    check = bilevel.check_hypergradient(problem, np.full(1, 0.6), np.zeros(2))
    np.testing.assert_allclose(check.y, [0.6, 0], atol=1e-9)
    np.testing.assert_allclose(check.implicit, [2 * (0.6 - 1) + 2 * 0.6], atol=1e-6)


def test_a_maximum_inside_a_box_is_no_solution():
    problem = bilevel.Problem(
        upper,
        lambda x, y, b: jnp.sum((y**2 - 1) ** 2 + x * y),
        project_y=lambda y: jnp.clip(y, -2, 2),
    )
    with pytest.warns(UserWarning, match="no minimum"):
        check = bilevel.check_hypergradient(problem, np.zeros(1), np.zeros(1))
    assert np.isnan(check.implicit).all()


def test_an_upper_function_that_is_not_finite_there():
    problem = bilevel.Problem(
        lambda x, y, b: jnp.sum(jnp.log(-y)), lambda x, y, b: jnp.sum((y - x) ** 2)
    )
    with pytest.warns(UserWarning, match="the upper function or its gradient is not finite"):
        check = bilevel.check_hypergradient(problem, np.full(1, 0.5), np.ones(1))
    assert np.isnan(check.implicit).all()
    assert np.isnan(check.value)
