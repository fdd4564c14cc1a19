"""Every metric that a solver documents, recomputed in NumPy from the states around a step.

The problem is quadratic, with its derivatives written by hand:
f = .5 y'Ay - y'(Bx + b) below, F = .5 y'Dy + c'y + x'Ky + .5 |x|^2 above.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel
from bilevel import projections

rng = np.random.default_rng(5)
N, P, Q = 4, 3, 5
M = rng.standard_normal((Q, Q))
A, D = M @ M.T / Q + np.eye(Q), np.diag(rng.uniform(0.5, 1.5, Q))
B, K = rng.standard_normal((Q, P)), rng.standard_normal((P, Q))
SHIFTS, TARGETS = rng.standard_normal((N, Q)), rng.standard_normal((N, Q))
X0, Y0 = rng.uniform(-0.4, 0.4, P), rng.standard_normal(Q)
LOW, HIGH = -0.5, 0.5


def box(v):
    return np.clip(v, LOW, HIGH)


class By:
    """The problem by hand, with the samples' means (or sample i) of the linear terms."""

    def __init__(self, i=slice(None)):
        self.b, self.c = SHIFTS[i].reshape(-1, Q).mean(0), TARGETS[i].reshape(-1, Q).mean(0)

    def f(self, x, y):
        return 0.5 * y @ A @ y - y @ (B @ x + self.b)

    def F(self, x, y):
        return 0.5 * y @ D @ y + self.c @ y + x @ K @ y + 0.5 * x @ x

    def f_x(self, x, y):
        return -B.T @ y

    def f_y(self, x, y):
        return A @ y - B @ x - self.b

    def F_x(self, x, y):
        return x + K @ y

    def F_y(self, x, y):
        return D @ y + self.c + K.T @ x


def problem(**sets):
    def lower(x, y, i):
        b = jnp.mean(jnp.asarray(SHIFTS), 0) if i is None else jnp.asarray(SHIFTS)[i]
        return 0.5 * y @ A @ y - y @ (B @ x + b)

    def upper(x, y, i):
        c = jnp.mean(jnp.asarray(TARGETS), 0) if i is None else jnp.asarray(TARGETS)[i]
        return 0.5 * y @ D @ y + c @ y + x @ K @ y + 0.5 * x @ x

    return bilevel.Problem(upper, lower, project_x=projections.box(LOW, HIGH), **sets)


def two_steps(solver, batch=None, **sets):
    """Returns the states before and after the second step, in NumPy, and its metrics."""
    with jax.enable_x64(True):
        step = jax.jit(solver.step)
        before, _ = step(solver.init(problem(**sets), X0, Y0), batch)
        after, metrics = step(before, batch)
        return jax.device_get((before, after, metrics))


def check(metrics, expected):
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    assert all(abs(v) > 1e-6 for v in expected.values())  # Nothing is right by being zero.


def norm(*parts):
    return np.linalg.norm(np.concatenate([np.ravel(p) for p in parts]))


def projected(x, d):
    return norm(x - box(x - d))


@pytest.mark.parametrize("solver", ["f2sa", "f3sa", "fixed"])
def test_f2sa_and_f3sa(solver):
    alpha, gamma = (lambda k: 0.05 / (k + 1)), (lambda k: 0.3 / (k + 2))
    lam = (0.3 / 3) / (2 * 0.05 / 2)  # Of iteration 1.
    inner, steps = 3, (0.05 / 2, 0.3 / 3)
    made = bilevel.f2sa(alpha, gamma, inner_steps=inner)
    if solver == "f3sa":
        made, inner = bilevel.f3sa(alpha, gamma, 0.5), 1
    if solver == "fixed":
        made, lam, steps = bilevel.f2sa(0.05, 0.1, 4.0, 0.25, inner), 4.25, (0.05, 0.1)
    before, after, metrics = two_steps(made)
    by, x, y, z = By(), before.x, after.y, after.z
    d = by.F_x(x, y) + lam * (by.f_x(x, y) - by.f_x(x, z))
    gap = by.f(x, y) - by.f(x, z)
    u, v = before.y, before.z
    for _ in range(inner):
        moves = by.F_y(x, u) + lam * by.f_y(x, u), by.f_y(x, v)
        u, v = u - steps[0] * moves[0], v - steps[1] * moves[1]
    np.testing.assert_allclose(y, u, rtol=1e-9)
    check(
        metrics,
        {
            "upper": by.F(x, y),
            "lower": by.f(x, y),
            "lower_gap": gap,
            "gap": by.F(x, y) / lam + gap,
            "multiplier": lam,
            "residual": projected(x, d),
            "lower_residual": norm(*moves),
        },
    )


