"""What the loop costs: steps a second against hand-written loops of the same step.

    python -m benchmarks.loop

Prints steps per second of ``optim.loop.run`` against a hand-written ``lax.scan`` and Python loop
of the same jitted step, measured in turns; then the time of eight seeds as one population against
eight single commands.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import optim
from benchmarks._timing import in_turns
from configs import common
from experiments import data, models
from experiments.supervised import optimizers, training

BATCH, LENGTH = 128, 100


def contestants(name: str, shape: tuple[int, ...]):
    """Returns {loop: function that makes LENGTH steps and returns the last loss}."""
    rng = np.random.default_rng(0)
    images = {"image": rng.integers(0, 256, (4096, *shape), dtype=np.uint8)}
    labels = {"label": rng.integers(0, 10, 4096).astype(np.int32)}
    dataset = data.Dataset(name, images | labels, {}, {}, shape, 10)
    model = models.build(name, input_shape=shape, num_classes=10)
    tx = optimizers.build(common.supervised(), 1000)
    step, prepare = training.make_step(model, tx), data.prepare(dataset)
    resident = jax.device_put(dataset.train)
    batches = data.epoch_batches(4096, BATCH, 0)
    feed = batches(0)
    index = [next(feed) for _ in range(LENGTH)]

    def fresh():
        params, stats = model.init(jax.random.key(0))
        return training.TrainState(jnp.int32(0), params, stats, tx.init(params, 1e-3, 0.0))

    def one(state, resident, inputs):
        return step(state, prepare(resident, inputs, None))

    single = jax.jit(one, donate_argnums=0)
    many = jax.jit(
        lambda state, resident, xs: jax.lax.scan(lambda s, x: one(s, resident, x), state, xs),
        donate_argnums=0,
    )

    def ours(state):
        rows = []
        state = optim.loop.run(
            step,
            state,
            batches,
            LENGTH,
            key=KEY,
            data=resident,
            prepare=prepare,
            steps_per_call=LENGTH,
            on_metrics=lambda t, m: rows.append(m["loss"][-1]),
        )
        return state, rows[-1]

    def by_scan(state):
        state, metrics = many(state, resident, np.stack(index))
        return state, jax.device_get(metrics)["loss"][-1]

    def by_hand(state):
        for x in index:
            state, metrics = single(state, resident, x)
        return state, jax.device_get(metrics)["loss"]

    loops = {"optim.loop.run": ours, "lax.scan": by_scan, "Python loop": by_hand}
    if name == "cnn" and jax.default_backend() == "cpu":
        del loops["lax.scan"]  # Gradients of convolutions in it take ten times as long.
    return loops, {key: fresh() for key in loops}


KEY = jax.random.key(0)


def overhead(name: str, shape: tuple[int, ...], repeats: int) -> None:
    """Prints steps per second of each loop, medians over turns."""
    loops, states = contestants(name, shape)

    def turn(key):
        def call():
            states[key], _ = loops[key](states[key])

        return call

    times = in_turns({key: turn(key) for key in loops}, repeats)
    speed = {key: LENGTH / statistics.median(t) for key, t in times.items()}
    best = max(v for k, v in speed.items() if k != "optim.loop.run")
    shown = ", ".join(f"{key} {value:.0f}" for key, value in speed.items())
    print(f"{name}: steps/s {shown}; ours / best {speed['optim.loop.run'] / best:.2f}", flush=True)


def population(model: str, seeds: int) -> None:
    """Prints the time of one population against single commands, start-up and all."""

    def seconds(folder: Path, *arguments: str) -> float:
        command = [sys.executable, "-m", "experiments.train", f"--workdir={folder}"]
        command += ["--config=configs/loop_population.py:" + model, *arguments]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - start

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds(folder / "warm")  # Fills the compilation cache for both.
        seconds(folder / "warm-population", f"--seeds={seeds}")
        together = seconds(folder / "population", f"--seeds={seeds}")
        singly = sum(seconds(folder / f"{i}", f"--config.seed={i}") for i in range(seeds))
    print(
        f"{model}: {seeds} seeds as one population {together:.1f} s, as single commands "
        f"{singly:.1f} s: {together / singly:.2f}",
        flush=True,
    )


def main(_) -> None:
    """Prints all figures."""
    overhead("mlp", (28, 28, 1), flags.FLAGS.repeats)
    overhead("cnn", (28, 28, 1), flags.FLAGS.repeats)
    for model in ("logistic", "mlp", "cnn"):
        population(model, flags.FLAGS.seeds)


if __name__ == "__main__":
    flags.DEFINE_integer("repeats", 7, "Turns of each loop.", lower_bound=1)
    flags.DEFINE_integer("seeds", 8, "Size of the population.", lower_bound=1)
    app.run(main)
