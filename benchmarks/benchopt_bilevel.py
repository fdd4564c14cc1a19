"""Runs our solvers inside a checkout of benchopt's benchmark_bilevel, beside theirs.

    git clone https://github.com/benchopt/benchmark_bilevel CHECKOUT
    pip install benchopt
    python -m benchmarks.benchopt_bilevel --path=CHECKOUT

It copies ``benchopt_solvers/optim_bilevel.py`` into the checkout and runs each solver on the
default simulated quadratic for ``--seconds`` (compilation excluded), one after another. The gap
h(x) - min h is exact: the full-batch problem is a quadratic, solved in float64. Then ours and
theirs of the same method take turns, and the medians of their CPU seconds an iteration are
compared. Their code is loaded through benchopt and stays where it is.
"""

import argparse
import contextlib
import io
import json
import shutil
import statistics
import sys
import time
from pathlib import Path

import jax
import numpy as np

TEMPLATE = Path(__file__).parent / "benchopt_solvers" / "optim_bilevel.py"
OURS = "optim-bilevel"
RUNS = {
    "ours: SABA": (OURS, {"method": "saba"}),
    "theirs: SABA": ("SABA", {}),
    "ours: F2SA": (OURS, {"method": "f2sa"}),
    "ours: penalty": (OURS, {"method": "penalty"}),
    "theirs: F2SA, default": ("F2SA", {}),
    "theirs: F2SA, tuned": ("F2SA", {"step_size": 0.1, "delta_lmbda": 0.01}),
}
RACES = [("ours: SABA", "theirs: SABA"), ("ours: F2SA", "theirs: F2SA, default")]


def exact_gap(objective):
    """Returns ``x -> h(x) - min h`` of the full-batch quadratic, in float64."""
    inner, outer = objective.inner_var0, objective.outer_var0
    zeros = np.zeros_like(inner), np.zeros_like(outer)

    def coefficients(f):
        gradient = jax.grad(f, (0, 1))(*zeros)
        hessian = jax.hessian(f, (0, 1))(*zeros)
        values = float(f(*zeros)), *gradient, *hessian[0], *hessian[1]
        return [np.asarray(v, np.float64) for v in values]

    _, g_y, _, g_yy, g_yx, _, _ = coefficients(objective.f_inner_fb)
    f_0, f_y, f_x, f_yy, f_yx, f_xy, f_xx = coefficients(objective.f_outer_fb)
    slope, start = -np.linalg.solve(g_yy, g_yx), -np.linalg.solve(g_yy, g_y)

    def h(x):
        y = slope @ x + start
        return f_0 + f_y @ y + f_x @ x + 0.5 * y @ f_yy @ y + 0.5 * x @ f_xx @ x + x @ f_xy @ y

    hessian = f_xx + slope.T @ f_yy @ slope + f_xy @ slope + slope.T @ f_yx
    gradient = f_x + slope.T @ (f_y + f_yy @ start) + f_xy @ start
    best = h(-np.linalg.solve(hessian, gradient))
    return lambda x: float(h(np.asarray(x, np.float64)) - best)


def measure(solver, gap, seconds):
    """Runs ``solver`` for ``seconds``; returns ``[(iterations, seconds, gap), ...]``."""
    rows, spent, begin = [], 0.0, time.perf_counter()

    def callback(*_):
        nonlocal spent, begin
        jax.block_until_ready((solver.inner_var, solver.outer_var))
        if rows:  # The first call comes before the first iteration.
            spent += time.perf_counter() - begin
        x = solver.outer_var
        rows.append((len(rows) * solver.eval_freq, spent, gap(x)))
        begin = time.perf_counter()
        return spent < seconds and np.isfinite(rows[-1][2])

    solver.run(callback)
    return rows


def race(ours, theirs, rounds, epochs=4):
    """Returns the median CPU seconds an iteration of both, in turns, and of their ratio."""

    def seconds(solver):
        marks = []

        def callback(*_):
            jax.block_until_ready((solver.inner_var, solver.outer_var))
            marks.append(time.process_time())
            return len(marks) <= epochs + 1

        solver.run(callback)  # The first epoch is left out: its inputs are not yet on the device.
        return (marks[-1] - marks[1]) / epochs / solver.eval_freq

    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    a, b = (statistics.median(p) for p in zip(*pairs, strict=True))
    return a, b, statistics.median(p / q for p, q in pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", required=True, type=Path, help="Checkout of benchmark_bilevel.")
    parser.add_argument("--seconds", type=float, default=25.0, help="Time for each solver.")
    parser.add_argument("--rounds", type=int, default=15, help="Turns in the comparison of times.")
    parser.add_argument("--solver", nargs="*", help=f"Some of: {', '.join(RUNS)}.")
    parser.add_argument("--set", nargs="*", default=[], help="KEY=VALUE for our solvers.")
    parser.add_argument("--out", type=Path, help="JSON file for the curves.")
    args = parser.parse_args()
    if not (args.path / "objective.py").exists():
        sys.exit(f"{args.path} is no checkout of benchmark_bilevel: it has no objective.py")
    try:
        from benchopt.benchmark import Benchmark
    except ImportError:
        sys.exit("benchopt is missing: pip install benchopt")
    shutil.copy(TEMPLATE, args.path / "solvers" / TEMPLATE.name)
    benchmark = Benchmark(args.path)
    known = {cls.name: cls for cls in benchmark.get_solvers()}
    dataset = next(d for d in benchmark.get_datasets() if d.name == "simulated").get_instance()
    objective = benchmark.get_benchmark_objective().get_instance()
    objective.set_data(**dataset.get_data())
    gap = exact_gap(objective)
    changes = {k: _number(v) for k, v in (item.split("=", 1) for item in args.set)}
    curves, solvers = {}, {}
    print(f"start gap {gap(objective.outer_var0):.4g}; {jax.devices()}")
    print(f"{'solver':24}{'iterations':>12}{'s/iteration':>14}{'gap':>12}{'to gap 1':>10}"
          f"{'to gap .1':>10}")  # fmt: skip
    for label in args.solver or RUNS:
        name, parameters = RUNS[label]
        parameters = parameters | (changes if name == OURS else {})
        solver = solvers[label] = known[name].get_instance(**parameters)
        with contextlib.redirect_stdout(io.StringIO()):
            solver.set_objective(**objective.get_objective())  # Compiles.
        rows = measure(solver, gap, args.seconds)
        curves[label] = {"parameters": parameters, "rows": rows}
        iterations, spent, last = rows[-1]
        reached = [next((f"{t:.2f}" for _, t, g in rows if g <= level), "-") for level in (1, 0.1)]
        print(f"{label:24}{iterations:12}{spent / max(iterations, 1):14.3g}{last:12.3g}"
              f"{reached[0]:>10}{reached[1]:>10}", flush=True)  # fmt: skip
    for ours, theirs in RACES:
        if ours in solvers and theirs in solvers and args.rounds:
            a, b, ratio = race(solvers[ours], solvers[theirs], args.rounds)
            print(f"{ours} {a * 1e3:.2f} ms, {theirs} {b * 1e3:.2f} ms an iteration in turns; "
                  f"ratio {ratio:.3f}", flush=True)  # fmt: skip
    if args.out:
        args.out.write_text(json.dumps(curves, indent=1) + "\n")


def _number(text):
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main()
