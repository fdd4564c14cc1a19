r"""Does StableMax keep what the softmax loses to rounding, and learn the rule without decay?

    python -m benchmarks.softmax_collapse --out=results/small/softmax_collapse.json

(a + b) mod 31 from 80 % of all pairs: one-hot inputs of 62, two hidden layers of 64 without biases,
ReLU, full batch, Adam with learning rate .01 and eps 1e-30, no decay, float32. An example is
**absorbed** when its loss is exactly zero: its label's probability rounds to 1, and nothing is left
to learn from it.

The claims: with the softmax ever more examples are absorbed, which stops the learning ("softmax
collapse"); with StableMax none is, and the network generalizes without weight decay. The first is
held to be shown if in every seed the softmax absorbs at least a quarter of the examples at some
time and StableMax none at any; the second if StableMax's accuracy on unseen pairs ends at .95 or
more in every seed and the softmax's at .2 or less. (These were set after a look at one seed.) The
authors train for five times as many steps on (a + b) mod 113, with StableMax in float64.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optim
from benchmarks import _classifiers, _report
from experiments.common import markdown

MODULUS, WIDTH, SHARE, RATE, EVERY = 31, 64, 0.8, 0.01, 500
LOSSES = {
    "softmax": optax.softmax_cross_entropy_with_integer_labels,
    "StableMax": optim.losses.stablemax_cross_entropy,
}


def split(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs (a, b) to train on and the others."""
    grid = np.stack(np.meshgrid(*[np.arange(MODULUS)] * 2, indexing="ij"), -1).reshape(-1, 2)
    shuffled = np.random.default_rng(seed).permutation(grid)
    cut = int(SHARE * len(shuffled))
    return shuffled[:cut], shuffled[cut:]


def one_hot(pairs):
    """Two one-hot vectors, end to end."""
    return jax.nn.one_hot(pairs, MODULUS).reshape(len(pairs), 2 * MODULUS)


def train(name: str, seeds: int, steps: int) -> list[dict[str, list[float]]]:
    """Of each seed, every 500 steps: share of absorbed examples and the two accuracies."""
    tx = optax.adam(RATE, eps=1e-30)
    logits = partial(_classifiers.logits, normalize=False)

    def losses(params, pairs):
        return LOSSES[name](logits(params, one_hot(pairs)), pairs.sum(1) % MODULUS)

    def step(carry, _, seen):
        params, state = carry
        grads = jax.grad(lambda p: losses(p, seen).mean())(params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    def accuracy(params, pairs):
        return jnp.mean(jnp.argmax(logits(params, one_hot(pairs)), -1) == pairs.sum(1) % MODULUS)

    @jax.jit
    @jax.vmap
    def some_steps(carry, seen, unseen):
        carry, _ = jax.lax.scan(partial(step, seen=seen), carry, length=EVERY)
        absorbed = jnp.mean(losses(carry[0], seen) == 0)
        return carry, (absorbed, accuracy(carry[0], seen), accuracy(carry[0], unseen))

    @jax.vmap
    def start(seed):
        params = _classifiers.initial(jax.random.key(seed), (2 * MODULUS, WIDTH, WIDTH, MODULUS))
        return params, tx.init(params)

    seen, unseen = (np.stack(x) for x in zip(*map(split, range(seeds)), strict=True))
    carry, rows = start(jnp.arange(seeds)), []
    for i in range(steps // EVERY):
        carry, found = some_steps(carry, seen, unseen)
        rows.append([np.round(np.asarray(x, float), 4) for x in found])
        if i % 4 == 3:
            print(name, EVERY * (i + 1), *(x.tolist() for x in rows[-1]), flush=True)
    by_seed = np.moveaxis(np.array(rows), -1, 0).tolist()  # (seeds, evaluations, 3)
    names = ("absorbed", "train", "test")
    return [dict(zip(names, map(list, zip(*run, strict=True)), strict=True)) for run in by_seed]


def page(results: dict) -> str:
    """The Markdown of the results."""
    shown = [s for s in (2000, 4000, 6000, 7000, 8000, 12000, 16000) if s <= results["steps"]]
    rows = []
    for name, runs in results["runs"].items():
        for key in ("absorbed", "test"):
            cells = [" / ".join(f"{r[key][s // EVERY - 1]:.2f}" for r in runs) for s in shown]
            most = " / ".join(f"{max(r[key]):.2f}" for r in runs)
            rows.append([name, key, *cells, most])
    head = ["loss", "share", *(f"step {s}" for s in shown), "largest"]
    return "\n".join(
        [
            "# Softmax collapse on (a + b) mod 31",
            "",
            f"`{results['command']}`, float32, {results['machine']}.",
            "",
            f"In each of the seeds ({results['seeds']}): examples whose loss is exactly zero, and "
            "accuracy on unseen pairs. No weight decay.",
            "",
            *markdown.table(head, rows, "ll" + "r" * (len(shown) + 1)),
            "",
        ]
    )


def main():
    parser = _report.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=16_000)
    args = parser.parse_args()
    runs = {name: train(name, args.seeds, args.steps) for name in LOSSES}
    flags = f"--seeds={args.seeds} --steps={args.steps}"
    results = _report.found_with(f"python -m benchmarks.softmax_collapse {flags}")
    results |= {"seeds": args.seeds, "steps": args.steps, "every": EVERY, "runs": runs}
    _report.write(results, page, args.out)


if __name__ == "__main__":
    main()
