"""Prunes a model: dense training, a pruning method, what it costs and what it leaves.

python -m experiments.prune --config=configs/pruning/digits.py --config.prune.method=bip
"""

import collections
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict

import bilevel
import optim
from experiments import data, models
from experiments.common import devices, files, launch, runs
from experiments.common.runs import Result
from experiments.pruning import methods, pictures, saved_model
from experiments.pruning.methods import Job, Stage
from experiments.supervised import training


class Memo:
    """Last states of stages, for runs that share some, up to a number of bytes.

    Methods share their dense training, and IMP to a tenth its rounds with IMP to a fiftieth. The
    states used last are kept.

    Args:
      limit: Most bytes of states in memory; 0 keeps none.
    """

    def __init__(self, limit: int = 2 * 10**9):
        self.limit, self.nbytes = limit, 0
        self.compiled: set[Any] = set()  # What need not run once before its time is taken.
        self._states: collections.OrderedDict[tuple[str, ...], tuple[Any, dict[str, float]]]
        self._states = collections.OrderedDict()

    def get(self, chain: tuple[str, ...]) -> tuple[Any, dict[str, float]] | None:
        """Returns a copy of the state after the stages of ``chain``, and the last one's cost."""
        if chain not in self._states:
            return None
        self._states.move_to_end(chain)
        state, cost = self._states[chain]
        return jax.tree.map(np.copy, state), cost

    def put(self, chain: tuple[str, ...], state: Any, cost: dict[str, float]) -> None:
        """Keeps a state, and forgets those that were used longest ago."""
        state = jax.tree.map(np.array, state)
        size = _nbytes(state)
        if size > self.limit or chain in self._states:
            return
        self._states[chain], self.nbytes = (state, cost), self.nbytes + size
        while self.nbytes > self.limit:
            _, (oldest, _) = self._states.popitem(last=False)
            self.nbytes -= _nbytes(oldest)


def _nbytes(state: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(state))


def check(config: ConfigDict, data_dir: str | None = None) -> None:
    """Raises ``ValueError`` if no run of ``config`` can be made; nothing is trained."""
    methods.check(methods.job_of(config, data_dir), config)


def run(
    config: ConfigDict,
    workdir: str | Path | None = None,
    data_dir: str | None = None,
    *,
    quiet: bool = False,
    stop: Callable[[int], bool] | None = None,
    memo: Memo | None = None,
    sharding: str = "replicated",
) -> Result:
    """Trains, prunes and evaluates one model, and resumes what ``workdir`` holds.

    Args:
      config: See ``configs/pruning/common.py``.
      workdir: Where metrics, checkpoints, the pruned model and its report go; ``None`` leaves
        nothing.
      data_dir: Folder of the data sets.
      quiet: No progress line.
      stop: ``stop(step)``, polled between device calls; once true the state is saved and
        ``launch.Preempted`` raised.
      memo: What this run shares with others of the process; it is used without a ``workdir``.
      sharding: As of ``experiments.train``: where parameters, scores and the states of their
        optimizers are on several devices.

    Returns:
      Final numbers and history. ``test/accuracy`` is of the pruned model; ``seconds`` (of the
      processor, all cores added, without compilation) and ``gradients`` (gradient evaluations) are
      those after dense training; methods that prune at the start train once and count that. Where
      gradients are estimated ``forward_passes`` counts what they took.
    """
    if jax.process_count() > 1:
        raise ValueError(
            "experiments.prune runs in one process, on all its devices, got "
            f"--num_processes={jax.process_count()}"
        )
    folder = runs.folder_of(workdir)
    job = methods.job_of(config, data_dir)
    dataset, evaluate = methods.data_of(config, data_dir)
    state, stages = methods.plan(job, config, dataset)
    devices.check_divides("batch_size", config.batch_size)
    mesh = devices.mesh()
    state = devices.placed(state, mesh, sharding)
    memo = Memo(0) if memo is None else memo

    def train(stage, state, *others):
        state = devices.placed(stage.enter(state), mesh, sharding)
        return _train(job, stage, state, config, dataset, mesh, stop, memo.compiled, *others)

    with runs.claimed(folder, [config], "prune"):
        return _prune(
            job, dataset, evaluate, state, stages, config, folder, data_dir, quiet, memo, train
        )


