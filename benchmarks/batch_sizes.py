r"""Does a batch that grows by AdAdaGrad's test reach the accuracy of small batches in fewer steps?

    python -m benchmarks.batch_sizes --data_dir=DATA --out=results/small/batch_sizes.json

An MLP (128 hidden units) on MNIST by AdaGrad-Norm and Adam, all runs on the same number of
examples. Fixed batches of 64, 512 and 4096, against batches that begin at 64 and grow, in powers of
two up to 4096, by the norm test with eta of .1, .25 and .5; the test is made every ten steps on the
gradients of 64 single examples of the batch, which bounds its cost.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optim
from experiments import data, models
from experiments.common import files, markdown, provenance

RATES = {"AdaGrad-Norm": (0.5, 2.0, 8.0), "Adam": (3e-4, 1e-3, 3e-3)}
MAKE = {"AdaGrad-Norm": optim.adagrad_norm, "Adam": optax.adam}
PLANS = {
    "64": 64, "512": 512, "4096": 4096, "norm test, .1": 0.1, "norm test, .25": 0.25,
    "norm test, .5": 0.5,
}  # fmt: skip
FIRST, LAST, EVERY = 64, 4096, 10


def train(dataset, optimizer: str, rate: float, plan: float, seed: int, budget: int):
    """Steps, the last size, and accuracy on the validation set."""
    model = models.build("mlp", input_shape=(28, 28, 1), num_classes=10, widths=(128,))
    images = dataset.train["image"].astype(np.float32) / 255
    labels = dataset.train["label"]
    params, stats = model.init(jax.random.key(seed))
    tx = MAKE[optimizer](rate)

    def loss(params, x, y):
        logits, _ = model.apply(params, stats, x, train=False)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def step(params, state, x, y):
        updates, state = tx.update(jax.grad(loss)(params, x, y), state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def wanted(params, x, y):
        single = jax.vmap(lambda x, y: jax.grad(loss)(params, x[None], y[None]))(x, y)
        return optim.batch_size.norm_test(single, plan, maximum=LAST, power_of_two=True).size

    rng, state, steps, seen = np.random.default_rng(seed), tx.init(params), 0, 0
    size = FIRST if plan < 1 else int(plan)
    while seen < budget:
        rows = rng.integers(0, len(labels), size)
        if plan < 1 and steps % EVERY == 0:
            few = rows[:FIRST]
            size = max(size, int(wanted(params, images[few], labels[few])))
        params, state = step(params, state, images[rows], labels[rows])
        steps, seen = steps + 1, seen + len(rows)
    held_out = dataset.valid["image"].astype(np.float32) / 255
    logits, _ = model.apply(params, stats, held_out, train=False)
    return steps, size, float(jnp.mean(jnp.argmax(logits, -1) == dataset.valid["label"]))


def page(results: dict) -> str:
    """The Markdown of the results."""
    rows = []
    for optimizer, plans in results["runs"].items():
        for plan, run in plans.items():
            accuracy = [100 * x for x in run["accuracy"]]
            cell = f"{np.mean(accuracy):.2f} ± {np.std(accuracy, ddof=1):.2f}"
            cells = [f"{run['rate']:g}", f"{np.mean(run['steps']):.0f}"]
            rows.append([optimizer, plan, *cells, f"{np.mean(run['size']):.0f}", cell])
    head = ["optimizer", "batch", "rate", "steps", "last size", "validation accuracy, %"]
    return "\n".join(
        [
            "# Batches that grow",
            "",
            f"`{results['command']}`, {results['machine']}.",
            "",
            f"MNIST, {results['budget']} examples each, {results['seeds']} seeds; of three rates "
            "the best one of the first seed.",
            "",
            *markdown.table(head, rows, "llrrrr"),
            "",
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file; a Markdown file is written beside it.")
    parser.add_argument("--data_dir", required=True, help="Folder with mnist/.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=120_000, help="Examples of a run.")
    args = parser.parse_args()
    dataset, runs = data.load("mnist", args.data_dir), {}
    for optimizer, rates in RATES.items():
        runs[optimizer] = {}
        for plan, value in PLANS.items():
            tried = [train(dataset, optimizer, r, value, 0, args.budget) for r in rates]
            best = max(range(len(rates)), key=lambda i: tried[i][2])
            rest = [
                train(dataset, optimizer, rates[best], value, seed, args.budget)
                for seed in range(1, args.seeds)
            ]
            steps, size, accuracy = zip(tried[best], *rest, strict=True)
            run = {"rate": rates[best], "steps": steps, "size": size, "accuracy": accuracy}
            runs[optimizer][plan] = run
            print(optimizer, plan, run, flush=True)
    flags = f"--data_dir=DATA --seeds={args.seeds} --budget={args.budget}"
    results = {"command": f"python -m benchmarks.batch_sizes {flags}", "runs": runs}
    results |= {"machine": provenance.machine(), "versions": provenance.versions()}
    results |= {"seeds": args.seeds, "budget": args.budget}
    print(page(results))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        files.write(args.out, json.dumps(results, indent=1) + "\n")
        files.write(args.out.with_suffix(".md"), page(results))


if __name__ == "__main__":
    main()
