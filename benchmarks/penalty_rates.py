r"""Measures two laws of the penalty method: O(sigma), and gradients against accuracy on P1.

    python -m benchmarks.penalty_rates --steps=500000 --out=results/bilevel/rates.json

**O(sigma)**: |psi - psi_sigma| and |grad psi - grad psi_sigma| at random points, from lower
problems minimized numerically (Newton; projected gradient on P3's box), and the distance to x* of
Algorithm 1 run with constant sigma (not for P2b, where a curvature of order sigma makes that very
long). Theory: slope 1 of the logarithms, for P1, P2a, P2b, P3 and P5. For P4 the error bound
fails: the largest gap over x stays 1 (slope 0).

**Gradients**: the smallest number of gradients after which the gradient of psi is at most epsilon,
on P1: in root mean square over the second half of the iterations (and over runs), as theorems bound
a random iterate. Without noise: Algorithm 1, sigma_k = (k + 1)^-1/3. With one of 16 samples at a
time, 32 runs: Algorithm 2, alpha, beta, gamma ~ k^-2/5, sigma ~ k^-1/5, eta ~ k^-4/5. Theorems:
epsilon^-3 and epsilon^-5. The epsilons are what sigma_k leaves between about 10^3 and 5 10^5
iterations, past the start, where P1's strong convexity is what is measured; they were set after
looking at the curves.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import bilevel
from experiments.problems import closed_form

SIGMAS = np.array([1e-2, 3e-3, 1e-3, 3e-4, 1e-4])
EPSILONS = {
    "deterministic": np.geomspace(0.3, 0.04, 8),
    "stochastic": np.geomspace(2.0, 0.7, 8),
}


def slope(x, y):
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def minimized(fun, project, y):
    """Minimizes ``fun``: Newton's method, or projected gradient on a set."""
    if project is None:

        def newton(_, y):
            return y - jnp.linalg.lstsq(jax.hessian(fun)(y), jax.grad(fun)(y), rcond=1e-12)[0]

        return jax.lax.fori_loop(0, 20, newton, y)
    length = 1 / jnp.linalg.norm(jax.hessian(fun)(y), 2)
    body = lambda _, y: project(y - length * jax.grad(fun)(y))  # noqa: E731
    return jax.lax.fori_loop(0, 5000, body, y)


def gaps(name, seed=0, points=6):
    """Returns the gaps of value and gradient for each sigma, averaged over points."""
    form = closed_form.PROBLEMS[name](*closed_form.random_data(name, seed))
    f, g = form.problem.upper, form.problem.lower
    project = form.problem.project_y
    rng = np.random.default_rng(seed)
    xs = rng.normal(size=(points, len(form.x0)))

    def at(x, sigma):
        h = lambda y: sigma * f(x, y) + g(x, y)  # noqa: E731
        z = minimized(partial(g, x), project, form.y_star(x) + 0.1)
        y = minimized(h, project, form.y_star(x))
        value = f(x, y) + (g(x, y) - g(x, z)) / sigma
        g_x = jax.grad(g)
        gradient = jax.grad(f)(x, y) + (g_x(x, y) - g_x(x, z)) / sigma
        return form.psi(x) - value, jnp.linalg.norm(form.grad_psi(x) - gradient)

    each = jax.jit(jax.vmap(jax.vmap(at, (None, 0)), (0, None)))
    value, gradient = map(np.asarray, each(xs, SIGMAS))
    return np.abs(value).mean(0), gradient.mean(0)


def fixed_sigma_distance(name, seed=0):
    """Distance to x* where Algorithm 1 with constant sigma ends."""
    form = closed_form.PROBLEMS[name](*closed_form.random_data(name, seed))
    best = form.minimizer()

    def run(sigma):
        # The step in x is alpha sigma: divided so that every sigma takes as long.
        solver = bilevel.penalty(0.1 / sigma, 1.0, 0.05, sigma, prox=10.0, inner_steps=20)
        state = solver.init(form.problem, form.x0, form.y0)
        body = lambda _, s: solver.step(s, None)[0]  # noqa: E731
        return jnp.linalg.norm(jax.lax.fori_loop(0, 3000, body, state).x - best)

    return np.array([jax.jit(run)(s) for s in SIGMAS[:3]])


