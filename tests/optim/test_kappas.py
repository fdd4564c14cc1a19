"""Kappas and Lion-K: conjugacy, fixed points, contraction to the implied set, Lyapunov function."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optim
from optim import kappas

KAPPAS = {
    "l1": kappas.l1,
    "l2_squared": kappas.l2_squared,
    "l2": kappas.l2,
    "lp": kappas.lp(3),
    "lp fractional": kappas.lp(1.5),
    "group_l2": kappas.group_l2,
    "columns": kappas.over_axis(kappas.l2, 0),
    "huber": kappas.huber(0.3),
    "dead_zone": kappas.dead_zone(0.3),
    "top_k": kappas.top_k(2),
    "spectral": kappas.spectral("svd"),
    "spectral newton": kappas.spectral(steps=8),
}
every_kappa = pytest.mark.parametrize("name", list(KAPPAS))


@every_kappa
def test_value_gradient_and_conjugate_belong_together(name):
    """Fenchel: K(c) + K*(y) >= <c, y>, with equality at the gradient; K is even, 0 at 0."""
    kappa = KAPPAS[name]
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        value, grad, conjugate = jax.jit(kappa.value), jax.jit(kappa.grad), jax.jit(kappa.conjugate)
        for _ in range(5):
            c, d = rng.standard_normal((2, 4, 3))
            y = grad(c)
            assert y.shape == c.shape
            # Newton-Schulz is a matrix sign to 1e-5 only, and may leave the set by as much.
            y = y * (1 - 1e-5) if "newton" in name else y
            tolerance = 1e-3 if "newton" in name else 1e-10
            np.testing.assert_allclose(value(c) + conjugate(y), np.sum(c * y), rtol=tolerance)
            z = grad(d) * (0.9 if name != "l2_squared" else 1.0)
            assert value(c) + conjugate(z) >= np.sum(c * z) - 1e-12
            np.testing.assert_allclose(grad(-c), -grad(c), atol=1e-12)
            if name != "l2_squared":
                assert conjugate(3 * y + 1) == np.inf
        assert value(0 * c) == 0
        assert not np.any(grad(0 * c))


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (6,), (2, 2, 3), ()])
def test_newton_schulz_is_the_matrix_sign(shape):
    c = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    both = jax.jit(lambda c: (kappas.spectral(steps=8).grad(c), kappas.spectral("svd").grad(c)))
    np.testing.assert_allclose(*both(c), atol=2e-4)


def test_dimension_numbers_say_how_a_leaf_is_a_matrix():
    """An attention's kernel (in, heads, head_dim) as the matrix (in, heads x head_dim)."""
    rng = np.random.default_rng(4)
    c = rng.standard_normal((12, 2, 3)).astype(np.float32)
    numbers = optax.contrib.MuonDimensionNumbers
    exact = kappas.spectral("svd")

    @jax.jit
    def all_of_them(c):
        found = []
        for axes in (numbers(0, (1, 2)), numbers(-3, (-2, -1)), lambda x: numbers(0, (1, 2))):
            kappa = kappas.spectral("svd", dimension_numbers=axes)
            newton = kappas.spectral(steps=8, dimension_numbers=axes)
            grad = kappa.grad(c)
            found.append((grad, kappa.value(c), kappa.conjugate(0.9 * grad), newton.grad(c)))
        flat = c.reshape(12, 6)
        stack = kappas.spectral("svd", dimension_numbers=numbers(2, 0)).grad(c)
        layers = [exact.grad(c[:, i].T) for i in (0, 1)]
        squares = exact.grad(c[:6]), exact.grad(c[:6].reshape(6, 6))
        return found, (exact.grad(flat), exact.value(flat)), stack, layers, squares

    found, (grad, value), stack, layers, squares = jax.tree.map(np.asarray, all_of_them(c))
    for got, got_value, conjugate, newton in found:
        np.testing.assert_allclose(got.reshape(12, 6), grad, atol=1e-5)
        np.testing.assert_allclose(got_value, value, rtol=1e-5)
        assert conjugate == 0
        np.testing.assert_allclose(newton, got, atol=1e-3)
    # Axes that are left out stack matrices, wherever they are.
    for i in (0, 1):
        np.testing.assert_allclose(stack[:, i].T, layers[i], atol=1e-5)
    # Where the features are those of all heads, sizes say it.
    np.testing.assert_allclose(squares[0].reshape(6, 6), squares[1], atol=1e-5)
    with pytest.raises(ValueError, match=r"axes of a leaf of shape \(12, 2, 3\)"):
        kappas.spectral(dimension_numbers=numbers(0, 3)).grad(c)


