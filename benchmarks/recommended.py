"""What ``bilevel.recommend`` names on the problems of this repository, and whether it converges.

    python -m benchmarks.recommended --out=results/bilevel/recommended.json

Each problem is small and full-batch. The solver named makes 5000 iterations (LV-HBA 40000) with the
steps that ``recommend`` gave it. Where the lower level has no constraint, the measure is the
projected hypergradient |x - P(x - grad psi(x))| at the end over that at the start; grad psi is
known in closed form for p1 to p5, and otherwise found by L-BFGS-B to the lower solution and a dense
linear system, none of it by this package. LLC: the relative error of (x, y). The toy: |psi'(x)| at
the end over that at the start. Converged means a tenth or less, of LLC an error of a hundredth.

Of p3 (a box in the lower level) and svm (a hinge, and a leaky ReLU above) psi itself has kinks,
minima among them, where no gradient vanishes. There the measure is psi(x) - best, and converged a
hundredth or less of that at the start; best is the least psi at which L-BFGS-B ends from x0 and
from eight random points of the box. This was decided before any best of svm was known; of p3 after
its residual had been seen to jump between .17 and 2.3 at the same psi. Below zero the solver ended
lower than that search, which kinks stop as well: of svm it is a weak reference.

What does not converge: in regularization x drives penalties to exp(-12), where the condition number
of the lower level is beyond 10^6; a hundred steps an iteration do not follow x there, and the
hypergradient is inexact. psi itself falls, but not to a point that is stationary by this measure.

``--only`` runs some problems and keeps the other rows of the file.
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import bilevel
from experiments import problems
from experiments.common import files, markdown, provenance

SMALL = {"data": "digits", "train": 150, "valid": 150}
PROBLEMS: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("p1", "p2a", "p2b", "p3", "p4", "p5")},
    "llc": {"n": 10},
    "toy": {},
    "cleaning": SMALL,
    "regularization": SMALL,
    "loss_tuning": {"data": "digits", "train": 300, "valid": 300},
    "hyper_representation": {"tasks": 4, "ways": 3, "body": (16, 8), "pool": 700},
    "svm": {"data": "digits", "form": "hinge", "train": 100, "valid": 100},
}
KINKED = ("p3", "svm")


def batch_of(task: problems.Task) -> Any:
    """Returns all samples of both levels."""
    if task.upper is None or task.lower is None:
        return None
    everything = slice(None)
    return task.upper.take(task.data, everything), task.lower.take(task.data, everything)


def implicit_function(task: problems.Task, batch: Any, y: Any):
    """Returns ``x -> (psi(x), grad psi(x))``, flat; the lower level is solved from ``y``."""
    from scipy.optimize import minimize

    _, unravel_x = ravel_pytree(task.x0)
    _, unravel = ravel_pytree(y)
    upper_batch, lower_batch = (None, None) if batch is None else batch

    def f(x, y):
        return task.problem.lower(unravel_x(x), unravel(y), lower_batch)

    def F(x, y):
        return task.problem.upper(unravel_x(x), unravel(y), upper_batch)

    lower = jax.jit(jax.value_and_grad(f, 1))
    upper = jax.jit(jax.value_and_grad(F, (0, 1)))
    second = jax.jit(lambda x, y: jax.jacfwd(jax.grad(f, 1), 1)(x, y))
    mixed = jax.jit(lambda x, y, v: jax.grad(lambda x: jax.grad(f, 1)(x, y) @ v)(x))

    def both(x, y):
        found = minimize(
            lambda y: tuple(map(np.asarray, lower(x, y))), y, jac=True, method="L-BFGS-B",
            options={"maxiter": 20_000, "maxfun": 40_000, "gtol": 1e-10, "ftol": 1e-15},
        )  # fmt: skip
        value, (F_x, F_y) = upper(x, found.x)
        v = np.linalg.lstsq(np.asarray(second(x, found.x)), np.asarray(F_y), rcond=1e-12)[0]
        return float(value), np.asarray(F_x) - np.asarray(mixed(x, found.x, v))

    return both


def least(task: problems.Task, both: Any) -> float:
    """Returns the least psi that L-BFGS-B finds from x0 and from eight points of the box."""
    from scipy.optimize import minimize

    x0, unravel = ravel_pytree(task.x0)
    project = task.problem.project_x or (lambda x: x)
    low, high = (np.asarray(ravel_pytree(project(unravel(x0 + far)))[0]) for far in (-1e6, 1e6))
    rng = np.random.default_rng(0)
    starts = [np.asarray(x0), *rng.uniform(low, high, (8, len(x0)))]
    found = [
        minimize(
            both, x, jac=True, method="L-BFGS-B", bounds=list(zip(low, high, strict=True)),
            options={"maxiter": 100, "maxfun": 200},
        ).fun
        for x in starts
    ]  # fmt: skip
    return min(found)


def judge(task: problems.Task, name: str, batch: Any):
    """Returns ``(x, y) -> (psi(x), how far x is from where it should be)``."""
    if name == "llc":
        return lambda x, y: (np.nan, float(task.evaluate(None, x, y)["error"]))
    if name == "toy":
        psi = jax.value_and_grad(lambda x: task.evaluate(None, x, x)["psi"])
        return lambda x, y: tuple(abs(float(a)) for a in psi(jnp.asarray(x)))
    if name in problems.closed_form.PROBLEMS:
        form = problems.closed_form.PROBLEMS[name](*problems.closed_form.random_data(name))
        both = lambda x, y: (float(form.psi(x)), np.asarray(form.grad_psi(x)))  # noqa: E731
    else:
        both = implicit_function(task, batch, task.y0)
    y0, _ = ravel_pytree(task.y0)
    best = least(task, lambda x: both(x, y0)) if name in KINKED else None

    def distance(x, y):
        x, unravel = ravel_pytree(x)
        if not np.all(np.isfinite(x)):
            return np.nan, np.nan
        psi, gradient = both(x, ravel_pytree(y)[0])
        if best is not None:
            return psi, psi - best
        moved = unravel(x - gradient)
        if task.problem.project_x is not None:
            moved = task.problem.project_x(moved)
        return psi, float(np.linalg.norm(x - ravel_pytree(moved)[0]))

    return distance


def study(name: str) -> list[str]:
    """Returns the row of a problem."""
    task = problems.build(name, **PROBLEMS[name])
    wide = lambda a: jnp.asarray(a, jnp.float64)  # noqa: E731
    task = task._replace(x0=jax.tree.map(wide, task.x0), y0=jax.tree.map(wide, task.y0))
    batch = batch_of(task)
    found = bilevel.recommend(task.problem, task.x0, task.y0, batch)
    solver = found.solver
    if solver is None:
        reason = found.advice[0].why
        return [name, found.facts.lower, "-", "none", *"-----", f"refused: {reason}"]
    steps = 40_000 if solver.name == "lv_hba" else 5000

    @jax.jit
    def run(x, y, batch):
        state = solver.init(task.problem, x, y)
        return jax.lax.fori_loop(0, steps, lambda _, s: solver.step(s, batch)[0], state)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of an infeasible start.
        end = run(task.x0, task.y0, batch)
    measure = judge(task, name, batch)
    (first, before), (last, after) = measure(task.x0, task.y0), measure(end.x, end.y)
    enough = 0.01 if name == "llc" else before * (0.01 if name in KINKED else 0.1)
    converged = after <= enough
    psi = ("-", "-") if name == "llc" else (f"{first:.3g}", f"{last:.3g}")
    curvature = f"{found.facts.smallest:.2g} to {found.facts.largest:.2g}"
    return [
        name, found.facts.lower, curvature, solver.name, str(solver.gradients.lower), *psi,
        f"{before:.2g}", f"{after:.2g}", "yes" if converged else "no",
    ]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(PROBLEMS), help="Some problems.")
    parser.add_argument("--out", type=Path, help="JSON file; the page is written beside it.")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    kept = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    for name in args.only:
        row = study(name)
        kept[name] = {"row": row, "machine": provenance.machine()}
        print(*row, sep=" | ", flush=True)
        if args.out:
            files.write(args.out, json.dumps(kept, indent=1) + "\n")
            files.write(args.out.with_suffix(".md"), page(kept))


def page(kept: dict[str, Any]) -> str:
    """Returns the page of the rows."""
    head = ["problem", "lower level", "curvature", "named", "lower gradients an iteration"]
    head += ["psi at x0", "at the end", "measure at x0", "at the end", "converged"]
    rows = [kept[name]["row"] for name in PROBLEMS if name in kept]
    lines = markdown.table(head, rows)
    verdicts: dict[str, list[str]] = {}
    for row in rows:  # p2a and p2b are one problem with two upper levels.
        verdicts.setdefault(row[0][:2] if row[0].startswith("p2") else row[0], []).append(row[-1])
    good = [k for k, v in verdicts.items() if set(v) == {"yes"}]
    refused = [k for k, v in verdicts.items() if v[0].startswith("refused")]
    count = f"Of {len(verdicts)} problems (p2a and p2b as one) {len(good)} converge, "
    count += f"{len(refused)} refused ({', '.join(refused)}: no solver's assumptions hold)."
    title = "# What `recommend` names, and whether it converges"
    text = "\n\n".join(__doc__.split("\n\n")[2:5])
    command = "`python -m benchmarks.recommended --out=results/bilevel/recommended.json`"
    machines = ", ".join({k["machine"] for k in kept.values()})
    about = f"{command}, row by row with `--only`, float64, {machines}."
    missing = [name for name in PROBLEMS if name not in kept]
    about += f" Not run: {', '.join(missing)}." if missing else ""
    return "\n".join([title, "", about, "", text, "", count, "", *lines, ""])


if __name__ == "__main__":
    main()
