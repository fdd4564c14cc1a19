"""Supervised training of any model, data set, optimizer and schedule by name.

python -m experiments.train --config=configs/digits.py --config.optimizer.name=lion
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

import optim
from experiments.common import config_files, launch, runs
from experiments.common.runs import Result
from experiments.supervised import curves, training
from experiments.tables import sweep


def shared_part(config: ConfigDict) -> str:
    """Returns the part of a config that all runs of one population have in common."""
    return config_files.text(config, without=training.OWN)


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
        ``launch.Preempted`` raised.

    Returns:
      A :class:`Result` for each config. Of a run that diverged the metrics are NaN, unless it is
      the only one left: then ``optim.loop.NonFiniteError`` is raised.
    """
    config, many = configs[0], len(configs)
    if len({shared_part(c) for c in configs}) > 1:
        raise ValueError(
            "the configs of a population may differ in seed, optimizer.learning_rate and "
            "optimizer.weight_decay only"
        )
    workdir = None if workdir is None else Path(workdir)

    # What is trained.
    job = training.job_of(config, data_dir)
    state, key = training.start(job, configs)
    batches, vmap = training.feeds(job, configs, state)
    mesh = optim.parallel.data_mesh() if jax.device_count() > 1 else None

    with (
        runs.claimed(workdir, configs, "train") as folders,
        runs.Run(
            folders,
            None if workdir is None else workdir / "checkpoints",
            steps=job.steps,
            log_every=config.log_every,
            label=f"{config.data.name} {config.model.name}",
            shown=("loss", "accuracy", "valid/accuracy"),
            per_step={"examples": config.batch_size},
            keep=config.keep,
            best="valid/accuracy",
            quiet=quiet,
            stop=stop,
        ) as run,
    ):

        def validate(step, state):
            if "valid" in job.splits:
                means = job.evaluate(state, "valid", mesh, vmap)
                run.log(step, {f"valid/{k}": v for k, v in means.items()})

        # Training, from the newest checkpoint if there is one.
        eval_every = config.eval_every or job.epoch
        state = run.restore(state)
        state = optim.loop.run(
            job.step,
            state,
            batches,
            job.steps,
            key=key,
            data=job.resident,
            prepare=job.prepare,
            start=run.start,
            mesh=mesh,
            steps_per_call=config.log_every,
            replicas=many if many > 1 else None,
            vmap=vmap if many > 1 else None,
            on_metrics=run.log_mean,
            hooks=[(eval_every, validate), (config.save_every or eval_every, run.save)],
            stop=run.stop,
        )
        run.finish(state)

        # Results.
        scores = {
            f"{split}/{k}": v
            for split in job.splits
            for k, v in job.evaluate(state, split, mesh, vmap).items()
        }
        sizes = training.sizes(state, many)
        results = []
        for r, (file, folder) in enumerate(zip(run.files, folders, strict=True)):
            # Only the first process has the lines of a run that was already complete.
            last = next((row for row in reversed(file.rows) if "loss" in row), {})
            final = {f"train/{k}": float(last.get(k, "nan")) for k in ("loss", "accuracy")}
            final |= {k: float(v[r] if np.ndim(v) else v) for k, v in scores.items()} | sizes
            if folder is not None and jax.process_index() == 0:
                curves.draw_curves(file.rows, folder / "curves.png", str(folder))
            results.append(Result(final, file.rows))
    return results


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> int:
    """Trains what the flags say, and prints how it did and where it is left."""
    stop = launch.preemption()
    points = sweep.configs(config, flags.FLAGS.sweep)
    for name, point in points[1:]:  # The first stops before anything runs by itself.
        try:
            training.job_of(point, data_dir)
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
                    curves.write_events(result.history, run_folder)
            print(curves.summary([r.final for r in results]))
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
