"""Parameter sharing against pruning: accuracy with equally many stored numbers."""

import jax
import jax.numpy as jnp
import numpy as np

import bilevel
from experiments.studies import _networks as nets
from experiments.studies import _sgd as sgd
from experiments.studies import _solvers as solvers

STEPS, ROUNDS, REWIND = 900, 4, 90
RIVALS = ("magnitude", "snip", "grasp", "synflow", "ltr")


def measure(seeds: int, compression: int, data_dir: str | None = None) -> list[dict[str, float]]:
    """Trains an MLP on a tenth of Fashion-MNIST with one of ``compression`` kernel weights stored.

    Returns:
      For each seed the accuracy of STABLE-RPS, of masks made before training by magnitude, SNIP,
      GraSP and SynFlow, and of magnitude pruning in four rounds, rewound to the end of the first
      epoch (LTR, five times the training); differences; and the kilobytes of the stored numbers of
      the kernels, and those of pruning, with a bit of mask for each weight.
    """
    density, tx, rows = 1 / compression, solvers.sgd(STEPS), []
    for seed in range(seeds):
        parts = nets.load(seed, "fashion_mnist", 6000, data_dir)
        start, row = sgd.init(seed, solvers.FASHION), {}
        shared, expand, _ = bilevel.share(start, density, jax.random.key(seed))
        solver = bilevel.sharing.training(tx, expand)
        state = solver.init(solvers.PROBLEM, None, shared)
        trained = solvers.run(solver, state, parts["train"], seed, STEPS)
        row["rps"] = sgd.right(trained, parts["test"])
        for name, masks in _masks(start, parts["train"], seed, density).items():
            trained = sgd.finish(start, parts["train"], seed, masks=masks, steps=STEPS)
            row[name] = sgd.right(trained, parts["test"])
        row["ltr"] = sgd.right(_rounds(start, parts["train"], seed, density), parts["test"])
        row |= {f"rps - {other}": row["rps"] - row[other] for other in RIVALS}
        weights = sum(w.size for w in sgd.kernels(start).values())
        row["kilobytes"] = 4 * len(shared.pool) / 1000
        row["kilobytes with masks"] = row["kilobytes"] + weights / 8000
        rows.append(row)
    return rows


def _masks(start, split, seed, density):
    """Masks made before training."""
    weights = {name: jnp.asarray(w) for name, w in sgd.kernels(start).items()}
    x, y = (jnp.asarray(a[:1000]) for a in split)

    def loss(kernels, batch):
        params = {k: {**v, "kernel": kernels[k]} for k, v in start.items()}
        return nets.cross_entropy(nets.mlp(params, batch[0]) / batch[2], batch[1])

    def forward(kernels, x):
        return nets.mlp({k: {"kernel": w, "bias": 0.0 * w[0]} for k, w in kernels.items()}, x)

    order = jnp.argsort(y)  # Halves by class and a temperature of 200, as GraSP's authors have it.
    halves = [(x[i], y[i], 200.0) for i in (order[:500], order[500:])]
    snip = bilevel.criteria.snip(loss, weights, (x, y, 1.0))
    grasp = bilevel.criteria.grasp(loss, weights, halves)
    ones = jnp.ones((1, x.shape[1]))
    found = {
        "magnitude": bilevel.masks.from_scores(weights, density),
        "snip": bilevel.masks.from_scores(snip, density),
        "grasp": bilevel.masks.from_scores(grasp, density, absolute=False),
        "synflow": bilevel.criteria.synflow_masks(forward, weights, ones, density),
    }
    return jax.tree.map(np.asarray, found)


def _rounds(start, split, seed, density):
    """The network of the last of some rounds of training, pruning and rewinding."""
    rates = 0.05 * (1 - np.arange(STEPS) / STEPS)
    early, velocity, _ = sgd.train(start, split, seed, rates=rates[:REWIND])
    masks = {name: np.ones(w.shape, bool) for name, w in sgd.kernels(start).items()}
    options = {"rates": rates[REWIND:]}
    for i in range(ROUNDS):
        momentum = nets.mask(velocity, masks)
        trained = sgd.finish(early, split, seed + 1, masks=masks, velocity=momentum, **options)
        sizes = {n: np.abs(w) * masks[n] for n, w in sgd.kernels(trained).items()}
        masks = sgd.cut(sizes, density ** ((i + 1) / ROUNDS))
    momentum = nets.mask(velocity, masks)
    return sgd.finish(early, split, seed + 1, masks=masks, velocity=momentum, **options)
