r"""How much faster do greedy blocks descend? Least squares, and logistic regression of LIBSVM.

    python -m benchmarks.greedy_blocks --data_dir=DATA --out=results/small/greedy_blocks.json

**Least squares**: A of 40 x 20 normal numbers whose columns have log-normal scales of deviation 0,
.5 and 1, five blocks of four, 100 iterations, ten seeds; the gap to the minimum, as a geometric
mean.
**Logistic regression**: sum of log(1 + exp(-y <a, x>)), blocks of five features in their order or
sorted by their constants (the last one of what is left, filled with empty features), 500
iterations; the gap as a share of that at x = 0, of the random orders as geometric means of three
seeds.

**Lasso**: |Ax - y|^2 / 2 + l |x|_1 of the same data, with l a tenth of the one at which x = 0;
proximal steps of 1/L on blocks of five, cyclic or those whose bound falls most (GS-q). After how
many iterations do the zeros of x stay those of the solution?

Steps are 1/L of the block, or the inverse of the block of a bound of the Hessian. Float64.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import optim
from benchmarks import _report
from experiments.common import markdown
from experiments.data import libsvm

# Order, step and norm by the name in the table.
METHODS = {
    "random": ("random", "lipschitz", 2),
    "cyclic": ("cyclic", "lipschitz", 2),
    "Lipschitz": ("lipschitz", "lipschitz", 2),
    "GS, norm 1": ("gs", "lipschitz", 1),
    "GS": ("gs", "lipschitz", 2),
    "GSL": ("gsl", "lipschitz", 2),
    "random, Hessian": ("random", "hessian", 2),
    "cyclic, Hessian": ("cyclic", "hessian", 2),
    "GS, Hessian": ("gs", "hessian", 2),
    "GSQ, Hessian": ("gsq", "hessian", 2),
}


def final_value(loss, blocks, hessian, method, steps, seed=0):
    """The loss after the last step."""
    order, step, norm = METHODS[method]
    solver = optim.greedy_bcd(loss, blocks, hessian, order=order, step=step, norm=norm, seed=seed)
    state = solver.init(jnp.zeros(len(hessian)))

    def one(state, _):
        return solver.step(state, None)[0], None

    return float(loss(jax.jit(lambda s: jax.lax.scan(one, s, length=steps))(state)[0].x, None))


def geometric(values):
    return math.exp(np.mean(np.log(np.maximum(values, 1e-300))))


def least_squares(seeds: int, steps: int, deviation: float) -> dict[str, float]:
    blocks, gaps = np.arange(20).reshape(5, 4), {name: [] for name in METHODS}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        a = rng.standard_normal((40, 20)) * np.exp(deviation * rng.standard_normal(20))
        b = rng.standard_normal(40) * 3
        best = np.linalg.lstsq(a, b, rcond=None)[0]
        lowest = 0.5 * np.sum((a @ best - b) ** 2)

        def loss(x, _, a=a, b=b):
            return 0.5 * jnp.sum((a @ x - b) ** 2)

        for name in METHODS:
            value = final_value(loss, blocks, a.T @ a, name, steps, seed)
            gaps[name].append(value - lowest)
    return {name: geometric(g) for name, g in gaps.items()}


def read(path: Path, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, filled with empty ones to a multiple of five, and labels of 1 and -1."""
    arrays = libsvm.parse(path, features, np.float64)
    a = np.zeros((len(arrays["label"]), -(-features // 5) * 5))
    a[:, :features] = arrays["x"]
    return a, np.where(arrays["label"] > 0, 1.0, -1.0)


def identified(path: Path, features: int, steps: int) -> dict[str, int | None]:
    """After how many proximal steps the zeros are those of the end; None: not before the half."""
    a, y = read(path, features)
    hessian, linear = jnp.asarray(a.T @ a), jnp.asarray(a.T @ y)
    penalty = 0.1 * float(np.abs(a.T @ y).max())
    blocks = np.arange(a.shape[1]).reshape(-1, 5)
    parts = (a.T @ a)[blocks[:, :, None], blocks[:, None, :]]
    length = jnp.asarray(1 / np.maximum(np.linalg.eigvalsh(parts)[:, -1], 1e-12))[:, None]

    def zeros(greedy):
        def step(carry, t):
            x, product = carry  # H x is kept up to date: a step costs one block of it.
            g = (product - linear)[blocks]
            old = x[blocks]
            moved = old - length * g
            new = jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - length * penalty, 0)
            d = new - old
            fall = jnp.sum(g * d + d * d / (2 * length), 1)
            fall += penalty * jnp.sum(jnp.abs(new) - jnp.abs(old), 1)
            b = jnp.argmin(fall) if greedy else t % len(blocks)
            ids = jnp.asarray(blocks)[b]
            return (x.at[ids].set(new[b]), product + hessian[:, ids] @ d[b]), x == 0

        start = jnp.zeros(len(hessian)), jnp.zeros(len(hessian))
        return jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(steps))[1])(start)

    found = {}
    for name, greedy in (("cyclic", False), ("GS-q", True)):
        pattern = np.asarray(zeros(greedy))
        wrong = np.flatnonzero((pattern != pattern[-1]).any(1))
        last = int(wrong[-1]) + 1 if len(wrong) else 0
        found[name] = last if last < steps // 2 else None
        found[f"{name}, zeros"] = int(pattern[-1].sum())
    return found


