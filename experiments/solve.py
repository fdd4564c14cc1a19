"""Bilevel problems by any solver, by name: progress, metrics, resumable runs, pictures.

python -m experiments.solve --config=configs/bilevel/cleaning_digits.py:soba
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

import bilevel
import optim
from experiments import problems
from experiments.common import config_files, devices, launch, runs
from experiments.common.runs import Result
from experiments.solving import curves, solvers
from optim import _checks

SHOWN = ("objective", "test/accuracy", "residual")


def check(config: ConfigDict, data_dir: str | None = None) -> None:
    """Raises ``ValueError`` if no run of ``config`` can be made; nothing is solved."""
    with jax.enable_x64(bool(config.x64)):
        _built(config, data_dir)


def run(
    config: ConfigDict,
    workdir: str | Path | None = None,
    data_dir: str | None = None,
    *,
    quiet: bool = False,
    stop: Callable[[int], bool] | None = None,
    sharding: str = "replicated",
) -> Result:
    """Solves one problem, and resumes what ``workdir`` holds.

    Args:
      config: See ``configs/bilevel/common.py``.
      workdir: Where metrics, checkpoints and pictures go; ``None`` leaves nothing.
      data_dir: Folder of the data sets.
      quiet: No progress line.
      stop: ``stop(step)``, polled between device calls; once true the state is saved and
        ``launch.Preempted`` raised.
      sharding: As of ``experiments.train``: where both variables, and all that the solver keeps
        beside them, are on several devices.

    Returns:
      The last evaluation with ``seconds`` (of the solver alone: neither compilation nor
      evaluation), ``gradients`` and ``steps``; and a line for each log point.
    """
    with jax.enable_x64(bool(config.x64)):
        return _run(config, runs.folder_of(workdir), data_dir, quiet, stop, sharding)


def _built(config, data_dir) -> tuple[problems.Task, Any]:
    """The problem of a config and its solver."""
    config_files.check_counts(config, "steps", "log_every", "eval_every", "save_every", "keep")
    _checks.count("batch_size (0: all samples)", config.batch_size, 0)
    task = problems.build(
        config.problem.name, data_dir, seed=config.seed, **dict(config.problem.options)
    )
    options = dict(config.solver.options)
    return task, solvers.build(config.solver.name, options, task, config.batch_size)


def _run(config, workdir, data_dir, quiet, stop, sharding) -> Result:
    task, solver = _built(config, data_dir)
    batches, prepare = solvers.feed(solver, task, config.batch_size, config.seed)
    if task.stats is not None:
        solver = bilevel.with_stats(solver)
        start = partial(solver.init, task.problem, stats=task.stats)
    else:
        start = partial(solver.init, task.problem)
    price = solver.gradients.total
    # Whole sets and single samples are not split; every device computes the same.
    divides = config.batch_size and not config.batch_size % jax.device_count()
    several = sharding == "fsdp" or jax.process_count() > 1
    if several:
        devices.check_divides("batch_size", config.batch_size)
    mesh = devices.mesh() if divides or several else None
    state = devices.started(start, mesh, sharding, task.x0, task.y0)
    data = jax.tree.map(jnp.asarray, task.data)
    evaluated = jax.jit(task.evaluate)

    def measure(state):
        of_model = () if task.stats is None else (state.stats,)
        return jax.device_get(evaluated(data, state.x, state.y, *of_model))

    def loop(state, steps, start, **more):
        return optim.loop.run(
            solver.step,
            state,
            batches,
            steps,
            data=data,
            prepare=prepare,
            start=start,
            mesh=mesh,
            steps_per_call=config.log_every,
            **more,
        )

    with (
        runs.claimed(workdir, [config], "solve") as (folder,),
        runs.Run(
            [folder],
            None if folder is None else folder / "checkpoints",
            steps=config.steps,
            log_every=config.log_every,
            label=f"{config.problem.name} {config.solver.name}",
            shown=SHOWN,
            per_step={"gradients": price},
            keep=config.keep,
            best="objective",
            mode="min",
            quiet=quiet,
            stop=stop,
        ) as run,
    ):
        state = run.restore(state)
        clock = run.clock
        if run.start < config.steps:  # Compiles, so that the clock does not show it.
            with clock.paused():
                jax.block_until_ready(loop(jax.tree.map(jnp.copy, state), run.start + 1, run.start))

        def evaluate(step, state):
            jax.block_until_ready(state)
            with clock.paused():
                scores = measure(state)
                names = {k: k if k == "objective" else f"eval/{k}" for k in scores}
                run.log(step, {names[k]: v for k, v in scores.items()})

        def save(step, state):
            with clock.paused():
                run.save(step, state)

        def stop_here(step):
            over = config.seconds is not None and clock.read() > config.seconds
            return run.stop(step) or over

        every = config.eval_every or config.log_every
        if run.start == 0:
            evaluate(0, state)
        state = loop(
            state,
            config.steps,
            run.start,
            on_metrics=run.log_mean,
            hooks=[(every, evaluate), (config.save_every or every, save)],
            stop=stop_here,
        )
        run.finish(state)
        jax.block_until_ready(state)
        seconds, steps = clock.read(), int(state.count)
        final = {k: float(v) for k, v in measure(state).items()}
        final |= {"seconds": seconds, "gradients": steps * price, "steps": steps}
        rows = run.files[0].rows
        runs.leave_result(folder, [final])
        x, y = devices.whole((state.x, state.y))
        if folder is not None and jax.process_index() == 0:
            groups = None if task.groups is None else task.groups(data, x, y)
            curves.draw(rows, groups, folder / "curves.png", str(folder))
    return Result(final, rows)


def summary(finals: list[dict[str, float]]) -> str:
    """Returns the table at the end: each measure, mean ± std over seeds."""
    lines = []
    for key in finals[0]:
        values = [final[key] for final in finals]
        spread = f" ± {np.std(values, ddof=1):.4g}" if len(values) > 1 else ""
        lines.append(f"{key:24}{np.mean(values):.6g}{spread}")
    return "\n".join(lines)


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> int:
    """Solves what the flags say, and prints how it did and where it is left."""
    finals, many = [], flags.FLAGS.seeds
    stop = launch.preemption()
    for i in range(many):
        own = config.copy_and_resolve_references()
        own.seed = config.seed + i
        folder = workdir if many == 1 else workdir / f"seed_{own.seed}"
        try:
            result = run(own, folder, data_dir, stop=stop, sharding=flags.FLAGS.sharding)
            finals.append(result.final)
        except launch.Preempted as stopped:
            return launch.stopped(stopped.step, folder)
    if many > 1:
        runs.leave_result(workdir, finals)
    if jax.process_index() == 0:
        print(summary(finals))
        print(f"config, metrics, result, checkpoints and curves: {workdir}")
    return 0


if __name__ == "__main__":
    flags.DEFINE_integer("seeds", 1, "Solves it for this many seeds in turn.", lower_bound=1)
    devices.define_flag()
    launch.launch(main, "configs/bilevel/cleaning_digits.py", "seeds")
