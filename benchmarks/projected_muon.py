r"""Is Muon better when its step has no radial part where the weights are scale-invariant?

    python -m benchmarks.projected_muon --out=results/small/projected_muon.json

An MLP 64-64-64-10 on digits whose hidden layers are standardized and have neither bias nor gain, so
that their kernels are scale-invariant; 20 epochs of batches of 64, cosine schedule. ``optax``'s
Muon against the same in ``optim.project_scale_invariant``, both as ``experiments.train`` names them
(``muon``, ``projected_muon``). Both are tuned over the same grid of learning rates and weight
decays by validation accuracy over three seeds; test accuracy of ten other seeds, paired.

Two questions. Does the projection act as a brake: do the hidden kernels grow less? Held to be shown
if the mean ratio of their norms at the end and at the start is smaller with it in all ten pairs of
seeds at equal settings (those chosen for plain Muon), without decay. Does it pay? Held to be
shown if projected Muon is ahead with p < .05, refuted if it is behind so; else no difference is
seen.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optim
from benchmarks import _classifiers, _report
from experiments.common import markdown
from experiments.supervised import optimizers
from experiments.tables import stats

GRID = [
    {"learning_rate": rate, "weight_decay": decay}
    for rate in (0.003, 0.01, 0.03, 0.1, 0.3)
    for decay in (0.0, 0.1)
]
METHODS = {"Muon": "muon", "projected Muon": "projected_muon"}


def maker(name: str):
    def make(setting, steps):
        rate = setting["learning_rate"]
        schedule = optax.cosine_decay_schedule(1.0, steps)
        make_one = optimizers.OPTIMIZERS[name]
        return make_one(lambda t: rate * schedule(t), weight_decay=setting["weight_decay"])

    return make


def fired(grads, params):
    """Share of the hidden kernels that the projection's test takes for scale-invariant."""
    views = optim.projection_branches(grads[:-1], params[:-1])
    return jnp.mean(jnp.stack([jnp.float32(v > 0) for v in jax.tree.leaves(views)]))


def page(results: dict) -> str:
    """The Markdown of the results."""
    rows = []
    for name, run in results["runs"].items():
        s = stats.summarize(run["test"])
        setting = [f"{v:g}{' (edge)' if k in run['edge'] else ''}"
                   for k, v in run["setting"].items()]  # fmt: skip
        still = results["without decay"][name]
        more = [f"{np.mean(run[k]):.2f}" for k in ("growth", "watched")]
        more.append(f"{np.mean(still['growth']):.2f}")
        rows.append([name, *setting, f"{s.mean:.2f} ± {s.std:.2f}", *more])
    head = ["optimizer", "rate", "decay", "test accuracy, % (std)", "growth of the norms"]
    head += ["share of steps x kernels that pass the test", "growth without decay, equal rate"]
    d = results["against plain"]["projected Muon"]
    pairs = list(zip(*(results["without decay"][n]["growth"] for n in METHODS), strict=True))
    less = sum(projected < plain for plain, projected in pairs)
    return "\n".join(
        [
            "# Muon with and without the projection",
            "",
            f"`{results['command']}`, {results['machine']}.",
            "",
            f"Digits, MLP with standardized layers, {results['seeds']} seeds, paired; both were "
            f"tuned over the same {len(GRID)} settings on validation data of {results['tuning']} "
            "other seeds.",
            "",
            *markdown.table(head, rows, "lrrrrrr"),
            "",
            f"Projected less plain: {d['mean']:+.2f} points [{d['low']:+.2f}, {d['high']:+.2f}], "
            f"p = {d['p']:.3f}. At equal rate without decay the norms grow less with the "
            f"projection in {less} of {len(pairs)} seeds.",
            "",
        ]
    )


def main():
    parser = _report.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tuning", type=int, default=3, help="Seeds to choose the setting by.")
    args = parser.parse_args()
    task, runs, still = _classifiers.load("digits"), {}, {}
    finals = range(100, 100 + args.seeds)
    for name, optimizer in METHODS.items():
        train = _classifiers.runner(
            task, maker(optimizer), widths=(64, 64), epochs=20, normalize=True, watch=fired
        )
        tuned = _classifiers.tune(train, GRID, range(args.tuning))
        runs[name] = tuned | train(tuned["setting"], finals)
        still[name] = train(runs["Muon"]["setting"] | {"weight_decay": 0.0}, finals)
        print(name, tuned, flush=True)
    command = f"python -m benchmarks.projected_muon --seeds={args.seeds} --tuning={args.tuning}"
    results = _report.found_with(command) | {"seeds": args.seeds, "tuning": args.tuning}
    results |= {"runs": runs, "without decay": still}
    results["against plain"] = _classifiers.compare(runs, "Muon")
    _report.write(results, page, args.out)


if __name__ == "__main__":
    main()
