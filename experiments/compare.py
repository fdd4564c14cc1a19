"""Which optimizer should I take? A fair comparison on small workloads, scored as AlgoPerf does.

  python -m experiments.compare --list
  python -m experiments.compare --smoke
  python -m experiments.compare --optimizers="AdamW, lion, mine.py:my_optimizer" --data_dir=DATA

Every method gets three studies of five settings of its space, on the same seeds, the same steps and
the same warm-up, and is timed until it reaches a target that tuned baselines set beforehand.
Finished runs are kept in OUT_DIR/cache: the same command goes on where it stopped. Several
processes: ``--shard=1/2`` and ``--shard=2/2`` with one ``--out_dir``; then the command without it.

  python -m experiments.compare --model=mymodel.py --budget=10m

The same methods on a model of one's own, by successive halving; ``examples/`` has files to begin
with. The page says which to take, how sure that is, and the line of code.
"""

import itertools
import json
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging

from experiments import reproduce
from experiments.common import files, launch, provenance
from experiments.comparing import (
    halving,
    methods,
    own_model,
    page,
    targets,
    training,
    verdict,
    workloads,
)
from experiments.tables import cache, definition, execution
from optim import _checks

__all__ = ["changed_problems", "compare", "compare_on_model", "plan"]

STUDIES, TRIALS = 3, 5
SMOKE_METHODS = "AdamW, SGDM, Lion, schedule-free AdamW"


def plan(
    compared: Sequence[methods.Method],
    names: Sequence[str],
    data_dir: str | None,
    *,
    studies: int = STUDIES,
    trials: int = TRIALS,
) -> list[definition.Run]:
    """Returns the runs: methods x workloads x studies x trials, seeds paired over the methods.

    Raises:
      ValueError: A workload has no target or another one's, or a method cannot make a step on it.
    """
    frozen, runs = targets.read(), []
    for name in names:
        workload = workloads.build(name, data_dir)
        version = workloads.fingerprint(workload)
        targets.check(name, version, frozen)
        for method in compared:
            training.check(name, data_dir, method)
            steps = workload.budget * 3 // 2 if method.self_tuning else workload.budget
            for study in range(studies):
                for trial, setting in enumerate(methods.trials(method, study, trials)):
                    seed = study + 1  # Of all trials, which then can share their batches.
                    config = training.config_of(name, version, method, setting, seed, steps)
                    point = {"study": study, "trial": trial, **setting}
                    digest = cache.digest("compare", config)
                    runs.append(definition.Run(method.name, name, point, seed, config, digest))
    return runs


def compare(
    compared: Sequence[methods.Method],
    names: Sequence[str],
    out_dir: Path,
    *,
    data_dir: str | None = None,
    studies: int = STUDIES,
    trials: int = TRIALS,
    shard: tuple[int, int] = (1, 1),
    command: str = "python -m experiments.compare",
    say: Callable[[str], None] = print,
) -> dict[str, Any] | None:
    """Makes the runs that are missing, and writes the page once all are there.

    Args:
      compared: From :func:`methods.find`.
      names: Workloads.
      out_dir: Folder for ``cache/`` and the page; shared by the shards.
      data_dir: Folder of the data sets.
      studies: How often each method is tuned anew.
      trials: Settings in each study.
      shard: ``(i, n)``: make the i-th of n parts, counted from 1.
      command: Stands on the page.
      say: Prints a line.

    Returns:
      The content of the JSON file, or ``None`` if runs of other shards are missing.
    """
    runs = plan(compared, names, data_dir, studies=studies, trials=trials)
    own = provenance.own_code(
        *(Path(m.optimizer.rpartition(":")[0]).expanduser() for m in compared if m.is_file)
    )
    folder = out_dir / "cache"
    known = execution.finished(execution.load(folder, runs, own, say))
    i, n = shard
    places = list(dict.fromkeys((r.row, r.column) for r in runs))[i - 1 :: n]
    mine = [r for r in runs if (r.row, r.column) in places]
    todo = sum(r.digest not in known for r in mine)
    say(
        f"{len(runs)} runs = {len(compared)} methods x {len(names)} workloads x {studies} studies "
        f"x {trials} trials (one for methods that claim to need no tuning); {todo} to make"
    )

    def pack_of(run):
        study = run.row, run.column, run.point["study"]
        together = workloads.build(run.column, data_dir).side_by_side
        return study if together else (*study, run.point["trial"])

    with execution.progress("compare", todo) as bar:
        # The trials of a study are one population. Packs depend on the plan alone.
        packs = [list(pack) for _, pack in itertools.groupby(mine, pack_of)]
        execution.make(training, packs, folder, known, own, bar, data_dir=data_dir, metric="best")
    known = execution.load(folder, runs, own, say)
    missing = sum(r.digest not in known for r in runs)
    if missing:
        say(f"{missing} runs of other shards are missing; the command without --shard ends it")
        return None
    changed = changed_problems(compared, names, runs, known, data_dir)
    elsewhere = execution.load(folder, changed, own, say)
    done = execution.finished(elsewhere)
    todo = sum(r.digest not in done for r in changed)
    with execution.progress("variants", todo) as bar:
        packs = [[run] for run in changed]
        execution.make(training, packs, folder, done, own, bar, data_dir=data_dir, metric="best")
    results = page.results(
        compared,
        names,
        runs,
        known,
        changed=(changed, execution.load(folder, changed, own, say)),
        targets=targets.read(),
        clock=_clock(compared, names, out_dir, data_dir),
        oracles=_oracles(names, out_dir, data_dir),
        state=_state_bytes(compared, names, data_dir),
        prediction=methods.prediction(),
        command=command,
    )
    for path in page.write(results, out_dir):
        say(f"wrote {path}")
    return results