@pytest.mark.parametrize("spec", [P("data", None), P(None, "data")])
def test_sharded_leaves_on_explicit_axes(spec):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    c = np.random.default_rng(5).standard_normal((6, 4)).astype(np.float32)
    chosen = {k: KAPPAS[k] for k in ("lp", "group_l2", "columns", "top_k", "spectral newton")}
    chosen["stacked"] = kappas.stacked(kappas.l2)

    def all_of(c):
        return {k: (kappa.grad(c), kappa.value(c)) for k, kappa in chosen.items()}

    expected = jax.jit(all_of)(c)
    with jax.set_mesh(mesh):
        placed = jax.device_put(c, NamedSharding(mesh, spec))
        got = jax.jit(all_of)(placed)
        for grad, _ in got.values():
            assert grad.sharding.is_equivalent_to(placed.sharding, 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, expected)


def test_scopes():
    rng = np.random.default_rng(2)
    trees = {"a": rng.standard_normal((2, 3)), "b": rng.standard_normal(4), "c": np.array(0.5)}
    trees = jax.tree.map(np.float32, trees)
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in trees.values()))
    tx = optim.scale_by_lion_k(kappas.over_tree(kappas.l2), b1=0.0)
    stack = rng.standard_normal((3, 4, 2)).astype(np.float32)

    @jax.jit
    def all_of_them(trees, stack):
        each, one = kappas.stacked(kappas.spectral("svd")), kappas.spectral("svd")
        grad, alone = each.grad(stack), [(one.grad(x), one.value(x)) for x in stack]
        return (
            tx.update(trees, tx.init(trees))[0],
            kappas.over_tree(kappas.top_k(3)).grad(trees),
            (grad, each.value(stack), each.conjugate(0.9 * grad)),
            alone,
            kappas.over_axis(kappas.top_k(1), -1).grad(stack),
        )

    joint, top, (grad, value, conjugate), alone, rows = all_of_them(trees, stack)
    jax.tree.map(lambda u, x: np.testing.assert_allclose(u, x / norm, rtol=1e-5), joint, trees)
    assert sum(np.count_nonzero(x) for x in jax.tree.leaves(top)) == 3
    np.testing.assert_allclose(grad, np.stack([g for g, _ in alone]), atol=1e-5)
    np.testing.assert_allclose(value, np.sum([v for _, v in alone]), rtol=1e-5)
    assert conjugate == 0
    assert np.all(np.count_nonzero(rows, axis=-1) == 1)


def minimize(kappa, decay, target, curvature, steps=4000, lr=0.02):
    """Runs Lion-K on 1/2 (x - t)' Q (x - t), learning rate decaying to 0, in float64."""
    tx = optim.lion_k(optax.cosine_decay_schedule(lr, steps), kappa, weight_decay=decay)

    def step(carry, _):
        x, state = carry
        updates, state = tx.update(curvature * (x - target), state, x)
        return (x + updates, state), None

    x = np.zeros_like(target)
    return jax.jit(lambda x: jax.lax.scan(step, (x, tx.init(x)), length=steps)[0][0])(x)