@pytest.mark.parametrize("eta", [None, 0.5])
def test_penalty(eta):
    rho, beta = 0.6, 0.7
    sigma = lambda k: 0.4 / (k + 1)  # noqa: E731
    inner = {"inner_steps": 2} if eta is None else {}
    made = bilevel.penalty(0.1, beta, 0.2, sigma, rho, momentum=eta, **inner)
    before, after, metrics = two_steps(made)
    by, x, u, v, s = By(), before.x, after.wy, after.wz, 0.4 / 2
    gap = by.f(x, u) - by.f(x, v)
    d = by.F_x(x, u) + (by.f_x(x, u) - by.f_x(x, v)) / s
    check(
        metrics,
        {
            "upper": by.F(x, u),
            "lower": by.f(x, u),
            "lower_gap": gap,
            "gap": s * by.F(x, u) + gap,
            "multiplier": 1 / s,
            "prox_residual": norm(u - before.y, v - before.z) / rho,
            "residual": projected(x, d),
        },
    )
    np.testing.assert_allclose(after.y, before.y + beta * (u - before.y), rtol=1e-12)


@pytest.mark.parametrize("linear_solver", ["cg", "normal_cg", "neumann"])
def test_implicit(linear_solver):
    made = bilevel.implicit(
        linear_solver, 0.1, 0.15, inner_steps=2, linear_steps=2, linear_step=0.2
    )
    before, after, metrics = two_steps(made)
    by, x, y, v = By(), before.x, after.y, after.v
    d = by.F_x(x, y) + B.T @ v  # f_xy v = -B'v.
    rest, size = A @ v - by.F_y(x, y), norm(by.F_y(x, y))
    if linear_solver == "normal_cg":
        rest, size = A @ rest, norm(A @ by.F_y(x, y))
    if linear_solver == "neumann":  # v = w - .2 r(w), and r is reported at w, before that step.
        w = np.linalg.solve(np.eye(Q) - 0.2 * A, v - 0.2 * by.F_y(x, y))
        rest = A @ w - by.F_y(x, y)
    check(
        metrics,
        {
            "upper": by.F(x, y),
            "lower": by.f(x, y),
            "hypergradient": norm(d),
            "residual": projected(x, d),
            "lower_residual": norm(by.f_y(x, y)),
            "linear_residual": norm(rest) / size,
        },
    )


def test_lower_residuals_are_of_the_projected_level():
    sets = {"project_y": projections.box(LOW, HIGH)}
    with pytest.warns(UserWarning, match="y0 is infeasible"):
        before, after, metrics = two_steps(bilevel.implicit("normal_cg", inner_steps=2), **sets)
    y = after.y
    np.testing.assert_allclose(
        metrics["lower_residual"], norm(y - box(y - By().f_y(before.x, y))), rtol=1e-9
    )


