"""Bilevel problems by any solver, by name: progress, metrics, resumable runs, pictures.

python -m experiments.solve --config=configs/bilevel/cleaning_digits.py:soba
"""

import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

import optim
from experiments import problems
from experiments.common import checkpoints, launch, runs
from experiments.solving import curves, solvers
from experiments.train import Result
from optim import _checks

SHOWN = ("objective", "test/accuracy", "residual")


def run(
    config: ConfigDict,
    workdir: str | Path | None = None,
    data_dir: str | None = None,
    *,
    quiet: bool = False,
    stop: Callable[[int], bool] | None = None,
) -> Result:
    """Solves one problem, and resumes what ``workdir`` holds.

    Args:
      config: See ``configs/bilevel/common.py``.
      workdir: Where metrics, checkpoints and pictures go; ``None`` leaves nothing.
      data_dir: Folder of the data sets.
      quiet: No progress line.
      stop: ``stop(step)``, polled between device calls; once true the state is saved and
        ``runtime.Preempted`` raised.

    Returns:
      The last evaluation with ``seconds`` (of the solver alone: neither compilation nor
      evaluation), ``gradients`` and ``steps``; and a line for each log point.
    """
    with jax.enable_x64(bool(config.x64)):
        return _run(config, workdir, data_dir, quiet, stop)


def _run(config, workdir, data_dir, quiet, stop) -> Result:
    launch.check_counts(config, "steps", "log_every", "eval_every", "save_every", "keep")
    _checks.count("batch_size (0: all samples)", config.batch_size, 0)
    name, options = config.solver.name, dict(config.solver.options)
    task = problems.build(
        config.problem.name, data_dir, seed=config.seed, **dict(config.problem.options)
    )
    solver = solvers.build(name, options, task, config.batch_size)
    batches, prepare = solvers.feed(name, options, task, config.batch_size, config.seed)
    state = jax.jit(partial(solver.init, task.problem))(task.x0, task.y0)
    price = solvers.gradients_per_step(name, options, task.problem.project_y is not None)
    # Whole sets and single samples are not split; every device computes the same.
    split = (
        jax.device_count() > 1
        and config.batch_size
        and not (config.batch_size % jax.device_count())
    )
    mesh = optim.parallel.data_mesh() if split else None
    data = jax.tree.map(jnp.asarray, task.data)
    measure = jax.jit(task.evaluate)

    lead, folder, store, start = jax.process_index() == 0, None, None, 0
    if workdir is not None:
        folder = Path(workdir)
        runs.claim(folder, config)
        store = checkpoints.Checkpoints(
            folder / "checkpoints", keep=config.keep, best="objective", mode="min"
        )
        state, start = store.restore(state) or (state, 0)
    file = runs.MetricsFile(folder / "metrics.jsonl" if folder and lead else None, start)
    latest: dict[str, float] = {}

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

    if start < config.steps:  # Compiles, so that the clock does not show it.
        jax.block_until_ready(loop(jax.tree.map(jnp.copy, state), start + 1, start))
    elif lead and not quiet:
        print(f"already complete: {workdir}")
    clock = _Clock(file.rows)
    bar = runs.progress(config.steps, start, f"{config.problem.name} {name}", quiet)

    def write(step, values):
        values = {k: float(v) for k, v in values.items()}
        file.write(step=step, **values, seconds=clock.read(), gradients=step * price)
        latest.update(values)
        bar.set_postfix({k: f"{v:.4g}" for k, v in latest.items() if k in SHOWN}, refresh=False)

    def on_metrics(first, values):
        step = first + len(values["upper"])
        bar.update(step - bar.n)
        if step % config.log_every == 0 or step == config.steps:
            write(step, {k: v.mean() for k, v in values.items()})

    def evaluate(step, state):
        jax.block_until_ready(state)
        with clock.paused():
            scores = jax.device_get(measure(data, state.x, state.y))
            write(step, {k if k == "objective" else f"eval/{k}": v for k, v in scores.items()})

    def save(step, state):
        with clock.paused():
            if store is not None:
                store.save(step, state, {"objective": latest["objective"]})

    stopped = []

    def stop_here(step):
        if stop is not None and stop(step):
            stopped.append(step)
        return bool(stopped) or (config.seconds is not None and clock.read() > config.seconds)

    every = config.eval_every or config.log_every
    try:
        if start == 0:
            evaluate(0, state)
        hooks = [(every, evaluate), (config.save_every or every, save)]
        state = loop(state, config.steps, start, on_metrics=on_metrics, hooks=hooks, stop=stop_here)
        if stopped:
            save(stopped[0], state)
            raise launch.Preempted(stopped[0])
        jax.block_until_ready(state)
        final = {k: float(v) for k, v in jax.device_get(measure(data, state.x, state.y)).items()}
        steps = int(state.count)
        final |= {"seconds": clock.read(), "gradients": steps * price, "steps": steps}
    finally:
        bar.close()
        if store is not None:
            store.close()
        file.close()
    if folder is not None and lead:
        groups = None
        if task.groups is not None:
            groups = task.groups(data, *jax.device_get((state.x, state.y)))
        curves.draw(file.rows, groups, folder / "curves.png", str(folder))
    return Result(final, file.rows)


class _Clock:
    """Seconds of the solver, those of a run before a resume included."""

    def __init__(self, rows):
        self._start = time.perf_counter() - max((row["seconds"] for row in rows), default=0.0)
        self._held: float | None = None

    def read(self) -> float:
        now = time.perf_counter() if self._held is None else self._held
        return round(now - self._start, 4)

    @contextlib.contextmanager
    def paused(self):
        self._held = time.perf_counter()
        try:
            yield
        finally:
            self._start += time.perf_counter() - self._held
            self._held = None


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
            finals.append(run(own, folder, data_dir, stop=stop).final)
        except launch.Preempted as stopped:
            return launch.stopped(stopped.step, folder)
    if jax.process_index() == 0:
        print(summary(finals))
        print(f"config, metrics, checkpoints and curves: {workdir}")
    return 0


if __name__ == "__main__":
    flags.DEFINE_integer("seeds", 1, "Solves it for this many seeds in turn.", lower_bound=1)
    launch.launch(main, "configs/bilevel/cleaning_digits.py", "seeds")