def logistic(path: Path, features: int, steps: int, by_constant: bool) -> dict[str, float]:
    a, y = read(path, features)
    width = a.shape[1]

    def loss(x, _):
        return jnp.sum(jax.nn.softplus(-y * (a @ x)))

    hessian = a.T @ a / 4
    columns = np.argsort(-np.diag(hessian), kind="stable") if by_constant else np.arange(width)
    blocks = columns.reshape(-1, 5)
    lowest, start = minimum(a, y), float(loss(jnp.zeros(width), None))
    shares = {}
    for name, (order, _, _) in METHODS.items():
        draws = range(3) if order in ("random", "lipschitz") else range(1)
        values = [final_value(loss, blocks, hessian, name, steps, seed) for seed in draws]
        shares[name] = geometric([(v - lowest) / (start - lowest) for v in values])
        print(f"{path.name} {name:16} {shares[name]:.2e}", flush=True)
    return shares


def minimum(a, y) -> float:
    """The smallest logistic loss, by damped Newton steps."""

    def value(x):
        return float(np.sum(np.logaddexp(0, -y * (a @ x))))

    x, low = np.zeros(a.shape[1]), value(np.zeros(a.shape[1]))
    for _ in range(100):
        s = 1 / (1 + np.exp(y * (a @ x)))
        gradient = -a.T @ (y * s)
        hessian = a.T @ (a * (s * (1 - s))[:, None])
        direction = -np.linalg.lstsq(hessian, gradient, rcond=1e-10)[0]
        share = 1.0
        while share > 1e-8 and value(x + share * direction) > low:
            share /= 2
        if share <= 1e-8 or -gradient @ direction < 1e-13 * abs(low):
            break
        x = x + share * direction
        low = value(x)
    return low


def page(results: dict) -> str:
    """The Markdown of the results."""
    sets = [key for key in results if "gap" in results[key]]
    lasso = [
        f"Lasso on {key}: {found['GS-q, zeros']} zeros at the end; they are found for good after "
        f"{found['GS-q']} greedy and {found['cyclic']} cyclic block steps."
        for key, found in results["lasso"].items()
    ]
    rows = [[name, *(f"{results[key]['gap'][name]:.3g}" for key in sets)] for name in METHODS]
    head = ["order", *(f"{key}, {results[key]['steps']} iterations" for key in sets)]
    return "\n".join(
        [
            "# Greedy blocks",
            "",
            f"`{results['command']}`, float64, {results['machine']}.",
            "",
            "Gap to the minimum: of the least-squares problems itself (geometric mean of the "
            "seeds), of the data sets as a share of the gap at x = 0.",
            "",
            *markdown.table(head, rows, "l" + "r" * len(sets)),
            "",
            "Claim: GS, and GSL more than it, make more progress per iteration than random or"
            " cyclic blocks; with the Hessian's block as the metric of step and rule (GSQ) far"
            " more.",
            "",
            *(verdict(results[key]["gap"], key) for key in sets),
            "",
            *lasso,
            *[""] * bool(lasso),
        ]
    )


def verdict(gap, column: str) -> str:
    """What of the claim a column shows."""
    usual = min(gap["random"], gap["cyclic"])
    said = [
        f"{name} {'ahead of' if gap[name] < usual else 'behind'} the better of the two"
        f" ({gap[name] / usual:.2g} of its gap)"
        for name in ("GS", "GSL")
    ]
    usual = min(gap["random, Hessian"], gap["cyclic, Hessian"])
    said.append(f"GSQ {gap['GSQ, Hessian'] / usual:.2g} of the gap of theirs with the Hessian")
    return f"- {column}: {'; '.join(said)}."


def main():
    parser = _report.parser(__doc__)
    parser.add_argument("--data_dir", type=Path, help="Folder with libsvm/.")
    parser.add_argument("--sets", default="a1a:123", help="LIBSVM files with their features.")
    parser.add_argument("--steps", type=int, default=500, help="Iterations on these.")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    command = f"python -m benchmarks.greedy_blocks --data_dir=DATA --sets={args.sets}"
    results = _report.found_with(f"{command} --steps={args.steps}")
    for deviation in (0.0, 0.5, 1.0):
        gap = least_squares(10, 100, deviation)
        results[f"least squares {deviation:g}"] = {"steps": 100, "seeds": 10, "gap": gap}
    results["lasso"] = {}
    for item in args.sets.split(",") if args.data_dir else ():
        name, features = item.split(":")
        path = libsvm.locate(name, args.data_dir)
        for kind in (False, True):
            gap = logistic(path, int(features), args.steps, kind)
            column = f"{name} sorted" if kind else name
            results[column] = {"steps": args.steps, "gap": gap}
        results["lasso"][name] = identified(path, int(features), 100_000)
    _report.write(results, page, args.out)


if __name__ == "__main__":
    main()
