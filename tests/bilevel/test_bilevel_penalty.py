"""The penalty family replays its reference trajectories, in float64."""

import bilevel_records as records
import jax
import numpy as np
import pytest

import bilevel
from bilevel import power
from experiments.problems import closed_form

# The record's letters.
NAMES = {"alpha": "upper_step", "beta": "averaging", "gamma": "lower_step", "rho": "prox"}


def check(states, record, prefix, names, tolerance=1e-12):
    for name in names:
        got = getattr(states, name)[record["iters"]]
        assert records.relative_error(got, record[prefix + name]) <= tolerance, name


@pytest.mark.fidelity
@pytest.mark.parametrize(("noise", "prefix"), [("none", "f2sa_det_"), ("both", "f2sa_sto_")])
def test_f2sa_replays(noise, prefix):
    with jax.enable_x64(True):
        r = records.load("penalty_stoch_s0")
        alpha, gamma = bilevel.f2sa_schedules(noise, *(float(r[k]) for k in ("ca", "cg", "k0")))
        solver = bilevel.f2sa(alpha, gamma, inner_steps=int(r["T"]), step_ratio=float(r["xi"]))
        state = solver.init(records.closed_form_problem("P1", r), r["x0"], r["y0"], r["z0"])
        batches = None if noise == "none" else records.samples(r, prefix)
        states, metrics = records.trajectory(solver, state, batches, int(r["K"]))
        check(states, r, prefix, ("x", "y", "z", "lam"))
        assert all(np.all(np.isfinite(m)) for m in metrics.values())


@pytest.mark.fidelity
def test_f2sa_replays_benchopt():
    with jax.enable_x64(True):
        r = records.load("f2sa_benchopt_P1s0")
        s = float(r["step"])
        solver = bilevel.f2sa(
            penalized_step=power(s, -5 / 7),
            lower_step=power(s, -4 / 7),
            multiplier=float(r["lmbda0"]),
            multiplier_step=power(float(r["delta_lmbda"]), -1 / 7),
            inner_steps=int(r["n_inner_steps"]),
            upper_step=power(s / float(r["outer_ratio"]), -4 / 7),
        )
        problem = records.closed_form_problem("P1", r)
        state = solver.init(problem, *(r[k][0] for k in "xyz"))
        states, _ = records.trajectory(solver, state, records.samples(r, ""), r["idx_fx"].size)
        check(states, r, "", ("x", "y", "z", "lam"))
        for name, field in (("x", "x"), ("y", "y"), ("z", "z"), ("lmbda", "lam")):
            last = getattr(states, field)[-1]
            assert records.relative_error(last, r[f"benchopt_final_{name}"]) <= 1e-12


@pytest.mark.fidelity
def test_f3sa_replays():
    with jax.enable_x64(True):
        r = records.load("penalty_stoch_s0")
        ca, cg, ce, k0 = (float(r[k]) for k in ("ca", "cg", "ce", "k0"))
        solver = bilevel.f3sa(
            *bilevel.f3sa_schedules("both", ca, cg, ce, k0, authors=True), step_ratio=float(r["xi"])
        )
        state = solver.init(records.closed_form_problem("P1", r), r["x0"], r["y0"], r["z0"])
        batches = records.samples(r, "f3sa_")
        states, _ = records.trajectory(solver, state, batches, int(r["K"]))
        check(states, r, "f3sa_", ("x", "y", "z"))


@pytest.mark.fidelity
def test_algorithm_2_replays():
    with jax.enable_x64(True):
        r = records.load("penalty_stoch_s0")
        names = ("alpha0", "beta0", "gamma0", "eta0", "offset")
        constants = dict(
            zip(names, (float(r[k]) for k in ("a2", "b2", "g2", "ce", "k0")), strict=True)
        )
        solver = bilevel.penalty(
            **bilevel.penalty_schedules("both", **constants), prox=float(r["rho"])
        )
        state = solver.init(records.closed_form_problem("P1", r), r["x0"], r["y0"], r["z0"])
        names = ("fwy", "gwy", "gwz", "fx", "gxy", "gxz")
        batches = records.samples(r, "alg2_", names)
        states, _ = records.trajectory(solver, state, batches, int(r["K"]))
        check(states, r, "alg2_", ("x", "y", "z", "wy", "wz"))