def _prune(
    job, dataset, evaluate, state, stages, config, folder, data_dir, quiet, memo, train
) -> Result:
    """Runs the stages and writes what they leave."""
    rows, costs = [], []
    chain = (methods.identity(config, data_dir),)
    total, before = sum(s.steps - s.start for s in stages), 0
    label = f"{config.data.name} {config.prune.method}"
    dense = None
    with runs.progress(total, 0, label, quiet) as bar:
        for i, stage in enumerate(stages):
            chain = (*chain, stage.key)
            found = memo.get(chain) if folder is None else None
            if found is not None:
                state, cost = found
            else:
                place = None if folder is None else folder / "stages" / f"{i:02d}"
                state, cost = train(stage, state, place, bar, before)
                if folder is None:
                    memo.put(chain, state, cost)
            before += stage.steps - stage.start
            bar.update(before - bar.n)
            costs.append(cost)
            (params, masks), stats = stage.solver.export(state), state.stats
            numbers = _numbers(evaluate, params, stats)
            if not stage.method:
                dense = numbers
            density = stage.stored or float(bilevel.masks.density(masks))
            rows.append({"step": before, "stage": i, "density": density, **numbers, **cost})
    after = [c for c, s in zip(costs, stages, strict=True) if s.method]
    spent = {k: sum(c[k] for c in after) for k in costs[0]}
    final = {**numbers, "density": density, **spent}
    final["all_seconds"] = sum(c["seconds"] for c in costs)
    if dense is not None:
        final["dense/accuracy"] = dense["test/accuracy"]
    report = bilevel.sparsity_report(
        params, masks, positions=_positions(job, dataset, params, stats)
    )
    final |= {f"density/{r.path}": r.density for r in report.layers if r.prunable}
    small = None
    if config.prune.method == "bip" and config.prune.structure in ("filter", "channel"):
        links = saved_model.chains(config.model.name, params, stats)
        if links:
            arrays: Any = dataset.test
            x = data.prepare(dataset)(arrays, np.arange(64), None)["x"]
            small = saved_model.smaller(job.model, params, stats, masks, links, x)
            final["small/accuracy"] = _numbers(evaluate, *small)["test/accuracy"]
            final["small/parameters"] = models.count(small[0]) / models.count(params)
    if folder is not None and jax.process_index() == 0:
        saved_model.save(folder, params, stats, masks, report, methods.structure_of(config.prune))
        runs.leave_result(folder, [final])
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        files.write(folder / "metrics.jsonl", lines)
        pictures.layers({folder.name: report}, folder / "layers.png")
        if small is not None:
            saved_model.save_smaller(folder / "small.npz", *small)
    return Result({k: float(v) for k, v in final.items()}, rows)


def _train(
    job: Job,
    stage: Stage,
    state: Any,
    config: ConfigDict,
    dataset: Any,
    mesh: Mesh | None,
    stop: Callable[[int], bool] | None,
    compiled: set[Any],
    place: Path | None,
    bar: Any,
    before: int,
) -> tuple[Any, dict[str, float]]:
    """Runs one stage, from its last checkpoint if there is one."""
    prepare = job.prepare_pair if stage.solver.batch == "pair" else job.prepare

    def loop(state, steps, start, **options):
        return optim.loop.run(
            stage.solver.step,
            state,
            stage.batches,
            steps,
            key=jax.random.key(config.seed),
            data=dataset.train,
            prepare=prepare,
            start=start,
            mesh=mesh,
            steps_per_call=config.log_every,
            **options,
        )

    with runs.Run(
        [],
        place,
        steps=stage.steps,
        keep=config.keep,
        stop=stop,
        bar=bar,
        before=before - stage.start,
    ) as run:
        state, spent = run.restore((state, jax.numpy.float32(0.0)), stage.start)
        if run.start < stage.steps and (stage.solver.step, prepare, mesh) not in compiled:
            few = min(stage.steps, run.start + config.log_every)
            loop(jax.tree.map(jax.numpy.copy, state), few, run.start)
            compiled.add((stage.solver.step, prepare, mesh))
        clock = time.process_time()

        def timed(state):
            return state, jax.numpy.float32(spent + time.process_time() - clock)

        def save(step, state):
            run.save(step, timed(state))

        def show(first, values):
            run.advance(first + len(values["density"]))

        hooks = [] if place is None else [(config.save_every or job.epoch, save)]
        state = loop(state, stage.steps, run.start, hooks=hooks, on_metrics=show, stop=run.stop)
        jax.block_until_ready(state)
        _, seconds = timed(state)
        run.finish((state, seconds))
        save(stage.steps, state)
    gradients = stage.solver.gradients.total * (stage.steps - stage.start)
    cost = {"seconds": float(seconds), "gradients": float(gradients)}
    if job.passes is not None:
        cost["forward_passes"] = float(job.passes * gradients)
    return state, cost


def _positions(job: Job, dataset: Any, params: Any, stats: Any) -> dict[str, int]:
    """Returns at how many positions of an example each kernel is applied."""

    def forward(params, x):
        return job.model.apply(params, stats, x, train=False)

    x = jax.ShapeDtypeStruct((1, *dataset.input_shape), np.float32)
    return bilevel.pruning.output_positions(forward, params, x)


def _numbers(evaluate, params, stats) -> dict[str, float]:
    state = training.TrainState(jax.numpy.int32(0), params, stats, None)
    return {f"test/{k}": float(v) for k, v in evaluate(state, "test").items()}


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> int:
    """Prunes what the flags say, and prints how it did and where it is left."""
    complete = (workdir / "result.json").exists()
    try:
        stop, how = launch.preemption(), flags.FLAGS.sharding
        result = run(config, workdir, data_dir, stop=stop, sharding=how)
    except launch.Preempted as stopped:
        return launch.stopped(stopped.step, workdir)
    if jax.process_index() == 0:
        final = result.final
        if complete:
            print(f"already complete: {workdir}")
        print((workdir / "report.txt").read_text(encoding="utf-8"))
        if "dense/accuracy" in final:
            print(f"dense accuracy   {100 * final['dense/accuracy']:.2f} %")
        print(f"pruned accuracy  {100 * final['test/accuracy']:.2f} %")
        if "small/accuracy" in final:
            share = 100 * final["small/parameters"]
            print(f"smaller model    {100 * final['small/accuracy']:.2f} %, {share:.1f} % as large")
        print(f"kept             {100 * final['density']:.2f} % of the prunable weights")
        passes = ""
        if "forward_passes" in final:
            passes = f" by {final['forward_passes']:.0f} forward passes"
        cost = f"{final['seconds']:.1f} s, {final['gradients']:.0f} gradients{passes}"
        print(f"cost             {cost}")
        print(f"config, checkpoints, pruned model and report: {workdir}")
    return 0


if __name__ == "__main__":
    devices.define_flag()
    launch.launch(main, "configs/pruning/digits.py")