def test_fixed_points():
    """The minimizer of f + K*(lam x)/lam, where it is known in closed form."""
    with jax.enable_x64(True):
        t, q, lam = np.array([2.0, -0.3, 0.05, -4.0]), np.array([1.0, 2.0, 0.5, 1.5]), 1.0
        e = 0.4
        soft = np.sign(t) * np.maximum(np.abs(t) - e / q, 0)
        solutions = {
            "l1": (kappas.l1, np.clip(t, -1 / lam, 1 / lam)),
            "l2_squared": (kappas.l2_squared, q * t / (q + lam)),
            "huber": (kappas.huber(e), np.clip(q * t / (q + lam * e), -1 / lam, 1 / lam)),
            "dead_zone": (kappas.dead_zone(e), np.clip(soft, -1 / lam, 1 / lam)),
        }
        for name, (kappa, solution) in solutions.items():
            x = minimize(kappa, lam, t, q)
            np.testing.assert_allclose(x, solution, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("name", ["l2", "lp", "group_l2", "top_k", "spectral"])
def test_constrained_solutions_lie_in_their_set(name):
    """Where the conjugate is an indicator, lam x ends on the boundary of its domain."""
    with jax.enable_x64(True):
        target = 5 * np.random.default_rng(3).standard_normal((3, 2))
        x = np.asarray(minimize(KAPPAS[name], 0.5, target, 1.0, steps=1500))
        conjugate = jax.jit(KAPPAS[name].conjugate)
        assert conjugate(0.5 * x) == 0
        assert conjugate(0.6 * x) == np.inf
        assert np.sum(np.square(x - target)) < np.sum(np.square(target))


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(0, 2**31 - 1))
def test_box_contraction_for_any_gradients(seed):
    """max(|x| - 1/lam, 0) shrinks by 1 - lr lam a step, whatever the gradients."""
    rng = np.random.default_rng(seed)
    lr, lam = 0.1, 2.0
    x, grads = 5 * rng.standard_normal(6).astype(np.float32), rng.standard_normal((30, 6))
    outside = np.maximum(np.abs(walk(jnp.asarray(x), np.float32(grads))) - 1 / lam, 0)
    outside = np.concatenate([np.maximum(np.abs(x) - 1 / lam, 0)[None], outside])
    assert np.all(outside[1:] <= (1 - lr * lam) * outside[:-1] + 1e-6)


@jax.jit
def walk(x, grads):
    tx = optim.lion(0.1, weight_decay=2.0)

    def step(carry, g):
        x, state = carry
        updates, state = tx.update(g, state, x)
        return (x + updates, state), x + updates

    return jax.lax.scan(step, (x, tx.init(x)), grads)[1]


@pytest.mark.parametrize("name", ["l2_squared", "huber", "l2"])
def test_lyapunov_function_never_rises(name):
    """Along the differential equation of Lion-K, by Runge-Kutta; and it ends at the minimum."""
    kappa, lam, lr, b1, b2 = KAPPAS[name], 0.5, 0.1, 0.9, 0.95
    gamma = (1 - b2) / lr
    epsilon = (1 - b1) / gamma
    with jax.enable_x64(True):
        q = np.array([1.0, 3.0, 0.5])
        target = np.array([1.0, -0.5, 0.8])

        def flow(z):
            x, m = z  # m is the average of the gradients, minus the paper's momentum.
            m_dot = gamma * (q * (x - target) - m)
            return -kappa.grad(m + epsilon * m_dot) - lam * x, m_dot

        def step(z, _):
            h = 0.01
            k1 = flow(z)
            k2 = flow(jax.tree.map(lambda a, k: a + h / 2 * k, z, k1))
            k3 = flow(jax.tree.map(lambda a, k: a + h / 2 * k, z, k2))
            k4 = flow(jax.tree.map(lambda a, k: a + h * k, z, k3))
            z = jax.tree.map(
                lambda a, p, q, r, s: a + h / 6 * (p + 2 * q + 2 * r + s), z, k1, k2, k3, k4
            )
            return z, energy(*z)

        def energy(x, m):
            state = optax.ScaleByLionState(0, m)
            f = 0.5 * jnp.sum(q * jnp.square(x - target))
            hyper = {"learning_rate": lr, "weight_decay": lam, "b1": b1, "b2": b2}
            return optim.lyapunov(state, x, f, kappa, **hyper)

        start = (np.array([-0.5, 0.4, 0.3]), np.array([0.3, -0.2, 0.1]))
        walk = jax.jit(lambda z: (energy(*z), jax.lax.scan(step, z, length=4000)))
        first, ((x, _), energies) = walk(start)
        x, energies = np.asarray(x), np.asarray(energies)
        assert np.isfinite(energies).all()
        rises = np.diff(np.concatenate([[first], energies]))
        assert rises.max() < 1e-12
        if name == "l2_squared":
            np.testing.assert_allclose(x, q * target / (q + lam), atol=1e-6)
        conjugate = jax.jit(kappa.conjugate)(lam * x)
        minimum = 0.5 * np.sum(q * np.square(x - target)) + conjugate / lam
        np.testing.assert_allclose(energies[-1], minimum, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits(dtype):
    """Singular values are those of float32; so is the Lyapunov function of a short momentum."""
    c = np.asarray([[3.0, 1.0, 0.5], [-1.0, 2.0, 0.25]], jnp.dtype(dtype))
    wide = c.astype(np.float32)
    hyper = {"learning_rate": 0.1, "weight_decay": 0.1}
    for kappa in (kappas.spectral("svd"), kappas.spectral()):
        tx = optim.lion_k(0.1, kappa, weight_decay=0.1)

        @jax.jit
        def both(c, wide, kappa=kappa, tx=tx):
            _, state = tx.update(c, tx.init(c), c)
            of_wide = jax.tree.map(lambda x: x.astype(jnp.float32) if x.ndim else x, state)
            pairs = ((c, state), (wide, of_wide))
            return [
                (kappa.grad(x), kappa.value(x), optim.lyapunov(s, x, 1.0, kappa, **hyper))
                for x, s in pairs
            ]

        (grad, value, energy), expected = both(c, wide)
        assert grad.dtype == dtype
        np.testing.assert_allclose(np.float32(grad), expected[0], atol=1e-2)
        np.testing.assert_allclose(value, expected[1], rtol=1e-6)
        np.testing.assert_allclose(energy, expected[2])


@pytest.mark.parametrize("make", [kappas.huber, kappas.dead_zone, lambda e: kappas.lp(1 + e)])
def test_thresholds_and_orders_may_be_traced(make):
    """As under ``optax.inject_hyperparams`` or a search over them by ``vmap``."""
    c = jnp.array([0.25, -3.0, 0.0])

    def of(e):
        kappa = make(e)
        return kappa.value(c), kappa.grad(c), kappa.conjugate(0.1 * c)

    traced = jax.jit(jax.vmap(of))(jnp.array([0.5, 1.5]))
    for i, e in enumerate((0.5, 1.5)):
        got = jax.tree.map(lambda x, i=i: x[i], traced)
        alone = jax.jit(functools.partial(of, e))()
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, alone)
    assert make(0.5).name.endswith("5)")


