"""LV-HBA replays its reference trajectories, in float64."""

import math

import bilevel_records as records
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel
from bilevel import Problem, power, projections


def solver_of(r, c0=None, gamma1=None, **kwargs):
    return bilevel.lv_hba(
        *(float(r[k]) for k in ("alpha", "beta", "eta")),
        prox=float(r["gamma1"]),
        multiplier_prox=float(r["gamma2"]),
        penalty=power(float(r["c0"] if c0 is None else c0), float(r["p"])),
        **kwargs,
    )


def start_of(r, state):
    fields = {k: jnp.asarray(r[k][0]) for k in ("x", "y", "theta", "lam", "z")}
    return state._replace(**fields)


def check(states, r, fields=("x", "y", "theta"), full=("lam", "z"), tolerance=1e-9):
    for name in fields:
        got = getattr(states, name)[r["iters"]]
        assert records.relative_error(got, r[name]) <= tolerance, name
    for name in full:
        assert records.relative_error(getattr(states, name), r[name]) <= tolerance, name


@pytest.mark.fidelity
@pytest.mark.parametrize("run", ["official", "tuned", "n10_random"])
def test_llc(run):
    with jax.enable_x64(True):
        r = records.load(f"lvhba_llc_{run}")
        n = int(r["n"])
        problem = Problem(
            upper=lambda x, y, b: 0.5 * jnp.sum((x - y[n:]) ** 2) + 0.5 * jnp.sum((y[:n] - 1) ** 2),
            lower=lambda x, y, b: 0.5 * jnp.sum(y[:n] ** 2) - x @ y[:n] + jnp.sum(y[n:]),
            constraint=lambda x, y, b: (jnp.sum(x) + jnp.sum(y))[None],
            project_xy=projections.joint(projections.affine(np.ones((1, 3 * n)))),
            multiplier_bound=float(r["u"]),
            equality=True,
        )
        solver = solver_of(r)
        state = start_of(r, solver.init(problem, r["x"][0], r["y"][0]))
        states, metrics = records.trajectory(solver, state, None, len(r["F"]) - 1)
        check(states, r)
        assert records.relative_error(metrics["upper"], r["F"][:-1]) <= 1e-9
        assert records.relative_error(metrics["lower"], r["f"][:-1]) <= 1e-9
        distance = np.linalg.norm(states.x[-1] + 0.3) / np.linalg.norm(np.full(n, 0.3))
        assert abs(distance / r["relx"][-1] - 1) <= 1e-8


@pytest.mark.fidelity
@pytest.mark.parametrize("run", ["clean", "official"])
def test_llsc(run):
    with jax.enable_x64(True):
        r, m = records.load(f"lvhba_llsc_{run}"), records.load("lvhba_llsc_matrices")
        A, B, H, c, d = (m[k] for k in "ABHcd")
        problem = Problem(
            upper=lambda x, y, b: jnp.sin(c @ x + d @ y) + jnp.log(jnp.sum((x + y) ** 2) + 1),
            lower=lambda x, y, b: 0.5 * jnp.sum((x - y) ** 2),
            constraint=lambda x, y, b: A @ y + H @ x,
            project_xy=projections.joint(
                projections.affine(np.block([[H, A], [B, np.zeros_like(A)]]))
            ),
            multiplier_bound=math.inf,
            equality=True,
        )
        onto = projections.affine(A)
        solver = solver_of(r, project_theta=lambda theta, x: onto(theta, -H @ x))
        state = start_of(r, solver.init(problem, r["x"][0], r["y"][0]))
        steps = len(r["F"]) - 1
        if run == "clean":
            states, metrics = records.trajectory(solver, state, None, steps)
            check(states, r, ("x", "y", "theta", "lam", "z"), ())
            assert records.relative_error(metrics["upper"], r["F"][:-1]) <= 1e-9
            assert r["F"][-1] <= -0.47
        else:  # The script differentiates y0 = P(x0) too, in its first step alone.
            leak = jax.grad(problem.upper, 1)(state.x, state.y, None)
            leak = (np.linalg.pinv(A) @ H).T @ leak
            moved, _ = jax.jit(solver.step)(state, None)
            x, y = problem.project_xy(moved.x + float(r["alpha"]) * leak, moved.y)
            states, _ = records.trajectory(solver, moved._replace(x=x, y=y), None, steps - 1)
            states = jax.tree.map(lambda a, b: np.concatenate([a[None], b]), state, states)
            check(states, r, ("x", "y", "theta", "lam", "z"), ())