def p4_largest_gap():
    form = closed_form.p4()
    xs = np.concatenate([np.geomspace(1e-9, 1, 400)])[:, None]
    gap = jax.jit(
        jax.vmap(lambda s: jnp.max(jax.vmap(lambda x: form.psi(x) - form.psi_sigma(x, s))(xs)))
    )
    return np.asarray(gap(SIGMAS))


def gradient_norms(solver, form, steps, batches=None):
    """Norms of the gradient of psi after each iteration, shape ``(runs, steps)``."""

    def run(batches):
        state = solver.init(form.problem, form.x0, form.y0)

        def body(state, batch):
            state, _ = solver.step(state, batch)
            return state, jnp.linalg.norm(form.grad_psi(state.x))

        return jax.lax.scan(body, state, batches, length=steps)[1]

    return np.asarray(
        jax.jit(run)(None)[None] if batches is None else jax.jit(jax.vmap(run))(batches)
    )


def crossing(norms, epsilons):
    """First iteration at which the mean square over the last half is at most epsilon squared."""
    total = np.cumsum(np.insert(np.mean(norms**2, 0), 0, 0.0))
    k = np.arange(1, len(total))
    rms = np.sqrt((total[k] - total[k // 2]) / (k - k // 2))
    hit = [np.flatnonzero(rms <= e) for e in epsilons]
    return np.array([h[0] + 1 if len(h) else np.nan for h in hit])


def complexity(kind, steps):
    form = closed_form.p1(*closed_form.random_data("p1"))
    if kind == "deterministic":
        solver = bilevel.penalty(0.3, 0.8, 0.2, bilevel.power(1.0, -1 / 3), prox=1.0, inner_steps=5)
        norms, price = gradient_norms(solver, form, steps), 18
    else:
        ids = np.random.default_rng(0).integers(0, 16, (32, steps, 6), np.uint8)
        p = partial(bilevel.power, offset=10.0)
        eta = p(4.0, -4 / 5)
        solver = bilevel.penalty(
            p(0.5, -2 / 5), lambda k: jnp.minimum(1.0, p(2.0, -2 / 5)(k)), p(0.5, -2 / 5),
            bilevel.power(1.0, -1 / 5), prox=1.0, momentum=lambda k: jnp.minimum(1.0, eta(k)),
        )  # fmt: skip
        batches = bilevel.Samples(*np.moveaxis(ids, -1, 0))
        norms, price = gradient_norms(solver, form, steps, batches), 12
    iterations = crossing(norms, EPSILONS[kind])
    reached = np.isfinite(iterations)
    return {
        "epsilon": EPSILONS[kind][reached].tolist(),
        "gradients": (price * iterations[reached]).tolist(),
        "slope": -slope(EPSILONS[kind][reached], price * iterations[reached]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file.")
    parser.add_argument("--steps", type=int, default=100_000, help="Iterations of the second law.")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    results = {"sigma": SIGMAS.tolist(), "gap": {}, "complexity": {}}
    print(f"{'':6}{'value':>9}{'gradient':>10}{'x_sigma':>9}   slope against sigma")
    for name in ("p1", "p2a", "p2b", "p3", "p5"):
        value, gradient = gaps(name)
        row = {"value": slope(SIGMAS, value), "gradient": slope(SIGMAS, gradient)}
        if name in ("p1", "p2a", "p5"):
            row["x_sigma"] = slope(SIGMAS[:3], fixed_sigma_distance(name))
        results["gap"][name] = row
        print(f"{name:6}" + "".join(f"{v:9.3f}" for v in row.values()), flush=True)
    largest = p4_largest_gap()
    results["gap"]["p4"] = {"largest": largest.tolist(), "value": slope(SIGMAS, largest)}
    print(f"{'p4':6}{slope(SIGMAS, largest):9.3f}   (largest gap over x: {largest.round(3)})")
    for kind, theory in (("deterministic", 3), ("stochastic", 5)):
        row = results["complexity"][kind] = complexity(kind, args.steps)
        low, high = min(row["epsilon"]), max(row["epsilon"])
        print(
            f"{kind}: gradients ~ epsilon^-{row['slope']:.2f} for epsilon in "
            f"[{low:.2g}, {high:.2g}] (theorem: epsilon^-{theory})",
            flush=True,
        )
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
