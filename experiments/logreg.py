"""Learning-rate schedules judged on logistic regression, all runs of a set as one population.

python -m experiments.logreg --config=configs/logreg.py --data_dir=DATA
"""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from ml_collections import ConfigDict

import optim
from experiments.common import files, launch, provenance, runs
from experiments.data import libsvm
from experiments.schedules import logreg_report
from experiments.schedules.logreg_report import GIVEN
from experiments.supervised import optimizers


class Problem(NamedTuple):
    """Features with a last column of ones, float64 [n, d], and labels [n] of ``classes``."""

    x: np.ndarray
    y: np.ndarray
    classes: int


def load(name: str, data_dir: str | None, divide: float = 1.0) -> Problem:
    """Returns the whole training file as a problem, in its order."""
    rows = libsvm.parse(libsvm.locate(name, data_dir), dtype=np.float64)
    labels, y = np.unique(rows["label"], return_inverse=True)
    x = np.append(rows["x"] / divide, np.ones((len(y), 1)), axis=1)
    return Problem(x, y.astype(np.int32), len(labels))


def order(n: int, batch_size: int, epochs: int, seed: int) -> np.ndarray:
    """Returns the rows of each step, [steps, batch]: a shuffle an epoch, whole batches only."""
    rng = np.random.default_rng(seed)
    per_epoch = n // batch_size
    cut = per_epoch * batch_size
    epochs_of_rows = [rng.permutation(n)[:cut].reshape(per_epoch, -1) for _ in range(epochs)]
    return np.concatenate(epochs_of_rows).astype(np.int32)


def loss_and_error(w, x, y):
    """Mean cross-entropy and share of errors of the weights ``w`` [d, classes]."""
    logits = x @ w
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return loss, (logits.argmax(1) != y).mean()


def make_step(optimizer: str, record: optax.GradientTransformation | None = None):
    """Returns ``(init, step)`` for runs that share their batches.

    The state holds learning rates [schedules, rates] and weights [schedules, rates, d, classes];
    the batch holds rows and the multiplier of each schedule, [schedules].
    """

    def transform(rate):
        tx = optimizers.make(rate, lambda count: 1.0, name=optimizer)
        return tx if record is None else optax.chain(record, tx)

    def init(rates, shape):
        w = jnp.zeros((*rates.shape, *shape))
        return {"rate": rates, "w": w, "opt": jax.vmap(jax.vmap(transform(0.0).init))(w)}

    def one(w, opt, rate, batch):
        gradient = jax.grad(lambda w: loss_and_error(w, batch["x"], batch["y"])[0])(w)
        updates, opt = transform(rate).update(gradient, opt, w)
        return w + updates, opt

    def step(state, batch):
        rates = state["rate"] * batch["multipliers"][:, None]
        over_rates = jax.vmap(one, (0, 0, 0, None))
        w, opt = jax.vmap(over_rates, (0, 0, 0, None))(state["w"], state["opt"], rates, batch)
        return {"rate": state["rate"], "w": w, "opt": opt}, {}

    return init, step


def prepare(data, inputs, key):
    """Gathers the rows of a step and the schedules' multipliers at it."""
    del key
    rows, t = inputs["rows"], inputs["t"]
    return {"x": data["x"][rows], "y": data["y"][rows], "multipliers": data["tables"][:, t]}


def feed(rows: np.ndarray):
    """Returns ``batches(start)`` over these rows."""
    return lambda start: ({"rows": rows[t], "t": np.int32(t)} for t in range(start, len(rows)))


@jax.jit
def evaluate(w, x, y):
    """Loss and error of each run on all rows; ``w`` is [runs, d, classes]."""
    return jax.lax.map(lambda v: loss_and_error(v, x, y), w)


def train(problem: Problem, optimizer: str, tables, rates, orders) -> tuple[np.ndarray, ...]:
    """Trains seeds x schedules x rates at once.

    Args:
      problem: What to fit.
      optimizer: Name of the optimizer.
      tables: Multipliers of each schedule, [schedules, steps].
      rates: Peak learning rates, [rates].
      orders: Rows of each step, one array a seed.

    Returns:
      Final loss and error on all rows, each [seeds, schedules, rates].
    """
    init, step = make_step(optimizer)
    shape = problem.x.shape[1], problem.classes
    grid = jnp.broadcast_to(jnp.asarray(rates), (len(tables), len(rates)))
    one = init(grid, shape)
    state = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(orders), *x.shape)), one)
    data = {"x": problem.x, "y": problem.y, "tables": np.asarray(tables)}
    state = optim.loop.run(
        step,
        state,
        [feed(rows) for rows in orders],
        len(orders[0]),
        data=data,
        prepare=prepare,
        replicas=len(orders),
        vmap=True,
        steps_per_call=1000,
    )
    w = state["w"].reshape(-1, *shape)
    results = evaluate(w, problem.x, problem.y)
    loss, error = (np.asarray(r).reshape(len(orders), *grid.shape) for r in results)
    return loss, error


def pilot_norms(problem: Problem, optimizer: str, norm: str, rate: float, rows) -> np.ndarray:
    """Returns the gradient norm of each step of one run with linear decay."""
    steps = len(rows)
    init, step = make_step(optimizer, optim.record_norms(steps, norm))
    data = {"x": problem.x, "y": problem.y, "tables": table("linear", steps)[None]}
    state = init(jnp.full((1, 1), rate), (problem.x.shape[1], problem.classes))
    state = optim.loop.run(
        step, state, feed(rows), steps, data=data, prepare=prepare, steps_per_call=1000
    )
    return optim.recorded_norms(state)[0, 0]