@pytest.mark.fidelity
@pytest.mark.parametrize("data", ["diabetes", "fourclass"])
def test_svm(data):
    with jax.enable_x64(True):
        r = records.load(f"lvhba_svm_{data}_clean")
        problem, split = records.svm(r)
        solver = solver_of(r)
        with pytest.warns(UserWarning, match="infeasible: projected by project_xy"):
            state = solver.init(problem, r["x"][0], split(r["y"][0]))
        state = state._replace(
            x=jnp.asarray(r["x"][0]),
            y=split(r["y"][0]),
            theta=split(r["theta"][0]),
            lam=jnp.asarray(r["lam"][0]),
            z=jnp.asarray(r["z"][0]),
        )
        states, metrics = records.trajectory(solver, state, None, len(r["F"]) - 1)
        joined = states._replace(y=records.join(states.y), theta=records.join(states.theta))
        check(joined, r, ("x", "y", "theta", "lam", "z"), ())
        assert records.relative_error(metrics["upper"], r["F"][:-1]) <= 1e-9
        assert records.relative_error(metrics["lower"], r["f"][:-1]) <= 1e-9
        assert np.max(metrics["feasibility"][1:]) <= 1e-9


@pytest.mark.fidelity
def test_toy_inequality():
    with jax.enable_x64(True):
        r = records.load("lvhba_toy_ineq_s0")
        problem = records.toy(r)
        solver = solver_of(r)
        for i in range(6):
            state = solver.init(problem, r[f"run{i}_x"][0], r[f"run{i}_y"][0])
            states, _ = records.trajectory(solver, state, None, int(r["K"]))
            run = {k: r[f"run{i}_{k}"] for k in ("x", "y", "theta", "lam", "z")}
            check(states, run | {"iters": r["iters"]}, ("x", "y", "theta", "lam", "z"), ())
            assert abs(states.x[-1] - r["final"][i, 0]) <= 1e-9


@pytest.mark.fidelity
@pytest.mark.parametrize("data", ["diabetes", "fourclass"])
def test_svm_official_step_by_step(data):
    """One step from each recorded state of the authors' float32 run, with its peculiarities.

    Their loader pairs slack i with sample perm[i], multipliers are not projected, z does not move,
    and neither does the upper variable.
    """
    r = records.load(f"lvhba_svm_{data}_official_s1")
    assert int(r["clamp"]) == -1
    d = r["z_train"].shape[1]
    features, labels = (jnp.asarray(r[k], jnp.float32) for k in ("z_train", "y_train"))
    clean, split = records.svm(r | {"leaky": True, "r": 1.0})

    def constraint(x, y, order):
        w, b, xi = y
        return 1 - xi - labels[order] * (features[order] @ w + b)

    problem = Problem(
        clean.upper,
        clean.lower,
        constraint,
        project_xy=lambda x, y: (jax.lax.stop_gradient(jnp.asarray(r["C"][0])), y),
        multiplier_bound=math.inf,
        equality=True,  # With an infinite bound: multipliers of both signs, as in the script.
    )
    solver = bilevel.lv_hba(
        float(r["alpha"]),
        float(r["beta"]),
        float(r["eta"]),
        prox=1 / float(r["inv_gamma1"]),
        multiplier_prox=1 / float(r["inv_gamma2"]),
        penalty=power(1.0, float(r["p"])),
    )
    onto = jax.jit(projections.svm(r["z_train"], r["y_train"]))
    step = jax.jit(solver.step)
    y = [split(row) for row in np.column_stack([r["w"], r["b"], r["xi"]])]
    theta = [split(row) for row in np.column_stack([r["tw"], r["tb"], r["txi"]])]
    orders = r["perms"][:, 0].astype(np.int32)
    first = solver.init(problem, r["C"][0], y[0], (None, orders[0]))
    for row, order in enumerate(orders[:5]):
        assert r["iters"][row + 1] == row + 1
        state = first._replace(
            count=jnp.asarray(row, jnp.int32),
            x=jnp.asarray(r["C"][row]),
            y=y[row],
            theta=theta[row],
            lam=jnp.asarray(r["lam"][row]),
            z=jnp.asarray(r["z"][row]),
        )
        state, _ = step(state, (None, order))
        before = records.join(state.y)
        assert np.max(np.abs(before - r["pre_w_b_xi"][row])) <= 2e-5
        assert np.max(np.abs(records.join(state.theta) - records.join(theta[row + 1]))) <= 2e-5
        assert np.max(np.abs(state.lam - r["lam"][row + 1])) <= 2e-5
        after = records.join(onto(state.y))  # Theirs is an interior-point solve to 2e-3.
        assert np.max(np.abs(after - records.join(y[row + 1]))) <= 2e-3
        assert after.shape == (d + 1 + 500,)
