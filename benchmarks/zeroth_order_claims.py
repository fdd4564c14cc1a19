r"""Does a gradient by coordinates beat one by random directions? Do ranks alone descend?

    python -m benchmarks.zeroth_order_claims --out=results/small/zeroth_order.json

**Coordinates** (DeepZero): an MLP 10-8-4 of 124 weights on 128 random points of four classes, full
batch, SGD; the loss after 2500 and 7500 evaluations of it, five seeds. ``cge`` (125 evaluations a
step) against ``rge`` of as many evaluations a step, and of fewer: ten one-sided directions, and one
two-sided one. Rates from a grid of factors of two, the best by the mean final loss; an edge is
named.

The claim: coordinates are better at an equal number of evaluations. Held to be shown if ``cge``
has the lowest mean loss after 7500 evaluations of all four; refuted if it has not and it does not
beat ``rge`` at equal evaluations a step either.

**Ranks** (ZO-RankSGD): a quadratic of 20 variables with eigenvalues from 1 to 10, an oracle that
ranks 10 points and says nothing of their values, 150 rounds with line search, five seeds. Held to
be shown if the loss falls below 1e-2 of that at the start in every seed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import _classifiers, _report
from experiments.common import markdown
from optim import zeroth_order

BUDGETS = (2500, 7500)
RATES = [2.0**k for k in range(-8, 4)]
# Estimator and evaluations of a step.
ESTIMATORS = {
    "cge": (zeroth_order.cge(1e-3, chunk=124), 125),
    "rge, 124 one-sided": (zeroth_order.rge(1e-3, 124, two_sided=False, chunk=124), 125),
    "rge, 10 one-sided": (zeroth_order.rge(1e-3, 10, two_sided=False, chunk=10), 11),
    "rge, 1 two-sided": (zeroth_order.rge(1e-3, 1), 2),
}


def problem(seed):
    """Points of four clusters, and the parameters at the start: 10 x 8 + 8 + 8 x 4 + 4 numbers."""
    centers, noise, labels, start = jax.random.split(jax.random.key(seed), 4)
    y = jax.random.randint(labels, (128,), 0, 4)
    x = jax.random.normal(centers, (4, 10))[y] + jax.random.normal(noise, (128, 10))
    kernels = _classifiers.initial(start, (10, 8, 4))
    return {"kernels": kernels, "biases": [jnp.zeros(8), jnp.zeros(4)]}, (x, y)


def loss(params, batch):
    (w1, w2), (b1, b2) = params["kernels"], params["biases"]
    logits = jax.nn.tanh(batch[0] @ w1 + b1[None]) @ w2 + b2[None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


def coordinates(name: str, seeds: int) -> dict:
    """The losses of all seeds at both budgets, at the best rate."""
    estimator, evaluations = ESTIMATORS[name]
    gradient = zeroth_order.value_and_grad(loss, estimator)

    def run(rate, seed):
        params, batch = problem(seed)

        def step(params, key):
            _, grads = gradient(params, batch, key)
            return jax.tree.map(lambda p, g: p - rate * g, params, grads), None

        found, done = [], 0
        for i, budget in enumerate(BUDGETS):
            more = budget // evaluations - done
            keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), i), more)
            params, _ = jax.lax.scan(step, params, keys)
            found.append(loss(params, batch))
            done += more
        return jnp.stack(found)

    population = jax.jit(jax.vmap(run, (None, 0)))
    found = np.array([population(rate, jnp.arange(seeds)) for rate in RATES], float)
    means = np.where(np.isfinite(found), found, np.inf).mean(1)
    result = {"evaluations of a step": evaluations}
    for i, budget in enumerate(BUDGETS):
        best = int(np.argmin(means[:, i]))
        edge = best in (0, len(RATES) - 1)
        result[str(budget)] = {
            "rate": RATES[best],
            "edge": edge,
            "loss": found[best, :, i].tolist(),
        }
    return result


def ranks(seeds: int) -> dict[str, list[float]]:
    """Losses at the start and at the end, by seed."""
    eigenvalues = jnp.linspace(1.0, 10.0, 20)

    def f(x, _):
        return jnp.sum(eigenvalues * x * x) / 2

    solver = zeroth_order.rank_sgd(zeroth_order.by_value(f), 1.0, 0.1, samples=10, best=10, line=8)

    def run(seed):
        place, key = jax.random.split(jax.random.key(seed))
        x = jax.random.normal(place, (20,))
        state, _ = jax.lax.scan(lambda s, _: solver.step(s, None), solver.init(x, key), length=150)
        return f(x, None), f(state.params, None)

    start, end = jax.jit(jax.vmap(run))(jnp.arange(seeds))
    return {"start": np.asarray(start, float).tolist(), "end": np.asarray(end, float).tolist()}


def page(results: dict) -> str:
    """The Markdown of the results."""
    rows = []
    for name, found in results["coordinates"].items():
        cells = []
        for budget in map(str, BUDGETS):
            at = found[budget]
            cells.append(f"{np.mean(at['loss']):.4f} ± {np.std(at['loss'], ddof=1):.4f}")
            cells.append(f"{at['rate']:g}{' (edge)' * at['edge']}")
        rows.append([name, found["evaluations of a step"], *cells])
    head = ["estimator", "evaluations a step"]
    for budget in BUDGETS:
        head += [f"loss after {budget} (std)", "rate"]
    start, end = (results["ranks"][k] for k in ("start", "end"))
    falls = ", ".join(f"{a:.1f} to {b:.2g}" for a, b in zip(start, end, strict=True))
    return "\n".join(
        [
            "# Two claims about training without backpropagation",
            "",
            f"`{results['command']}`, {results['machine']}.",
            "",
            f"MLP 10-8-4 with SGD, {results['seeds']} seeds, the rate of the best mean loss:",
            "",
            *markdown.table(head, rows, "lrrrrr"),
            "",
            f"Ranks alone, a quadratic of 20 variables, 150 rounds, by seed: {falls}.",
            "",
        ]
    )


def main():
    parser = _report.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    found = {}
    for name in ESTIMATORS:
        found[name] = coordinates(name, args.seeds)
        print(name, found[name], flush=True)
    results = _report.found_with(f"python -m benchmarks.zeroth_order_claims --seeds={args.seeds}")
    results |= {"seeds": args.seeds, "coordinates": found, "ranks": ranks(args.seeds)}
    _report.write(results, page, args.out)


if __name__ == "__main__":
    main()