def changed_problems(
    compared: Sequence[methods.Method],
    names: Sequence[str],
    runs: Sequence[definition.Run],
    known: execution.Records,
    data_dir: str | None,
) -> list[definition.Run]:
    """Returns the runs of the variants: of each study the best setting, with the same seed."""
    found = []
    for name in names:
        if name not in workloads.VARIANTS:
            continue
        variant = workloads.VARIANTS[name]
        version = workloads.fingerprint(workloads.build(variant, data_dir))
        for method in compared:
            own = [r for r in runs if (r.row, r.column) == (method.name, name)]
            for _, study in itertools.groupby(own, lambda r: r.point["study"]):
                best = min(study, key=lambda r: known[r.digest]["final"].get("best", math.inf))
                setting = {k: best.point[k] for k in best.point if k not in ("study", "trial")}
                config = training.config_of(
                    variant, version, method, setting, best.seed, best.config.steps
                )
                digest = cache.digest("compare", config)
                run = definition.Run(method.name, variant, best.point, best.seed, config, digest)
                found.append(run)
    return found


def compare_on_model(
    path: str,
    compared: Sequence[methods.Method],
    budget: halving.Budget,
    out_dir: Path,
    *,
    command: str = "python -m experiments.compare",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Compares methods on a model of one's own and writes the verdict.

    Args:
      path: File of the model; see :func:`own_model.build`.
      compared: From :func:`methods.find`.
      budget: From :func:`halving.parse_budget`.
      out_dir: Folder for ``cache/`` and the page.
      command: Stands on the page.
      say: Prints a line.

    Returns:
      The content of the JSON file.
    """
    found = halving.search(path, compared, budget, out_dir, say=say)
    final = [m for m in compared if m.name in verdict.finals(found)]
    params, _ = jax.eval_shape(own_model.build(path).init, jax.random.key(0))
    clock = out_dir / "cache" / "clock.json"
    known = files.read_json(clock) if clock.exists() else {}
    if not {m.name for m in final} <= known.keys():
        known = training.step_seconds(path, None, final, steps=20)
        files.write(clock, json.dumps(known, indent=1) + "\n")
    content = {
        **found,
        "state": {m.name: methods.state_bytes(m, params) for m in compared},
        "clock": {m.name: known[m.name] for m in final},
        "command": command,
    }
    for written in verdict.write(content, out_dir):
        say(f"wrote {written}")
    return content


def _clock(compared, names, out_dir, data_dir) -> dict[str, dict[str, float]]:
    """Seconds of a step by workload and method, measured in turns once all runs are there."""
    path = out_dir / "cache" / "clock.json"
    known = files.read_json(path) if path.exists() else {}
    wanted = {m.name for m in compared}
    for name in names:
        if not wanted <= known.get(name, {}).keys():  # All anew: a turn has all of them.
            known[name] = training.step_seconds(name, data_dir, list(compared))
            files.write(path, json.dumps(known, indent=1) + "\n")
    return {name: {m: known[name][m] for m in wanted} for name in names}


def _oracles(names, out_dir, data_dir) -> dict[str, dict[str, float]]:
    """What an evaluation costs on each workload, in forward passes, measured once."""
    path = out_dir / "cache" / "oracles.json"
    known = files.read_json(path) if path.exists() else {}
    for name in names:
        if name not in known:
            known[name] = training.oracle_costs(name, data_dir)
            files.write(path, json.dumps(known, indent=1) + "\n")
    return {name: known[name] for name in names}


def _state_bytes(compared, names, data_dir) -> dict[str, dict[str, float]]:
    shapes = {
        name: jax.eval_shape(workloads.build(name, data_dir).init, jax.random.key(0))[0]
        for name in names
    }
    return {
        name: {m.name: methods.state_bytes(m, params) for m in compared}
        for name, params in shapes.items()
    }


def listing() -> str:
    """Returns the workloads and the methods, a line for each."""
    frozen = targets.read()
    lines = ["workloads:"]
    for name in workloads.NAMES:
        target = f"target {frozen[name]['target']:.4g}" if name in frozen else "no target yet"
        data = ", needs --data_dir" if workloads.needs_data(name) else ""
        lines.append(f"  {name}: {workloads.about(name)} ({target}{data})")
    for title, more in (("methods:", False), ("methods that are compared where named:", True)):
        lines.append(title)
        for method in methods.declared_methods(more):
            tuned = ", ".join(method.space) or "nothing"
            lines.append(f"  {method.name}: {method.optimizer}, tunes {tuned}")
    return "\n".join([*lines, "  and any optimizer of experiments.train, or FILE.py:FUNCTION"])


def define_flags() -> None:
    """Defines the flags of this main."""
    flags.DEFINE_bool("list", False, "Show the workloads and the methods.")
    flags.DEFINE_bool("smoke", False, "Two workloads, one study, few methods: minutes.")
    flags.DEFINE_string("workloads", None, "Names between commas; default: all there is data for.")
    flags.DEFINE_string(
        "optimizers",
        None,
        "Methods between commas: of --list, optimizers of experiments.train, FILE.py:FUNCTION.",
    )
    flags.DEFINE_integer("studies", None, "How often each method is tuned anew.", lower_bound=1)
    flags.DEFINE_bool("set_targets", False, "Tune the baselines and freeze what they reach.")
    flags.DEFINE_bool("render", False, "Write the page again from its JSON; run nothing.")
    flags.DEFINE_string("shard", "1/1", "i/n: make the i-th of n parts, counted from 1.")
    flags.DEFINE_string("model", None, "File of a model of one's own, in place of the workloads.")
    flags.DEFINE_string("budget", "10m", "What --model may cost: a time, or a number of gradients.")
    flags.DEFINE_string("data_dir", None, "Folder of real data; without it six workloads remain.")
    flags.DEFINE_string(
        "out_dir",
        None,
        "Folder of finished runs and of the page; default runs/compare, or runs/compare_MODEL.",
    )


def main() -> int:
    """Does what the flags say."""
    logging.set_verbosity(logging.WARNING)
    launch.use_compilation_cache()
    flag = flags.FLAGS
    if flag.list:
        print(listing())
        return 0
    own = flag.model and Path(flag.model).expanduser()
    out_dir = Path(flag.out_dir or ("runs/compare" if not own else f"runs/compare_{own.stem}"))
    out_dir = out_dir.expanduser()
    words = [word for word in sys.argv[1:] if not word.startswith(("--out_dir", "--shard"))]
    command = f"python -m experiments.compare {shlex.join(words)}".strip()
    if own:
        chosen = methods.find(flag.optimizers)
        budget = halving.parse_budget(flag.budget)
        content = compare_on_model(str(own), chosen, budget, out_dir, command=command)
        print(f"\n{verdict.markdown(content)}")
        return 0
    if flag.render:
        for path in page.write(page.read(out_dir), out_dir):
            print(f"wrote {path}")
        return 0
    names = [n.strip() for n in (flag.workloads or "").split(",") if n.strip()]
    for name in names:
        _checks.choice("workload", name, workloads.NAMES)
    if not names:
        names = [n for n in workloads.NAMES if flag.data_dir or not workloads.needs_data(n)]
        names = list(workloads.SMOKE) if flag.smoke else names
        if not flag.set_targets:
            without = [n for n in names if n not in targets.read()]
            if without:
                print(f"left out, as they have no target yet: {', '.join(without)}")
            names = [n for n in names if n not in without]
    if flag.set_targets:
        for name, target in targets.set_targets(names, out_dir, flag.data_dir).items():
            print(f"{name}: {target['metric']} {target['target']:.4g} by {target['baseline']}")
        return 0
    compared = methods.find(flag.optimizers or (SMOKE_METHODS if flag.smoke else None))
    results = compare(
        compared,
        names,
        out_dir,
        data_dir=flag.data_dir,
        studies=flag.studies or (1 if flag.smoke else STUDIES),
        shard=reproduce.parse_shard(flag.shard),
        command=command,
    )
    if results is not None:
        print(f"\n{page.markdown(results)}")
    return 0


if __name__ == "__main__":
    define_flags()
    sys.exit(launch.guard(lambda: app.run(lambda _: sys.exit(launch.guard(main)))))
