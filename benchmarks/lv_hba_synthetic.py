"""How well LV-HBA solves its paper's two synthetic problems, in float64.

    python -m benchmarks.lv_hba_synthetic --out=results/bilevel/lv_hba_synthetic.json

The settings are those of configs/bilevel/constrained.py. LLC: the relative error of (x, y) from the
authors' start. LLSC: F after 1000 steps from the authors' start with the authors' step sizes; and
from 20 random starts with a longer schedule, whose measure is the hyper-objective
psi(x) = F(x, y*(x)), best known -0.7193. For comparison psi itself is minimized from the same
starts (BFGS on the null space of B, if scipy is there).
"""

import argparse
import json
from pathlib import Path

import jax
import numpy as np

from configs.bilevel.constrained import SOLVERS, get_config
from experiments import problems
from experiments.common import provenance
from experiments.solving import solvers

RECORDS = Path(__file__).parents[1] / "tests" / "reference" / "bilevel"
MATRICES = RECORDS / "lvhba_llsc_matrices.npz"
BEST = -0.7193


def run(name, starts=None, **options):
    """Returns the measures at the end of the config ``name``, one of each start."""
    config = get_config(name)
    task = problems.build(config.problem.name, **{**config.problem.options, **options})
    kind = dict(SOLVERS[name])
    solver = solvers.build(kind.pop("name"), kind, task)

    @jax.jit
    @jax.vmap
    def solve(x, y):
        state = solver.init(task.problem, x, y)
        body = lambda _, s: solver.step(s, None)[0]  # noqa: E731
        end = jax.lax.fori_loop(0, config.steps, body, state)
        return task.evaluate(None, end.x, end.y)

    first = jax.tree.map(lambda a: a[None], (task.x0, task.y0))
    measures = jax.device_get(solve(*(first if starts is None else starts)))
    return config.steps, {k: np.asarray(v, float).tolist() for k, v in measures.items()}


def bfgs(starts):
    """Minima of psi itself from the same starts."""
    from scipy.optimize import minimize

    with np.load(MATRICES) as stored:
        _, s, vt = np.linalg.svd(stored["B"])
    basis = vt[np.sum(s > 1e-9 * s[0]) :].T
    task = problems.build("llsc", matrices=str(MATRICES))

    @jax.jit
    @jax.value_and_grad
    def psi(w):
        return task.evaluate(None, basis @ w, task.y0)["psi"]

    def both(w):
        return tuple(map(np.asarray, psi(w)))

    return [float(minimize(both, basis.T @ x, jac=True, method="BFGS").fun) for x in starts]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=20, help="Random starts of LLSC.")
    parser.add_argument("--out", type=Path, help="JSON file.")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(provenance.machine())
    matrices = {"matrices": str(MATRICES)}
    steps, llc = run("llc")
    print(f"LLC, {steps} steps: relative error {llc['error'][0]:.3g} (x {llc['x_error'][0]:.3g})")

    with np.load(RECORDS / "lvhba_llsc_clean.npz") as record:
        authors = tuple(record[k][:1] for k in "xy")
    steps, short = run("llsc", authors, **matrices)
    print(f"LLSC, authors' start and step sizes, {steps} steps: F {short['objective'][0]:.4f}, "
          f"psi {short['psi'][0]:.4f}, |y - y*| {short['y_gap'][0]:.3g}")  # fmt: skip

    tasks = [problems.build("llsc", seed=seed, **matrices) for seed in range(args.starts)]
    starts = tuple(np.stack([getattr(t, k) for t in tasks]) for k in ("x0", "y0"))
    steps, long = run("llsc_long", starts, **matrices)
    psi = np.sort(long["psi"])
    near = int(np.sum(psi < BEST + 1e-3))
    print(f"LLSC, {args.starts} random starts, {steps} steps: psi best {psi[0]:.5f}, median "
          f"{np.median(psi):.5f}, worst {psi[-1]:.5f}; {near} within 1e-3 of {BEST}; "
          f"|y - y*| at most {max(long['y_gap']):.3g}")  # fmt: skip
    results = {"machine": provenance.machine(), "llc": llc, "llsc": short, "llsc_long": long}
    results["steps"] = {name: get_config(name).steps for name in SOLVERS}
    try:
        results["bfgs"] = bfgs(starts[0])
    except ImportError:
        print("no scipy: psi is not minimized for comparison")
    else:
        psi = np.sort(results["bfgs"])
        near = int(np.sum(psi < BEST + 1e-3))
        print(f"BFGS on psi from the same starts: best {psi[0]:.5f}, median {np.median(psi):.5f}, "
              f"worst {psi[-1]:.5f}; {near} within 1e-3")  # fmt: skip
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
