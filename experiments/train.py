"""Supervised training of any model, data set, optimizer and schedule by name.

python -m experiments.train --config=configs/digits.py --config.optimizer.name=lion
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

import optim
from experiments.common import checkpoints, launch, runs
from experiments.supervised import training
from experiments.tables import sweep

shared_part = training.shared_part  # Equal for configs that can be one population.


class Result(NamedTuple):
    """What a run gives: its last metrics, and a line for each log point as in metrics.jsonl."""

    final: dict[str, float]
    history: list[dict[str, Any]]


def run(
    config: ConfigDict,
    workdir: str | Path | None = None,
    data_dir: str | None = None,
    *,
    quiet: bool = False,
) -> Result:
    """Trains one model; see :func:`run_population`."""
    return run_population([config], workdir, data_dir, quiet=quiet)[0]


def run_population(
    configs: Sequence[ConfigDict],
    workdir: str | Path | None = None,
    data_dir: str | None = None,
    *,
    quiet: bool = False,
    stop: Callable[[int], bool] | None = None,
) -> list[Result]:
    """Trains a model for each config, all in one loop, and resumes what ``workdir`` holds.

    Args:
      configs: They may differ in ``seed``, ``optimizer.learning_rate`` and
        ``optimizer.weight_decay`` only.
      workdir: Where metrics, checkpoints and curves go; ``None`` leaves nothing.
      data_dir: Folder of the data sets.
      quiet: No progress line.
      stop: ``stop(step)``, polled between device calls; once true the state is saved and
        ``runtime.Preempted`` raised.

    Returns:
      A :class:`Result` for each config. Of a run that diverged the metrics are NaN, unless it is
      the only one left: then ``optim.loop.NonFiniteError`` is raised.
    """
    config = configs[0]
    for other in configs[1:]:
        if shared_part(other) != shared_part(config):
            raise ValueError(
                "the configs of a population may differ in seed, optimizer.learning_rate and "
                "optimizer.weight_decay only"
            )
    job = training.job_of(config, data_dir)
    alone, many = len(configs) == 1, len(configs)
    mesh = optim.parallel.data_mesh() if jax.device_count() > 1 else None
    state, key = training.start(job, configs)
    folders: list[Path | None] = [None] * many
    if workdir is not None:
        workdir = Path(workdir)
        folders = [*runs.claim_all(workdir, configs)]
    feeds = [job.batches(c.seed) for c in configs]
    if alone:
        feeds, vmap = feeds[0], False
    else:
        shared = len({c.seed for c in configs}) == 1
        feeds = feeds[0] if shared else feeds
        vmap = optim.loop.prefers_vmap(state, many, shared=shared)

    store, start = None, 0
    if workdir is not None:
        store = checkpoints.Checkpoints(
            workdir / "checkpoints", keep=config.keep, best="valid/accuracy"
        )
        state, start = store.restore(state) or (state, 0)
    lead = jax.process_index() == 0
    if start >= job.steps and lead and not quiet:
        print(f"already complete: {workdir}")
    files = [
        runs.MetricsFile(f / "metrics.jsonl" if f is not None and lead else None, start)
        for f in folders
    ]
    clock = runs.Clock(files[0].rows, config.batch_size * many)
    bar = runs.progress(job.steps, start, f"{config.data.name} {config.model.name}", quiet)
    latest: dict[str, Any] = {}

    def write(step, values, **fields):
        for r, file in enumerate(files):
            own = {k: float(v[r] if np.ndim(v) else v) for k, v in values.items()}
            file.write(step=step, **own, **fields)
        latest.update({k: float(np.mean(v)) for k, v in values.items()})
        bar.set_postfix({k: f"{v:.4g}" for k, v in latest.items() if k in SHOWN}, refresh=False)

    def on_metrics(first, values):
        step = first + len(values["loss"])
        bar.update(step - bar.n)
        if step % config.log_every == 0 or step == job.steps:
            means = {k: v.mean(0) for k, v in values.items()} | {"lr": values["lr"][-1]}
            write(step, means, examples=step * config.batch_size, **clock.read(step))

    def evaluate(step, state):
        if "valid" in job.splits:
            means = job.evaluate(state, "valid", mesh, vmap)
            write(step, {f"valid/{k}": v for k, v in means.items()})

    def save(step, state):
        if store is not None:
            store.save(step, state, {"valid/accuracy": latest.get("valid/accuracy", 0.0)})

    stopped = []

    def stop_here(step):
        if stop is not None and stop(step):
            stopped.append(step)
        return bool(stopped)

    try:
        state = optim.loop.run(
            job.step,
            state,
            feeds,
            job.steps,
            key=key,
            data=job.resident,
            prepare=job.prepare,
            start=start,
            mesh=mesh,
            steps_per_call=config.log_every,
            replicas=None if alone else many,
            vmap=None if alone else vmap,
            on_metrics=on_metrics,
            hooks=[
                (config.eval_every or job.epoch, evaluate),
                (config.save_every or config.eval_every or job.epoch, save),
            ],
            stop=stop_here,
        )
        if stopped:
            save(stopped[0], state)
            if store is not None:
                store.close()
            raise launch.Preempted(stopped[0])
        finals = {
            f"{split}/{k}": v
            for split in job.splits
            for k, v in job.evaluate(state, split, mesh, vmap).items()
        }
    finally:
        bar.close()
        for file in files:
            file.close()
        # With another process dead, to wait for a save would be to wait forever.
        if store is not None and (jax.process_count() == 1 or sys.exception() is None):
            store.close()
    sizes = training.sizes(state, many)
    results = []
    for r, (file, folder) in enumerate(zip(files, folders, strict=True)):
        # Only the first process has the lines of a run that was already complete.
        last = next((row for row in reversed(file.rows) if "loss" in row), {})
        final = {f"train/{k}": float(last.get(k, "nan")) for k in ("loss", "accuracy")}
        final |= {k: float(v[r] if np.ndim(v) else v) for k, v in finals.items()} | sizes
        if folder is not None and lead:
            runs.draw_curves(file.rows, folder / "curves.png", str(folder))
        results.append(Result(final, file.rows))
    return results


SHOWN = ("loss", "accuracy", "valid/accuracy")


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> int:
    """Trains what the flags say, and prints how it did and where it is left."""
    stop = launch.preemption()
    points = sweep.configs(config, flags.FLAGS.sweep)
    for name, point in points[1:]:  # The first stops before anything runs by itself.
        try:
            jax.eval_shape(partial(training.start, training.job_of(point, data_dir), [point]))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    for name, point in points:
        folder = workdir / name.replace(", ", ",").replace("/", "_") if name else workdir
        configs = []
        for i in range(flags.FLAGS.seeds):
            configs.append(point.copy_and_resolve_references())
            configs[-1].seed = point.seed + i
        try:
            results = run_population(configs, folder, data_dir, stop=stop)
        except launch.Preempted as stopped:
            return launch.stopped(stopped.step, folder)
        if jax.process_index() == 0:
            if flags.FLAGS.tensorboard:
                for i, result in enumerate(results):
                    run_folder = folder if len(results) == 1 else folder / f"run_{i}"
                    runs.write_events(result.history, run_folder)
            print(runs.summary([r.final for r in results]))
            print(f"config, metrics, checkpoints and curves: {folder}")
    return 0


if __name__ == "__main__":
    flags.DEFINE_integer(
        "seeds", 1, "Trains this many seeds, config.seed first, as one population.", lower_bound=1
    )
    flags.DEFINE_string(
        "sweep",
        "",
        "Trains each point of an expression of sweep.py: 'optimizer.name=[adamw, lion]'.",
    )
    flags.DEFINE_bool("tensorboard", False, "Also writes TensorBoard events.")
    launch.launch(main, "configs/digits.py", "seeds", "sweep")
