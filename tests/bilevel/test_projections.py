"""Projections: in the set, and the difference normal to it; derivatives; structure; bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from bilevel import projections

rng = np.random.default_rng(3)
A, B = rng.standard_normal((2, 5)), rng.standard_normal(2)
REDUNDANT = np.vstack([A, A[0] + A[1]])
Z, T = rng.standard_normal((30, 3)), np.sign(rng.standard_normal(30))
ROWS = T[:, None] * np.column_stack([Z, np.ones(30)])


def flat(v):
    return np.concatenate([np.ravel(a) for a in jax.tree.leaves(v)])


# Name: projection, a point of its space, and the set's points by hand: v -> a point of the set.
SETS = {
    "box": (projections.box(-0.5, np.full(5, 0.7)), np.zeros(5), lambda v: np.clip(v, -0.5, 0.7)),
    "ball": (
        projections.ball(0.8, {"a": np.ones(3), "b": np.zeros(())}),
        {"a": np.zeros(3), "b": np.zeros(())},
        lambda v: np.append(np.ones(3), 0) + 0.8 * v / max(0.8, np.linalg.norm(v)) * 0.5,
    ),
    "simplex": (projections.simplex(2.0), np.zeros(5), lambda v: 2 * np.exp(v) / np.exp(v).sum()),
    "affine": (
        projections.affine(REDUNDANT, np.append(B, B.sum())),
        np.zeros(5),
        lambda v: v + np.linalg.pinv(A) @ (B - A @ v),
    ),
    "halfspace": (
        projections.halfspace((1.0, np.arange(3.0)), -0.3),
        (np.zeros(()), np.zeros(3)),
        lambda v: v - max(0, v @ [1, 0, 1, 2] + 0.3) * np.array([1, 0, 1, 2]) / 6,
    ),
    "l1 ball": (
        projections.l1_ball(0.9),
        {"a": np.zeros(3), "b": np.zeros(())},
        lambda v: 0.9 * v / max(0.9, np.abs(v).sum()) * 0.5,
    ),
    "inequalities": (
        projections.inequalities(np.vstack([A, -A, A[:1]]), [1.0, 0.5, 0.7, np.inf, 1.0]),
        np.zeros(5),
        lambda v: v - np.linalg.pinv(A) @ (A @ v - np.clip(A @ v, [-0.7, -1e9], [1.0, 0.5])),
    ),
    "svm": (
        projections.svm(Z, T),
        (np.zeros(3), np.zeros(()), np.zeros(30)),
        lambda v: np.append(v[:4], np.maximum(v[4:], 1 - ROWS @ v[:4])),
    ),
    "product": (
        projections.product({"a": projections.box(0, 1), "b": None}),
        {"a": np.zeros(2), "b": {"c": np.zeros(2)}},
        lambda v: np.append(np.clip(v[:2], 0, 1), v[2:]),
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_projects(name):
    project, like, into = SETS[name]
    with jax.enable_x64(True):
        leaves, tree = jax.tree.flatten(like)
        sizes = np.cumsum([np.size(a) for a in leaves])[:-1]

        def shaped(v):
            parts = np.split(v, sizes)
            return jax.tree.unflatten(
                tree,
                [jnp.asarray(p.reshape(np.shape(a))) for p, a in zip(parts, leaves, strict=True)],
            )

        n, step = sum(np.size(a) for a in leaves), jax.jit(project)
        push = jax.jit(lambda v, t: jax.jvp(project, (v,), (t,))[1])
        pull = jax.jit(lambda v, t: jax.vjp(project, v)[1](t)[0])
        for scale in (0.1, 1.0, 30.0):
            v = scale * rng.standard_normal(n)
            out = step(shaped(v))
            p = flat(out)
            assert jax.tree.structure(out) == tree
            # A point is the projection if and only if no point of the set lies beyond it, and it
            # lies in the set: there, projecting changes nothing.
            for _ in range(20):
                u = into(scale * rng.standard_normal(n))
                np.testing.assert_allclose(flat(step(shaped(u))), u, atol=1e-12 * max(1, scale))
                assert (v - p) @ (u - p) <= 1e-9 * max(1, scale) ** 2
            np.testing.assert_allclose(flat(step(out)), p, atol=1e-12 * max(1, scale))
            # The projection is the gradient of a convex function: its derivative is symmetric.
            d = rng.standard_normal((2, n))
            pushed = [flat(push(shaped(v), shaped(t))) for t in d]
            assert abs(pushed[0] @ d[1] - pushed[1] @ d[0]) <= 1e-10
            ahead, behind = (flat(step(shaped(v + h * d[0]))) for h in (1e-6, -1e-6))
            np.testing.assert_allclose(pushed[0], (ahead - behind) / 2e-6, atol=1e-6)
            np.testing.assert_allclose(flat(pull(shaped(v), shaped(d[0]))), pushed[0], atol=1e-10)


def test_affine_set_that_moves():
    project = projections.affine(A)
    v = np.ones(5, np.float32)
    np.testing.assert_allclose(A @ project(v, B.astype(np.float32)), B, atol=1e-5)
    np.testing.assert_allclose(A @ project(v), 0, atol=1e-5)


def test_svm_is_exact_far_away_and_in_float32():
    """Newton needs its line search here: unscaled features, a far start, single precision."""
    features = (100 * rng.standard_normal((60, 4))).astype(np.float32)
    labels = np.sign(features[:, 0] + 30 * rng.standard_normal(60))
    step = jax.jit(projections.svm(features, labels))
    rows = labels[:, None] * np.column_stack([features, np.ones(60)])
    for scale in (1.0, 1e3):
        u0, xi0 = scale * rng.standard_normal(5), scale * rng.standard_normal(60)
        with jax.enable_x64(True):
            w, b, xi = step((jnp.asarray(u0[:4]), jnp.asarray(u0[4]), jnp.asarray(xi0)))
            u = np.append(w, b)
            multipliers = np.asarray(xi) - xi0
            assert np.all(multipliers >= 0)
            # Stationary: u - u0 is carried by the multipliers, which act on tight rows alone.
            np.testing.assert_allclose(u - u0, rows.T @ multipliers, rtol=1e-9, atol=1e-9 * scale)
            slack = rows @ u + xi - 1
            assert np.min(slack) >= -1e-9 * scale
            assert np.max(np.abs(slack * multipliers)) <= 1e-7 * scale**2
        w32, b32, _ = step(
            (
                jnp.asarray(u0[:4], "float32"),
                jnp.asarray(u0[4], "float32"),
                jnp.asarray(xi0, "float32"),
            )
        )
        np.testing.assert_allclose(np.append(w32, b32), u, rtol=1e-3, atol=1e-3 * scale)


def test_no_rounding_or_overflow_of_large_numbers():
    far = np.array([3e7, 0.0, 1.0], np.float32)
    np.testing.assert_array_equal(jax.jit(projections.simplex())(far), [1.0, 0.0, 0.0])
    ball = jax.jit(lambda radius, v: projections.ball(radius)(v))
    for scale, radius in ((1e19, 1.0), (1e30, 1e25)):
        out = ball(radius, np.float32([3.0, 4.0]) * np.float32(scale))
        np.testing.assert_allclose(out, np.array([0.6, 0.8]) * radius, rtol=1e-6)
    half = jax.jit(projections.ball(1.0))(np.array([300.0, 400.0], np.float16))
    assert half.dtype == jnp.float16
    np.testing.assert_allclose(half, [0.6, 0.8], rtol=1e-3)


def test_narrow_and_mixed_dtypes_are_kept():
    narrow = np.ones(5, jnp.bfloat16)
    onto = jax.eval_shape(projections.affine(A), narrow, B.astype(np.float32))
    assert onto.dtype == jnp.bfloat16
    project = projections.svm(np.array([[1.0], [-1.0]]), np.array([1.0, -1.0]))
    v = jnp.zeros(1, jnp.bfloat16), jnp.zeros(()), jnp.zeros(2, jnp.float16)
    out = jax.jit(project)(v)
    assert [a.dtype for a in out] == [a.dtype for a in v]
    np.testing.assert_allclose(np.asarray(out[0], np.float32), 2 / 3, rtol=1e-2)


def test_traced_bounds():
    np.testing.assert_array_equal(
        jax.jit(lambda low: projections.box(low, 1.0)(jnp.array([0.0, 3.0])))(0.5), [0.5, 1.0]
    )


def test_bad_input():
    with pytest.raises(ValueError, match="matrix has 5 columns, but v has 4 numbers"):
        projections.affine(A)(jnp.zeros(4))
    with pytest.raises(ValueError, match="matrix must have two axes"):
        projections.affine(B)
    for normal in (np.zeros(2), np.array([1.0, np.nan]), np.array([np.inf, 1.0])):
        with pytest.raises(ValueError, match="normal must be finite and not zero"):
            projections.halfspace(normal)
    for rhs in ([1.0], np.ones(4)):
        with pytest.raises(ValueError, match=r"rhs must have shape \(2,\), got"):
            projections.affine(A, rhs)
        with pytest.raises(ValueError, match=r"rhs must have shape \(2,\), got"):
            projections.affine(A)(jnp.zeros(5), rhs)
    with pytest.raises(ValueError, match=r"xi of shape \(30,\), got 4 and \(3,\)"):
        projections.svm(Z, T)((jnp.zeros(3), jnp.zeros(()), jnp.zeros(3)))


def test_intersections_project_and_do_not_only_reach_the_set():
    both = projections.intersection(projections.ball(1.0), projections.halfspace(np.ones(3), 0.2))
    normal = np.ones(3) / np.sqrt(3)
    with jax.enable_x64(True):
        for v in (np.array([2.0, 1.0, -0.3]), np.array([0.1, 0.0, 0.0]), np.array([3.0, 3.0, 3.0])):
            p = np.asarray(jax.jit(both)(v))
            # On the disk in which the plane cuts the ball: its nearest point, by hand.
            center = 0.2 / np.sqrt(3) * normal
            flat = v - (v @ normal) * normal
            radius = np.sqrt(1 - center @ center)
            size = np.linalg.norm(flat)
            on_plane = center + flat * min(1, radius / max(size, 1e-12))
            expected = v if v @ np.ones(3) <= 0.2 and v @ v <= 1 else on_plane
            np.testing.assert_allclose(p, expected, atol=1e-8)
    for wrong in ((), (3,)):
        with pytest.raises(ValueError, match="projections must be functions, at least one"):
            projections.intersection(*wrong)
    with pytest.raises(ValueError, match=r"normal must be like v, of shapes \(3,\), got \(2,\)"):
        projections.halfspace(np.ones(2))(np.ones(3))
    for make in (projections.inequalities, projections.polyhedron):
        with pytest.raises(ValueError, match=r"rhs must be a number or have shape \(2,\), got \(3"):
            make(np.eye(2), np.ones(3))
    apart = projections.intersection(projections.box(0.0, 1.0), projections.box(2.0, 3.0))
    with pytest.warns(UserWarning, match="the result is 1.41 outside of set 0: the sets have no"):
        apart(jnp.ones(2))


def test_projects_onto_a_cone_as_nonnegative_least_squares_do():
    """Moreau: v less its projection onto the cone of the rows; rows enter and leave on the way."""
    rows = rng.standard_normal((12, 5))
    points = rng.standard_normal((100, 5))
    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(projections.inequalities(rows, 0.0)))(points)
    want = [v - rows.T @ nnls(rows.T, v)[0] for v in points]
    np.testing.assert_allclose(found, want, atol=1e-8)


def test_infinite_bounds_leave_directions_free():
    v = np.array([3.0, -2.0])
    np.testing.assert_array_equal(projections.halfspace(np.ones(2), np.inf)(v), v)
    whole, pull = jax.vjp(projections.l1_ball(np.inf), v)
    np.testing.assert_array_equal((whole, *pull(whole)), (v, v))
    np.testing.assert_array_equal(projections.ball(np.inf)(v), v)
    np.testing.assert_array_equal(
        projections.box(np.array([-np.inf, 0.0]), np.array([1.0, np.inf]))(v), [1, 0]
    )
    u, xi = projections.polyhedron(np.eye(2), [1.0, -np.inf])((np.zeros(2), np.zeros(2)))
    np.testing.assert_allclose(u, [0.5, 0], atol=1e-6)
    np.testing.assert_allclose(xi, [0.5, 0], atol=1e-6)


def test_wide_narrow_and_odd_trees():
    half = rng.standard_normal(100_000).astype(np.float16)
    out = np.asarray(jax.jit(projections.simplex())(half))
    assert out.dtype == np.float16
    np.testing.assert_allclose(np.sum(out.astype(np.float32)), 1.0, rtol=1e-2)
    ones = np.ones(100_000, np.float16)  # |a|^2 is not a number of float16.
    np.testing.assert_allclose(jax.jit(projections.halfspace(ones, 0.0))(ones), 0.0, atol=1e-3)
    tree = {"w": np.float32([2.0, -1.0]), "b": np.float32(5.0), "n": None}
    for project in (
        projections.box(0.0, 1.0),
        projections.ball(1.0),
        projections.l1_ball(1.0),
        projections.halfspace(tree, 1.0),
        projections.affine(np.ones((1, 3)), np.ones(1)),
        projections.simplex(),
        projections.inequalities(np.ones((1, 3)), 1.0),
    ):
        assert jax.tree.structure(jax.eval_shape(project, tree)) == jax.tree.structure(tree)
    assert float(jax.jit(projections.simplex(2.0))(tree)["b"]) == 2.0


EMPTY = [
    (lambda: projections.affine(np.ones((2, 2)), [1.0, 2.0]), "rhs must be in the range of matrix"),
    (lambda: projections.affine(np.ones((2, 2)))(np.zeros(2), [1.0, 2.0]), "in the range"),
    (lambda: projections.affine([[np.nan, 1.0]]), "matrix must be finite, got nan"),
    (lambda: projections.box(np.array([0.0, np.nan]), 0.5)(np.zeros(2)), "must not be NaN"),
    (lambda: projections.box(np.inf, np.inf)(np.zeros(2)), "low must be <= high"),
    (lambda: projections.ball(1.0, np.array([np.nan])), "center must be finite"),
    (lambda: projections.halfspace(np.ones(2), np.nan), "offset must be a number"),
    (lambda: projections.halfspace(np.ones(2), -np.inf), "the set is empty"),
    (lambda: projections.simplex()(np.zeros((2, 0))), "has an empty last axis"),
    (lambda: projections.polyhedron(np.eye(2), [0.0, np.nan]), "a number or -inf in each row"),
    (lambda: projections.inequalities([[1.0], [-1.0]], [0.0, -1.0]), "the polyhedron is empty"),
    (lambda: projections.inequalities([[0.0]], [-1.0]), "a set that is not empty"),
]


@pytest.mark.parametrize("call", range(len(EMPTY)))
def test_empty_sets_are_refused(call):
    make, text = EMPTY[call]
    with pytest.raises(ValueError, match=text):
        make()


def test_redundant_rows_are_no_contradiction():
    rows = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    out = projections.affine(rows, [0.0, 1.0, 2.0])(np.array([3.0, -2.0]))
    np.testing.assert_allclose(out, [3.0, -2.0], atol=1e-6)
