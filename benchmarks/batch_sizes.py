r"""Does a batch that grows by AdAdaGrad's test reach the accuracy of small batches in fewer steps?

    python -m benchmarks.batch_sizes --data_dir=DATA --out=results/small/batch_sizes.json

An MLP (64 hidden units) on a tenth of MNIST by AdaGrad-Norm and Adam, all runs on the same number
of examples, ten times the 5400 training images. Fixed batches of 64, 256 and 1024, against batches
that begin at 64 and grow, in powers of two up to 1024, by the norm test with eta of .1, .25 and .5;
the test is made every ten steps on the gradients of 64 single examples of the batch, which bounds
its cost. Of three learning rates the best one on the validation images, with the first seed; the
accuracies are those on 10,000 test images, of the other seeds.

The claim: the same accuracy with fewer steps. Held to be shown, for an optimizer, if some growing
batch takes at most half the steps of batch 64 and its accuracy is at most .5 points below; refuted
if no growing batch that takes at most half the steps is within 1.5 points.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optim
from benchmarks import _report
from experiments import data
from experiments.common import markdown

RATES = {"AdaGrad-Norm": (0.5, 2.0, 8.0), "Adam": (3e-4, 1e-3, 3e-3)}
MAKE = {"AdaGrad-Norm": optim.adagrad_norm, "Adam": optax.adam}
FIXED = {"64": 64, "256": 256, "1024": 1024}
GROWING = {"norm test, .1": 0.1, "norm test, .25": 0.25, "norm test, .5": 0.5}
FIRST, LAST, EVERY, WIDTH = 64, 1024, 10, 64


def load(data_dir: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images as rows of 0 to 1, with labels: a tenth to train on, a tenth of it to choose by."""
    mnist = data.load("mnist", data_dir)
    parts = {
        "train": (mnist.train, slice(0, 5400)),
        "valid": (mnist.valid, slice(0, 600)),
        "test": (mnist.test, slice(None)),
    }
    return {
        name: (part["image"][rows].reshape(-1, 784).astype("f") / 255, part["label"][rows])
        for name, (part, rows) in parts.items()
    }


def initial(seed: int):
    """He's normal kernels; biases are zero."""
    keys, sizes = jax.random.split(jax.random.key(seed)), (784, WIDTH, 10)
    return [
        (jax.random.normal(k, (n, m)) * np.sqrt(2 / n), jnp.zeros(m))
        for k, n, m in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def logits(params, x):
    (w1, b1), (w2, b2) = params
    return jax.nn.relu(x @ w1 + b1) @ w2 + b2


def loss(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()


@partial(jax.jit, static_argnums=0)
def step(optimizer: str, rate, params, state, x, y):
    tx = MAKE[optimizer](rate)
    updates, state = tx.update(jax.grad(loss)(params, x, y), state, params)
    return optax.apply_updates(params, updates), state


@partial(jax.jit, static_argnums=0)
def wanted(eta: float, params, x, y):
    """The batch size of the norm test."""
    single = jax.vmap(lambda x, y: jax.grad(loss)(params, x[None], y[None]))(x, y)
    return optim.batch_size.norm_test(single, eta, maximum=LAST, power_of_two=True).size


@jax.jit
def accuracy(params, x, y):
    return jnp.mean(jnp.argmax(logits(params, x), -1) == y)


def train(parts, optimizer: str, rate: float, plan: float, seed: int, budget: int):
    """Steps, the last size, and the accuracies in percent on validation and test images."""
    images, labels = parts["train"]
    params = initial(seed)
    rng, state = np.random.default_rng(seed), MAKE[optimizer](rate).init(params)
    size, steps, seen = FIRST if plan < 1 else int(plan), 0, 0
    while seen < budget:
        rows = rng.integers(0, len(labels), size)
        if plan < 1 and steps % EVERY == 0:
            few = rows[:FIRST]
            size = max(size, int(wanted(plan, params, images[few], labels[few])))
        params, state = step(optimizer, rate, params, state, images[rows], labels[rows])
        steps, seen = steps + 1, seen + len(rows)
    return steps, size, *(100 * float(accuracy(params, *parts[k])) for k in ("valid", "test"))


def page(results: dict) -> str:
    """The Markdown of the results."""
    rows, said = [], []
    for optimizer, plans in results["runs"].items():
        for plan, run in plans.items():
            cell = f"{np.mean(run['accuracy']):.2f} ± {np.std(run['accuracy'], ddof=1):.2f}"
            means = [f"{np.mean(run[k]):.0f}" for k in ("steps", "last size")]
            edge = " (edge)" if run["rate"] in (RATES[optimizer][0], RATES[optimizer][-1]) else ""
            rows.append([optimizer, plan, f"{run['rate']:g}{edge}", *means, cell])
        small, fewer = plans["64"], []
        for plan in GROWING:
            share = np.mean(plans[plan]["steps"]) / np.mean(small["steps"])
            ahead = np.mean(plans[plan]["accuracy"]) - np.mean(small["accuracy"])
            fewer.append(f"{share:.2f} of the steps and {ahead:+.2f} points ({plan})")
        said.append(f"- {optimizer}, against batch 64: {'; '.join(fewer)}.")
    head = ["optimizer", "batch", "rate", "steps", "last size", "test accuracy, % (std)"]
    return "\n".join(
        [
            "# Batches that grow",
            "",
            f"`{results['command']}`, {results['machine']}.",
            "",
            f"A tenth of MNIST, {results['budget']} examples each, {results['seeds']} seeds; of "
            "three rates the best one on validation images, with another seed.",
            "",
            *markdown.table(head, rows, "llrrrr"),
            "",
            "Claim: a batch that grows by AdAdaGrad's test reaches the same accuracy in fewer "
            "steps.",
            "",
            *said,
            "",
        ]
    )


def main():
    parser = _report.parser(__doc__)
    parser.add_argument("--data_dir", required=True, help="Folder with mnist/.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=10 * 5400, help="Examples of a run.")
    args = parser.parse_args()
    parts, runs = load(args.data_dir), {}
    for optimizer, rates in RATES.items():
        runs[optimizer] = {}
        for plan, value in (FIXED | GROWING).items():
            tried = [train(parts, optimizer, r, value, 0, args.budget)[2] for r in rates]
            rate = rates[int(np.argmax(tried))]
            found = [
                train(parts, optimizer, rate, value, seed, args.budget)
                for seed in range(1, args.seeds + 1)
            ]
            steps, size, _, accuracy = zip(*found, strict=True)
            run = {"rate": rate, "steps": steps, "last size": size, "accuracy": accuracy}
            runs[optimizer][plan] = run
            print(optimizer, plan, run, flush=True)
    flags = f"--data_dir=DATA --seeds={args.seeds} --budget={args.budget}"
    results = _report.found_with(f"python -m benchmarks.batch_sizes {flags}")
    results |= {"seeds": args.seeds, "budget": args.budget, "runs": runs}
    _report.write(results, page, args.out)


if __name__ == "__main__":
    main()