def test_unrolled():
    gamma, steps = 0.15, 3
    before, after, metrics = two_steps(bilevel.unrolled(steps, 0.1, gamma))
    by, x, path = By(), before.x, [before.y]
    for _ in range(steps):
        path.append(path[-1] - gamma * by.f_y(x, path[-1]))
    y, last = path[-1], path[-2]
    np.testing.assert_allclose(after.y, y, rtol=1e-12)
    through = np.zeros((Q, P))  # dy_t / dx, forward.
    for _ in range(steps):
        through = through - gamma * (A @ through - B)
    d = by.F_x(x, y) + through.T @ by.F_y(x, y)
    check(
        metrics,
        {
            "upper": by.F(x, y),
            "lower": by.f(x, last),
            "hypergradient": norm(d),
            "residual": projected(x, d),
            "lower_residual": norm(by.f_y(x, last)),
        },
    )


def test_soba():
    before, _, metrics = two_steps(bilevel.soba(0.1, 0.1))
    by, x, y, v = By(), before.x, before.y, before.v
    d = by.F_x(x, y) - B.T @ v
    check(
        metrics,
        {
            "upper": by.F(x, y),
            "lower": by.f(x, y),
            "hypergradient": norm(d),
            "residual": projected(x, d),
            "lower_residual": norm(by.f_y(x, y)),
            "linear_residual": norm(A @ v + by.F_y(x, y)),
        },
    )


def test_saba():
    upper_ids, lower_ids = np.array([0, 2], np.int32), np.array([3, 1], np.int32)
    batch = (upper_ids, upper_ids), (lower_ids, lower_ids)
    before, _, metrics = two_steps(bilevel.saba(N, N, 0.1, 0.1), batch)
    x, y, v = before.x, before.y, before.v
    upper, lower = [By(i) for i in upper_ids], [By(i) for i in lower_ids]

    def saga(table, ids, new):
        return np.mean(np.stack(new) - table.rows[ids], 0) + table.rows.mean(0)

    f_y = saga(before.f_y, lower_ids, [by.f_y(x, y) for by in lower])
    f_yy_v = saga(before.f_yy_v, lower_ids, [A @ v] * 2)
    f_xy_v = saga(before.f_xy_v, lower_ids, [-B.T @ v] * 2)
    F_y = saga(before.F_y, upper_ids, [by.F_y(x, y) for by in upper])
    F_x = saga(before.F_x, upper_ids, [by.F_x(x, y) for by in upper])
    check(
        metrics,
        {
            "upper": np.mean([by.F(x, y) for by in upper]),
            "lower": np.mean([by.f(x, y) for by in lower]),
            "hypergradient": norm(f_xy_v + F_x),
            "residual": projected(x, f_xy_v + F_x),
            "lower_residual": norm(f_y),
            "linear_residual": norm(f_yy_v + F_y),
        },
    )


@pytest.mark.parametrize("equality", [False, True])
def test_lv_hba(equality):
    rows, offset = np.ones((2, Q)) * [[1.0], [-2.0]], np.array([0.1, -0.4])
    alpha, gamma1, gamma2 = 0.1, 2.0, 0.5

    def constraint(x, y):
        return rows @ y + x[:2] + offset

    made = bilevel.lv_hba(alpha, 0.3, 0.2, gamma1, gamma2, penalty=lambda k: 2.0 + k)
    before, after, metrics = two_steps(
        made,
        constraint=lambda x, y, i: constraint(x, y),
        project_xy=lambda x, y: (jnp.clip(x, LOW, HIGH), y),
        multiplier_bound=3.0,
        equality=equality,
    )
    by, x, y = By(), before.x, before.y
    theta, lam, g = after.theta, after.lam, constraint(x, y)
    value = by.f(x, theta) + lam @ constraint(x, theta)
    value += norm(theta - y) ** 2 / (2 * gamma1) - norm(lam - before.z) ** 2 / (2 * gamma2)
    check(
        metrics,
        {
            "upper": by.F(x, y),
            "lower": by.f(x, y),
            "gap": by.f(x, y) - value,
            "feasibility": np.max(np.abs(g) if equality else np.maximum(g, 0)),
            "multiplier": np.max(np.abs(lam)),
            "residual": norm(after.x - x, after.y - y) / alpha,
            "stationarity": (2.0 + 1) * norm(after.x - x, after.y - y) / alpha,
        },
    )
