"""Supervised training of any model, data set, optimizer and schedule by name.

python -m experiments.train --config=configs/digits.py --config.optimizer.name=lion
python -m experiments.train --config=configs/tinyshakespeare_llama.py --data_dir=DATA --plan=8,64
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

import optim
from experiments.common import config_files, devices, files, launch, markdown, runs
from experiments.common.runs import Result
from experiments.supervised import curves, optimizers, plan, training
from experiments.tables import sweep
from optim import _checks


def shared_part(config: ConfigDict) -> str:
    """Returns the part of a config that all runs of one population have in common."""
    return config_files.text(config, without=training.OWN)


def check(config: ConfigDict, data_dir: str | None = None) -> None:
    """Raises ``ValueError`` if no run of ``config`` can be made; nothing is trained.

    A step is traced, so that options, shapes and the data are known to fit.
    """
    optimizers.check_rates(config.optimizer)
    training.job_of(config, data_dir)


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
    sharding: str = "replicated",
    convolutions: str = "default",
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
      sharding: Where the state of a run on several devices is: ``"replicated"``, whole on each, or
        ``"fsdp"``, split by :func:`optim.parallel.shard`. It changes no result beyond rounding, and
        a checkpoint of one is restored by the other, on any number of devices.
      convolutions: ``"xla"`` is the faster way of a CPU, see :func:`optim.loop.compiler_options`.

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
    _checks.choice("convolutions", convolutions, optim.loop.CONVOLUTIONS)
    if sharding == "fsdp" and many > 1:
        raise ValueError("sharding=fsdp splits one run; those of a population are split already")
    workdir = runs.folder_of(workdir)

    # What is trained.
    job = training.job_of(config, data_dir)
    mesh = devices.mesh()
    state, key = training.start(job, configs, mesh, sharding)
    batches, vmap = training.feeds(job, configs, state)
    if vmap:
        devices.check_divides("the number of runs", many)
    else:
        devices.check_divides("batch_size", config.batch_size)

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
            convolutions=convolutions,
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
        if not any("test/loss" in row for row in run.files[0].rows):
            run.log(job.steps, {k: v for k, v in scores.items() if k.startswith("test/")})
        sizes = training.sizes(state, many)
        results = []
        for r, (file, folder) in enumerate(zip(run.files, folders, strict=True)):
            # Only the first process has the lines of a run that was already complete.
            last = next((row for row in reversed(file.rows) if "loss" in row), {})
            final = {f"train/{k}": float(last.get(k, "nan")) for k in ("loss", "accuracy")}
            final |= {k: float(v[r] if np.ndim(v) else v) for k, v in scores.items()} | sizes
            results.append(Result(final, file.rows))
            runs.leave_result(folder, [final])
            if folder is not None and jax.process_index() == 0:
                curves.draw_curves(file.rows, folder / "curves.png", str(folder))
        if many > 1:
            runs.leave_result(workdir, [result.final for result in results])
    return results


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> int:
    """Trains what the flags say, and prints how it did and where it is left."""
    if flags.FLAGS.plan:
        print(plan.markdown_of(config, data_dir, plan.parse_devices(flags.FLAGS.plan)))
        return 0
    stop = launch.preemption()
    points = sweep.configs(config, flags.FLAGS.sweep)
    for name, point in points[1:]:  # The first stops before anything runs by itself.
        try:
            check(point, data_dir)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    folders = _folder_names(sweep.parse(flags.FLAGS.sweep))
    rows = []
    for (name, point), short in zip(points, folders, strict=True):
        folder = workdir / short
        configs = []
        for i in range(flags.FLAGS.seeds):
            configs.append(point.copy_and_resolve_references())
            configs[-1].seed = point.seed + i
        try:
            results = run_population(
                configs,
                folder,
                data_dir,
                stop=stop,
                sharding=flags.FLAGS.sharding,
                convolutions=flags.FLAGS.convolutions,
            )
        except launch.Preempted as stopped:
            return launch.stopped(stopped.step, folder)
        except optim.loop.NonFiniteError as error:
            if len(points) == 1:
                raise
            results = []  # The other points of the sweep go on.
            print(f"{name}: {error}")
        rows.append((name, short, [result.final for result in results]))
        if jax.process_index() == 0:
            if flags.FLAGS.tensorboard:
                for i, result in enumerate(results):
                    run_folder = folder if len(results) == 1 else folder / f"run_{i}"
                    curves.write_events(result.history, run_folder)
            if flags.FLAGS.sweep:
                files.write(workdir / "sweep.md", _sweep_table(rows))
            if results:
                print(curves.summary(rows[-1][2]))
            print(f"config, metrics, result, checkpoints and curves: {folder}")
    if flags.FLAGS.sweep and jax.process_index() == 0:
        print(f"table of the sweep: {workdir / 'sweep.md'}")
    return 0


def _folder_names(points: Sequence[sweep.Point]) -> list[str]:
    """Names of the points' folders: the keys that differ, cut to what a folder may be called.

    A name that is not the whole text of its point ends with a hash of it.
    """
    first, many = points[0], len(points) > 1
    same = {k for k in first if many and all(repr(p.get(k)) == repr(first[k]) for p in points)}
    names = []
    for point in points:
        text = sweep.text({k: v for k, v in point.items() if k not in same}).replace(", ", ",")
        name = re.sub(r"[^\w.,=()+-]", "_", text)
        if len(name) > 80 or name != text:
            name = f"{name[:70]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        names.append(name)
    return names


def _sweep_table(rows: Sequence[tuple[str, str, Sequence[dict[str, float]]]]) -> str:
    """The Markdown of a sweep: a line per point, mean ± std over its seeds."""
    keys = [k for k in _first(rows) if k.startswith(("valid/", "test/"))]
    table, seeds = [], max(len(finals) for _, _, finals in rows)
    for name, folder, finals in rows:
        cells = ["diverged"] * len(keys)
        if finals:
            values = {k: [final[k] for final in finals] for k in keys}
            cells = [f"{np.mean(v):.4g}" for v in values.values()]
            if seeds > 1:
                spread = [f" ± {np.std(v, ddof=1):.4g}" for v in values.values()]
                cells = [cell + more for cell, more in zip(cells, spread, strict=True)]
        table.append([name, *cells, folder])
    lines = markdown.table(["point", *keys, "folder"], table, "l" + "r" * len(keys))
    means = f"Mean ± standard deviation of {seeds} seeds." if seeds > 1 else "One seed per point."
    return "\n".join([*lines, "", means]) + "\n"


def _first(rows) -> dict[str, float]:
    """The numbers of the first run that has some."""
    return next((final for _, _, finals in rows for final in finals), {})


if __name__ == "__main__":
    flags.DEFINE_integer(
        "seeds", 1, "Trains this many seeds, config.seed first, as one population.", lower_bound=1
    )
    flags.DEFINE_string(
        "sweep",
        "",
        "Trains each point of an expression of sweep.py: 'optimizer.name=[adamw, lion]'.",
    )
    devices.define_flag()
    flags.DEFINE_enum(
        "convolutions",
        "default",
        optim.loop.CONVOLUTIONS,
        "xla: on a CPU, about twice as fast for batches of images, with other rounding.",
    )
    flags.DEFINE_string(
        "plan",
        "",
        "Trains nothing: prints the bytes on each of 8,64,256 devices, split over them.",
    )
    flags.DEFINE_bool("tensorboard", False, "Also writes TensorBoard events.")
    launch.launch(main, "configs/digits.py", "seeds", "sweep")