def test_derivatives_at_zero():
    """A momentum starts there; a derivative that is not finite would spoil all before it."""
    for kappa in (kappas.l2, kappas.lp(3), kappas.lp(1.5), kappas.group_l2, kappas.spectral()):

        def total(size, kappa=kappa):
            return jnp.sum(kappa.grad(size * jnp.zeros((2, 2))))

        assert jax.jit(jax.grad(total))(1.0) == 0, kappa.name


def test_lyapunov_outside_and_without_decay():
    tx, x = optim.lion(0.1, weight_decay=0.5), jnp.array([3.0, 0.0])
    hyper = {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99}
    assert optim.lyapunov(tx.init(x), x, 1.0, weight_decay=0.5, **hyper) == np.inf
    np.testing.assert_allclose(optim.lyapunov(tx.init(x), x, 1.0, weight_decay=0.0, **hyper), 1.0)


def lyapunov(state=None, **changed):
    x = jnp.ones(2)
    state = optim.lion(0.1).init(x) if state is None else state
    return optim.lyapunov(state, x, 1.0, **{"learning_rate": 0.1, "weight_decay": 0.1, **changed})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lyapunov(learning_rate=0.0), "learning_rate must be > 0, got 0.0"),
        (lambda: lyapunov(b2=1.0), r"b2 must be in \[0, 1\), got 1.0"),
        (lambda: lyapunov(optax.EmptyState()), "state must hold one state of Lion, got 0"),
        (lambda: kappas.huber(0.0), "e must be > 0, got 0"),
        (lambda: kappas.dead_zone(-1.0), "e must be >= 0, got -1"),
        (lambda: kappas.lp(1), "p must be > 1, got 1"),
        (lambda: kappas.lp(float("inf")), "p must be > 1 and finite, got inf"),
        (lambda: kappas.top_k(0), "k must be an integer >= 1, got 0"),
        (lambda: kappas.top_k(1.5), "k must be an integer >= 1, got 1.5"),
        (lambda: kappas.over_tree("l2"), "kappa must be an optim.kappas.Kappa, got 'l2'"),
        (lambda: kappas.over_axis(kappas.l2, 0.5), "axis must be an integer, got 0.5"),
        (lambda: kappas.stacked(None), "kappa must be an optim.kappas.Kappa, got None"),
        (lambda: kappas.spectral("qr"), "method must be one of newton_schulz, svd, got 'qr'"),
        (lambda: kappas.spectral(steps=-1), "steps must be an integer >= 0, got -1"),
    ],
)
def test_bad_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()