@pytest.mark.fidelity
@pytest.mark.parametrize("name", ["P1", "P2a", "P2b", "P3", "P4", "P5"])
def test_algorithm_1_replays(name):
    with jax.enable_x64(True):
        r = records.load(f"penalty_{name}_s0")
        problem = records.closed_form_problem(name, r)
        args = {new: float(r[old]) for old, new in NAMES.items()}
        constant, decaying = float(r["sigma_const"]), power(1.0, -1 / 3)

        @jax.jit
        @jax.vmap  # Both kinds of run from one compilation.
        def run(kind):
            def sigma(k):
                return jax.numpy.where(kind == 0, constant, decaying(k))

            solver = bilevel.penalty(**args, upper_weight=sigma, inner_steps=int(r["T"]))
            state = solver.init(problem, r["x0"], r["y0"], r["z0"])

            def body(state, _):
                state, _ = solver.step(state, None)
                return state, state

            _, states = jax.lax.scan(body, state, length=int(r["K"]))
            return jax.tree.map(lambda a, b: jax.numpy.concatenate([a[None], b]), state, states)

        states = run(np.arange(2))
        for kind, name_of_kind in enumerate(("const", "dec")):
            for field in ("x", "y", "z", "wy", "wz"):
                got = getattr(states, field)[kind][r["alg1_iters"]]
                expected = r[f"alg1_{name_of_kind}_{field}"]
                rows = 8 if name == "P4" else None  # Does not settle: errors grow.
                assert records.relative_error(got[:rows], expected[:rows]) <= 1e-9, (kind, field)


def test_algorithm_1_reaches_the_minimizer_of_the_penalty_objective():
    sigma_index = 1
    with jax.enable_x64(True):
        r = records.load("penalty_P1_s0")
        sigma = float(r["sigmas"][sigma_index])
        args = {new: float(r[old]) for old, new in NAMES.items()}
        solver = bilevel.penalty(**args, upper_weight=sigma, inner_steps=int(r["T"]))
        problem = records.closed_form_problem("P1", r)
        state, metrics = bilevel.solve(problem, solver, r["x0"], r["y0"], steps=20_000)
        # The x step is alpha sigma, so that small sigma is slow.
        assert records.relative_error(state.x, r["xsig"][sigma_index]) <= 1e-8
        assert metrics["residual"][-1] <= 1e-6
        value = metrics["gap"][-1] / sigma
        at_minimum = closed_psi_sigma(r, sigma, np.asarray(state.x))
        assert abs(value - at_minimum) <= 1e-6 * abs(at_minimum)


def closed_psi_sigma(r, sigma, x):
    form = closed_form.PROBLEMS["p1"](records.data(r), r["x0"], r["y0"])
    return float(form.psi_sigma(x, sigma))


def test_without_noise_momentum_changes_nothing():
    with jax.enable_x64(True):
        r = records.load("penalty_P1_s0")
        problem = records.closed_form_problem("P1", r)
        alpha, gamma, eta, _ = bilevel.f3sa_schedules("both")
        steps = bilevel.penalty_schedules("both")
        pairs = [
            (
                bilevel.f3sa(alpha, gamma, eta, step_ratio=1.0),
                bilevel.f2sa(alpha, gamma, inner_steps=1, step_ratio=1.0),
            ),
            (
                bilevel.penalty(**steps),
                bilevel.penalty(**(steps | {"momentum": None, "inner_steps": 1})),
            ),
        ]
        for pair in pairs:
            got, expected = (
                bilevel.solve(problem, s, r["x0"], r["y0"], steps=200).state for s in pair
            )
            for field in ("x", "y", "z"):
                error = records.relative_error(getattr(got, field), getattr(expected, field))
                assert error <= 1e-12, field
