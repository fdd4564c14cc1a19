"""Runs that ``bilevel.solve`` ends by a tolerance: how long they are, and how right they end.

    python -m benchmarks.tolerance --out=results/bilevel/tolerance.json

P1 to P5 are the closed forms of seed 0, LLC has ten numbers in each block. The ridge problem
chooses one l2 penalty on validation data (diabetes, 100 samples each); scikit-learn solves its
lower level, and a scalar search on that finds the optimum. Each run ends where all residuals that
its solver reports are at most ``tol``, looked at every ten iterations, or after ``max_steps``.

The distance from stationary is |x - P(x - grad psi(x))| of the exact hyper-objective; of P2b
and P3, which the penalty method solves at a constant sigma, that of psi_sigma. The error is
|x - x*|, with x* that of psi or psi_sigma; of LLC the relative error of (x, y). P3 has no closed
form of x*. The hyper-objective of P4 is discontinuous: nothing should end there by a tolerance.

A solver reports the residual of its own direction. That of P5's differs by what 20 unrolled steps
leave out, 0.6^20 of the upper gradient, so that its distance ends at four times the smaller
tolerance. An error is a distance divided by the curvature of psi.
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bilevel
from experiments import problems
from experiments.common import files, markdown, provenance
from experiments.problems import closed_form

# Solver, the sigma of the penalty (None: psi itself), tolerances, most iterations.
RUNS: dict[str, tuple[str, float | None, tuple[float, float], int]] = {
    "p1": ('implicit("cg", 0.1, 0.2)', None, (1e-3, 1e-6), 20_000),
    "p2a": ('implicit("normal_cg", 0.1, 0.05, inner_steps=20)', None, (1e-3, 1e-6), 20_000),
    "p2b": (
        "penalty(1.0, 1.0, 0.05, 0.05, prox=10.0, inner_steps=20)", 0.05, (1e-3, 1e-6), 20_000,
    ),
    "p3": ("penalty(0.5, 1.0, 0.05, 0.1, prox=10.0, inner_steps=20)", 0.1, (1e-3, 1e-6), 20_000),
    "p4": (
        "penalty(0.2, 0.8, 0.05, power(1.0, -1 / 3), prox=0.5, inner_steps=5)", None, (1e-3, 1e-6),
        20_000,
    ),
    "p5": ("unrolled(20, 0.1, 0.05)", None, (1e-3, 1e-6), 20_000),
    "llc": ("lv_hba(0.05, 0.02, 0.125, 10.0, 0.3, power(10.0, 0.4))", None, (1e-2, 1e-3), 60_000),
    "ridge": ("implicit(upper_step=3.0)", None, (1e-3, 1e-6), 20_000),
}  # fmt: skip


def ridge() -> tuple[bilevel.Problem, Any, Any, Any, Any, float]:
    """Returns the problem, its start and batch, its exact gradient, and the best log penalty."""
    from scipy.optimize import minimize_scalar
    from sklearn import datasets, linear_model

    features, target = datasets.load_diabetes(return_X_y=True)
    features, target = features / features.std(0), (target - target.mean()) / target.std()
    n = 100
    lower, upper = ((features[i : i + n], target[i : i + n]) for i in (0, n))

    def fit(y, part):
        return 0.5 * jnp.mean((part[0] @ y - part[1]) ** 2)

    problem = bilevel.Problem(
        lambda x, y, part: fit(y, part),
        lambda x, y, part: fit(y, part) + 0.5 * jnp.exp(x[0]) * y @ y,
    )

    def psi(x):
        model = linear_model.Ridge(alpha=n * np.exp(x), fit_intercept=False, solver="cholesky")
        y = model.fit(*lower).coef_
        return 0.5 * np.mean((upper[0] @ y - upper[1]) ** 2)

    best = minimize_scalar(psi, bounds=(-8, 4), method="bounded", options={"xatol": 1e-9}).x
    slope = lambda x: np.array([psi(x[0] + 1e-5) - psi(x[0] - 1e-5)]) / 2e-5  # noqa: E731
    return problem, np.zeros(1), np.zeros(features.shape[1]), (upper, lower), slope, best


def study(name: str) -> list[dict[str, Any]]:
    """Returns the records of a problem."""
    text, sigma, tolerances, most = RUNS[name]
    solver = eval(text, vars(bilevel))  # Of the table above.
    batch, minimizer = None, None
    if name == "ridge":
        problem, x0, y0, batch, gradient, best = ridge()
        minimizer = np.array([best])
    elif name == "llc":
        task = problems.build("llc", n=10)
        problem, x0, y0, gradient = task.problem, task.x0, task.y0, None
    else:
        form = closed_form.PROBLEMS[name](*closed_form.random_data(name))
        problem, x0, y0 = form.problem, form.x0, form.y0
        gradient = form.grad_psi if sigma is None else lambda x: form.grad_psi_sigma(x, sigma)
        if form.minimizer is not None:
            minimizer = form.minimizer() if sigma is None else form.minimizer(sigma)
    records = []
    for tol in tolerances:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Of a tolerance that was not reached, infeasible starts.
            run = bilevel.solve(
                problem, solver, x0, y0, batch=batch, tol=tol, max_steps=most, steps_per_call=10,
            )  # fmt: skip
        x, distance, error = np.asarray(run.state.x), None, None
        if name == "llc":
            error = float(task.evaluate(None, run.state.x, run.state.y)["error"])
        if gradient is not None:
            project = problem.project_x or (lambda x: x)
            distance = float(np.linalg.norm(x - project(x - np.asarray(gradient(x)))))
        if minimizer is not None:
            error = float(np.linalg.norm(x - minimizer))
        reported = {k: float(run.metrics[k][-1]) for k in solver.residuals}
        records.append({
            "problem": name, "solver": text, "sigma": sigma, "tol": tol,
            "iterations": int(run.state.count), "ended_by": run.ended_by, "reported": reported,
            "distance": distance, "error": error,
        })  # fmt: skip
        print(records[-1], flush=True)
    return records


def page(kept: dict[str, Any]) -> str:
    """Returns the page of the records."""

    def number(value):
        return "-" if value is None else f"{value:.1e}"

    rows = []
    for r in [r for name in RUNS if name in kept for r in kept[name]["records"]]:
        reported = max(r["reported"].values())
        rows.append([
            r["problem"], f"`{r['solver']}`", f"{r['tol']:.0e}", r["iterations"], r["ended_by"],
            number(reported), number(r["distance"]), number(r["error"]),
        ])  # fmt: skip
    head = ["problem", "solver", "tol", "iterations", "ended by", "reported", "distance", "error"]
    machines = ", ".join({k["machine"] for k in kept.values()})
    command = "`python -m benchmarks.tolerance --out=results/bilevel/tolerance.json`"
    about = f"{command}, float64, {machines}."
    text = "\n\n".join(__doc__.strip().split("\n\n")[2:])
    lines = markdown.table(head, rows, "llrrlrrr")
    title = "# Runs that end by a tolerance"
    return "\n".join([title, "", about, "", text, "", *lines, ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(RUNS), help="These; others are kept.")
    parser.add_argument("--out", type=Path, help="JSON file; the page is written beside it.")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    kept = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    for name in args.only:
        kept[name] = {"machine": provenance.machine(), "records": study(name)}
        if args.out:
            files.write(args.out, json.dumps(kept, indent=1) + "\n")
            files.write(args.out.with_suffix(".md"), page(kept))


if __name__ == "__main__":
    main()