def table(schedule: str, steps: int) -> np.ndarray:
    """Returns the multipliers of a profile at steps 0 to ``steps - 1``."""
    return np.asarray(optim.sampled_schedule(schedule, 1.0, steps)(jnp.arange(steps)))


def seconds_per_step(problem: Problem, optimizer: str, rows) -> float:
    """Returns the time of a step of one run in a python loop over a jitted step."""
    init, step = make_step(optimizer)
    data = jax.device_put({"x": problem.x, "y": problem.y, "tables": np.ones((1, len(rows)))})
    state = init(jnp.full((1, 1), 0.1), (problem.x.shape[1], problem.classes))
    call = jax.jit(
        lambda state, data, inputs: step(state, prepare(data, inputs, None))[0], donate_argnums=0
    )
    inputs = list(feed(rows)(0))
    state = jax.block_until_ready(call(state, data, inputs[0]))
    times = []
    for i in range(0, len(inputs), size := max(len(inputs) // 5, 1)):
        start = time.perf_counter()
        for x in inputs[i : i + size]:
            state = call(state, data, x)
        jax.block_until_ready(state)
        times.append((time.perf_counter() - start) / len(inputs[i : i + size]))
    return float(np.median(times))


def run_set(
    config: ConfigDict, name: str, optimizer: str, data_dir: str | None, given: Any = None
) -> dict[str, Any]:
    """Returns the results of all schedules on one set: best rates, losses, times.

    ``given`` are norms of somebody else's pilot: the schedule that they give is run too.
    """
    problem = load(name, data_dir, config.divide.get(name, 1.0))
    n = len(problem.y)
    epochs = next(epochs for rows, epochs in config.epochs if n <= rows)
    orders = [order(n, config.batch_size, epochs, seed) for seed in config.seeds]
    rates, steps = np.asarray(config.learning_rates[optimizer], float), len(orders[0])

    start = time.perf_counter()
    tables = np.stack([table(schedule, steps) for schedule in config.schedules])
    loss, error = train(problem, optimizer, tables, rates, orders)
    linear = loss[:, config.schedules.index("linear")].mean(0)
    pilot = rates[np.nanargmin(linear)]
    pilot_rows = order(n, config.batch_size, epochs, config.pilot_seed)
    norms = pilot_norms(problem, optimizer, config.norms[optimizer], pilot, pilot_rows)
    pilots = [norms] if given is None else [norms, given]
    refined = [optim.refine(g, norm=config.norms[optimizer], tau=config.tau) for g in pilots]
    last = train(problem, optimizer, refined, rates, orders)
    loss, error = (np.append(a, b, axis=1) for a, b in zip((loss, error), last, strict=True))
    seconds = time.perf_counter() - start

    schedules = {}
    for i, schedule in enumerate((*config.schedules, "refined", GIVEN)[: loss.shape[1]]):
        means = np.where(np.isfinite(loss[:, i]), loss[:, i], np.inf).mean(0)
        best = int(np.argmin(means))
        schedules[schedule] = {
            "best_lr": float(rates[best]),
            "loss_mean": float(means[best]),
            "loss_std": float(loss[:, i, best].std()),
            "error_mean": float(100 * error[:, i, best].mean()),
            "final_loss": loss[:, i].tolist(),
        }
    one = seconds_per_step(problem, optimizer, orders[0][: config.compare_steps])
    return {
        "n": n,
        "features": problem.x.shape[1] - 1,
        "classes": problem.classes,
        "steps": steps,
        "pilot_lr": float(pilot),
        "learning_rates": rates.tolist(),
        "schedules": schedules,
        "seconds": seconds,
        # All runs but the pilot, one after another.
        "python_loop_seconds": one * steps * loss.size,
        "refined": refined[0][np.linspace(0, steps - 1, 101).round().astype(int)].tolist(),
    }


def _results(config: ConfigDict, file: Path, data_dir: str | None, given: Any) -> dict[str, Any]:
    """Returns what ``file`` holds and the rest, which is added to it set by set."""
    results = files.read_json(file) if file.exists() else {}
    todo = [f"{name}|{optimizer}" for name in config.sets for optimizer in config.learning_rates]
    with (
        runs.progress(len(todo), len(results), "logistic regression", quiet=False) as bar,
        jax.enable_x64(True),
    ):
        for key in todo:
            if key not in results:
                name, optimizer = key.split("|")
                norms = f"{name}/{optimizer}/pilot_norms"
                results[key] = run_set(config, name, optimizer, data_dir, given.get(norms))
                files.write(file, json.dumps(results) + "\n")
                bar.update()
    return results


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> int:
    """Runs what ``workdir`` does not hold yet, and writes table, numbers and picture there."""
    given = flags.FLAGS.pilot_norms
    given = np.load(Path(given).expanduser()) if given else {}
    with runs.claimed(workdir, [config], "logreg"):
        results = _results(config, workdir / "results.json", data_dir, given)
    reference = flags.FLAGS.reference
    reference = files.read_json(Path(reference).expanduser()) if reference else {}
    text = logreg_report.report(results, reference, config.separable)
    text += (
        f"\n`python -m experiments.logreg` on {provenance.machine()}.\n\n![losses](losses.png)\n"
    )
    files.write(workdir / "table.md", text)
    logreg_report.draw(results, workdir / "losses.png")
    print(text)
    print(f"table, numbers and picture: {workdir}")
    return 0


if __name__ == "__main__":
    flags.DEFINE_string(
        "reference", None, "JSON of an independent implementation, to compare each run with."
    )
    flags.DEFINE_string(
        "pilot_norms",
        None,
        "npz with 'SET/OPTIMIZER/pilot_norms' of the reference. A pilot at the edge of stability "
        "is chaotic, so only schedules refined from the same norms are compared run by run.",
    )
    launch.launch(main, "configs/logreg.py")
