"""Every solver as it is shipped on regularization problems: the share of the gap that is left.

    python -m benchmarks.which_solver --out=results/bilevel/which_solver.md

Four problems on data that comes with scikit-learn: ridge regression (diabetes with 30 columns of
noise, 120 training samples) and logistic regression (breast cancer, 200), with one l2 penalty or
one for each feature, chosen on as many validation samples. Each solver makes 5000 full-batch
iterations from the penalty 1 with the steps that it has by default, or from a named schedule of
``bilevel.schedules``: nothing is tuned to the problem. The measure is
(psi(x) - best) / (psi(x0) - best), where psi is the validation loss at the exact lower solution
(Newton's method), and best its minimum in the box by L-BFGS-B.

What stays above .01: with a penalty for each feature of the logistic regression the curvature of
the lower level falls to exp(-8), so that strong convexity hardly holds for methods that follow it
by single steps; and psi has several local minima (a share below zero is a better one than that of
L-BFGS-B). With the paper's multiplier F3SA's y follows x at half the rate of z, and the difference
of what they lag behind is multiplied by lambda; with gamma / alpha it cancels.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bilevel
from experiments.common import files, markdown, provenance

STEPS = 5000
BOX = (-8.0, 2.0)


def shipped() -> dict[str, tuple[bilevel.Solver, Any]]:
    """Returns each solver with what it was called as, without an argument of the problem's."""
    f2sa = {noise: bilevel.f2sa(*bilevel.f2sa_schedules(noise)) for noise in ("none", "both")}
    f3sa = bilevel.f3sa_schedules
    penalty = {
        noise: bilevel.penalty(**bilevel.penalty_schedules(noise)) for noise in ("none", "both")
    }
    return {
        "implicit()": bilevel.implicit(),
        "unrolled()": bilevel.unrolled(),
        "soba()": bilevel.soba(),
        "saba(1, 1)": bilevel.saba(1, 1),
        "f2sa()": bilevel.f2sa(),
        'f2sa(*f2sa_schedules("both"))': f2sa["both"],
        "f3sa()": bilevel.f3sa(),
        'f3sa(*f3sa_schedules("both"))': bilevel.f3sa(*f3sa("both")),
        'f3sa(*f3sa_schedules("both", authors=True))': bilevel.f3sa(*f3sa("both", authors=True)),
        "penalty()": bilevel.penalty(),
        'penalty(**penalty_schedules("none"))': penalty["none"],
        'penalty(**penalty_schedules("both"))': penalty["both"],
        "lv_hba(**lv_hba_steps())": bilevel.lv_hba(**bilevel.lv_hba_steps()),
    }


class Case(NamedTuple):
    """A problem with its start, its data and the least validation loss."""

    name: str
    problem: bilevel.Problem
    x0: np.ndarray
    y0: np.ndarray
    batch: Any
    psi: Any
    best: float


def _data(kind: str, seed: int):
    from sklearn import datasets

    load = {"ridge": datasets.load_diabetes, "logistic": datasets.load_breast_cancer}[kind]
    features, target = load(return_X_y=True)
    n = {"ridge": 120, "logistic": 200}[kind]
    rng = np.random.default_rng(seed)
    features = (features - features.mean(0)) / features.std(0)
    if kind == "ridge":
        features = np.hstack([features, rng.standard_normal((len(features), 30))])
        target = (target - target.mean()) / target.std()
    else:
        target = 2.0 * target - 1
    order = rng.permutation(len(target))
    return [(features[i], target[i]) for i in (order[n : 2 * n], order[:n])]  # Upper, lower.


def cases(seed: int) -> list[Case]:
    """Returns the four problems."""
    from scipy.optimize import minimize

    found = []
    for kind in ("ridge", "logistic"):
        batch = _data(kind, seed)
        d = batch[0][0].shape[1]

        def fit(y, part, kind=kind):
            scores = part[0] @ y
            if kind == "ridge":
                return 0.5 * jnp.mean((scores - part[1]) ** 2)
            return jnp.mean(jnp.logaddexp(0, -part[1] * scores))

        def lower(x, y, part, fit=fit):
            return fit(y, part) + 0.5 * jnp.sum(jnp.exp(x) * y**2)

        problem = bilevel.Problem(
            lambda x, y, part, fit=fit: fit(y, part),
            lower,
            project_x=bilevel.projections.box(*BOX),
        )

        def solution(x, lower=lower, batch=batch, d=d):
            def newton(_, y):
                slope, curvature = jax.grad(lower, 1), jax.hessian(lower, 1)
                return y - jnp.linalg.solve(curvature(x, y, batch[1]), slope(x, y, batch[1]))

            return jax.lax.fori_loop(0, 30, newton, jnp.zeros(d))

        def both(x, solution=solution, fit=fit, lower=lower, batch=batch):
            y = jax.lax.stop_gradient(solution(x))
            value, pull = jax.value_and_grad(fit)(y, batch[0])
            v = jnp.linalg.solve(jax.hessian(lower, 1)(x, y, batch[1]), pull)
            return value, -jax.grad(lambda x: jax.grad(lower, 1)(x, y, batch[1]) @ v)(x)

        both = jax.jit(both)
        for many, words in ((1, "one penalty"), (d, "one for each feature")):
            x0 = np.zeros(many)
            best = minimize(
                lambda x, both=both: tuple(map(np.asarray, both(x))), x0, jac=True,
                method="L-BFGS-B", bounds=[BOX] * many, options={"maxiter": 5000, "ftol": 1e-15},
            ).fun  # fmt: skip
            psi = lambda x, both=both: float(both(x)[0])  # noqa: E731
            found.append(Case(f"{kind}, {words}", problem, x0, np.zeros(d), batch, psi, best))
    return found


def left(solver: bilevel.Solver, case: Case) -> float:
    """Returns the share of the gap that is left after the iterations."""
    batch: Any = case.batch
    if solver.batch == "components":
        i = jnp.zeros((), jnp.int32)
        batch = tuple((i, part) for part in batch)

    @jax.jit
    def run(x, y):
        state = solver.init(case.problem, x, y)
        return jax.lax.fori_loop(0, STEPS, lambda _, s: solver.step(s, batch)[0], state).x

    x = run(case.x0, case.y0)
    return (case.psi(x) - case.best) / (case.psi(case.x0) - case.best)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="Splits; the worst is shown.")
    parser.add_argument("--only", default="", help="Part of a solver's name.")
    parser.add_argument("--out", type=Path, help="Markdown file.")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    table = [cases(seed) for seed in range(args.seeds)]
    rows = []
    for name, solver in shipped().items():
        if args.only in name:
            worst = [
                max(left(solver, case) for case in column) for column in zip(*table, strict=True)
            ]
            rows.append([name, *(f"{share:.1e}" for share in worst)])
            print(*rows[-1], sep=" | ", flush=True)
    head = ["solver, as shipped", *(case.name for case in table[0])]
    lines = markdown.table(head, rows, "l" + "r" * (len(head) - 1))
    if args.out:
        title = "# Every solver as shipped: the share of the validation gap that is left"
        command = "`python -m benchmarks.which_solver --out=results/bilevel/which_solver.md`"
        about = f"{command}, float64, {args.seeds} split(s), the worst, {provenance.machine()}."
        text = "\n\n".join(__doc__.strip().split("\n\n")[2:])
        files.write(args.out, "\n".join([title, "", about, "", text, "", *lines, ""]))


if __name__ == "__main__":
    main()
