"""Kills IMP and BiP in their middle, repeats the command, and compares with a calm run.

    python -m benchmarks.pruning_kills --kills=5
    JAX_NUM_CPU_DEVICES=8 python -m benchmarks.pruning_kills --kills=2 --sharding=fsdp

Then stacks the seeds of both and steps them by ``jax.vmap``, and compares with single runs. Ends
with status 0 if killed runs leave the bits of calm ones, and stacked seeds the same masks.
"""

import functools
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

import bilevel
import optim
from benchmarks import _kill
from experiments import data, models
from experiments.supervised import training


def command(workdir: Path, method: str, sharding: str = "replicated") -> list[str]:
    """Returns the command of the run that is killed."""
    options = {"prune.method": method, "prune.density": 0.1, "log_every": 11, "save_every": 22}
    config = [f"--config.{key}={value}" for key, value in options.items()]
    config += [f"--workdir={workdir}", f"--sharding={sharding}"]
    return [sys.executable, "-m", "experiments.prune", *config]


def left(workdir: Path) -> dict[str, np.ndarray]:
    """Returns the pruned model, its masks and its numbers but the seconds."""
    with np.load(workdir / "pruned.npz") as z:
        arrays = dict(z)
    final = json.loads((workdir / "result.json").read_text(encoding="utf-8"))["final"]
    return arrays | {k: np.array(v) for k, v in final.items() if "seconds" not in k}


def compare(
    folder: Path, method: str, kills: int, seed: int, sharding: str
) -> tuple[int, list[str]]:
    """Returns how often the run was killed, and what differs from the calm one."""
    calm = command(folder / "calm", method, sharding)
    subprocess.run(calm, check=True, capture_output=True)
    killed, rng = folder / "killed", random.Random(seed)

    def saved():  # Stages that have begun to save; the first two are the dense training.
        return sum(int(p.parent.name) > 1 for p in killed.glob("stages/*/[0-9]*"))

    again = command(killed, method, sharding)
    done = _kill.run_killed(again, kills, saved, lambda done: rng.uniform(0.0, 0.05))
    want, got = left(folder / "calm"), left(folder / "killed")
    return done, [k for k in {*want, *got} if not np.array_equal(want.get(k), got.get(k))]


def stacked(method: str, seeds: int, steps: int) -> float:
    """Largest share of mask entries that differ between stacked seeds and the same ones alone."""
    digits = data.load("digits")
    model = models.build("mlp", input_shape=(8, 8, 1), num_classes=10)
    prepare = data.prepare(digits)

    def loss(params, batch):
        logits, _ = model.apply(params, {}, batch["x"], train=True)
        return training.cross_entropy(logits, batch["label"])[0].mean()

    def pair(arrays, inputs, key):
        return tuple(prepare(arrays, i, key) for i in inputs)

    def feed(seed):
        own = data.train_batches(digits, 64, seed)
        other = data.train_batches(digits, 64, seed + 1000)
        return (lambda t: zip(own(t), other(t), strict=True)) if method == "bip" else own

    sgd = optax.sgd(0.05, momentum=0.9)
    if method == "bip":
        solver = bilevel.bip(sgd, optax.sgd(1.0, momentum=0.9), 0.1)
    else:
        solver = bilevel.sparse_training(sgd)
    problem = bilevel.pruning.problem(loss)
    states = [solver.init(problem, None, model.init(jax.random.key(s))[0]) for s in range(seeds)]
    drops = [0] if method == "bip" else [0, *_drops(states[0], (0.5, 0.1))]

    def train(state, batches, **options):
        for drop in drops:
            if drop:
                again = functools.partial(bilevel.next_round, drop=drop)
                state = (jax.vmap(again) if options else again)(state)
            state = optim.loop.run(
                solver.step, state, batches, steps, data=digits.train,
                prepare=pair if method == "bip" else prepare, **options,
            )  # fmt: skip
        return state.masks

    # Copies: the loop donates its state.
    alone = [train(jax.tree.map(jnp.copy, s), feed(i)) for i, s in enumerate(states)]
    together = jax.tree.map(lambda *x: jnp.stack(x), *states)
    together = train(together, [feed(i) for i in range(seeds)], replicas=seeds, vmap=True)
    pairs = [
        (jax.tree.leaves(a), [x[i] for x in jax.tree.leaves(together)]) for i, a in enumerate(alone)
    ]
    return max(float((x != y).mean()) for a, b in pairs for x, y in zip(a, b, strict=True))


def _drops(state, densities):
    chosen = bilevel.masks.prunable(state.y)
    return [np.int32(bilevel.masks.drop_counts(chosen, d)) for d in densities]


def main(_) -> None:
    """Prints what differs, and exits with 1 if anything does."""
    failed = False
    for method in ("imp", "bip"):
        with tempfile.TemporaryDirectory() as folder:
            f = flags.FLAGS
            done, names = compare(Path(folder), method, f.kills, f.seed, f.sharding)
        print(f"{method}: {done} kills, {len(names)} differences {' '.join(names)}", flush=True)
        share = stacked(method, 3, 100)
        print(f"{method}: stacked seeds: {share:.1%} of a mask differ from single runs", flush=True)
        failed |= bool(names) or share > 0.01
    sys.exit(failed)


if __name__ == "__main__":
    flags.DEFINE_integer("kills", 5, "Number of kills.", lower_bound=0)
    flags.DEFINE_integer("seed", 0, "Of the moments.")
    flags.DEFINE_string("sharding", "replicated", "As of experiments.prune.")
    app.run(main)
