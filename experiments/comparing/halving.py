r"""Successive halving over methods, settings and schedules, for a model of one's own.

A round trains every arm (a method, a setting of its space, a schedule) for a whole run of its
length, schedule included, and the best third goes on:

.. math::
  T_k = T / 3^{2-k}, \qquad n_{k+1} = \lceil n_k / 3 \rceil, \qquad k = 0, 1, 2

Whole short runs rather than the beginnings of long ones: the rate of every arm has come down when
it is judged. The best arm of each of the three best methods always stays. At the end these three
run with seeds that no round has seen, the same for all.
"""

import itertools
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common import files, provenance
from experiments.comparing import methods, own_model, training
from experiments.tables import cache, definition, execution

__all__ = ["FINAL", "Arm", "Budget", "Size", "lengths", "parse_budget", "search", "sizes"]

FACTOR, ROUNDS = 3, 3
FINALISTS, SEEDS, FEWEST_SEEDS = 3, 5, 3
MOST_SETTINGS = 24
FINAL = "final"  # In the place of a round's number: the runs of the finalists.
STEM = "plan"


class Budget(NamedTuple):
    """What a search may cost.

    Attributes:
      amount: Seconds, or gradients.
      clock: Whether it is seconds.
    """

    amount: float
    clock: bool


class Arm(NamedTuple):
    """What is compared.

    Attributes:
      method: Its name.
      setting: Of what is tuned.
      schedule: Of its learning rate.
    """

    method: str
    setting: dict[str, float]
    schedule: str


class Size(NamedTuple):
    """How large a search is.

    Attributes:
      settings: Of each method that is tuned.
      arms: In each round.
      seeds: Of the finalists.
      gradients: In all.
    """

    settings: int
    arms: tuple[int, ...]
    seeds: int
    gradients: int


def parse_budget(text: str) -> Budget:
    """Returns the budget of a text.

    Args:
      text: Seconds, minutes or hours (``"90s"``, ``"10m"``, ``"2h"``), or gradients (``"50000"``).

    Raises:
      ValueError: It is none of these, or not above 0.

    Example:
      >>> parse_budget("10m")
      Budget(amount=600.0, clock=True)
    """
    units = {"s": 1, "m": 60, "h": 3600}
    unit = units.get(text[-1:])
    try:
        amount = float(text[:-1] if unit else text) * (unit or 1)
    except ValueError:
        amount = math.nan
    if not 0 < amount < math.inf:
        raise ValueError(
            f'--budget must be a time such as "10m" or a number of gradients above 0, got {text!r}'
        )
    return Budget(amount, unit is not None)


def lengths(steps: int) -> list[int]:
    """Returns the steps of a run in each round; a model of very few steps has shorter rounds."""
    return [max(1, steps // FACTOR ** (ROUNDS - 1 - k)) for k in range(ROUNDS)]


def sizes(tuned: int, untuned: int, steps: int, gradients: float) -> Size:
    """Returns the largest search that a number of gradients pays for.

    Args:
      tuned: Number of methods with something to tune.
      untuned: Number of the others, which have one setting.
      steps: Of a full run.
      gradients: To spend.

    Raises:
      ValueError: Not even one setting of each method fits.
    """
    kept = min(FINALISTS, tuned + untuned)

    def size(settings, seeds):
        arms = [tuned * settings + untuned]
        while len(arms) < ROUNDS:
            arms.append(min(arms[-1], max(kept, -(-arms[-1] // FACTOR))))
        cost = sum(n * t for n, t in zip(arms, lengths(steps), strict=True)) + kept * seeds * steps
        return Size(settings, tuple(arms), seeds, cost)

    for seeds in (SEEDS, FEWEST_SEEDS):
        fitting = [size(n, seeds) for n in range(1, MOST_SETTINGS + 1)]
        fitting = [s for s in fitting if s.gradients <= gradients]
        if fitting:
            return fitting[-1]
    raise ValueError(
        f"--budget must be at least {size(1, FEWEST_SEEDS).gradients} gradients for "
        f"{tuned + untuned} methods and runs of {steps} steps, got {max(gradients, 0):.0f}: name "
        "fewer --optimizers, or let the file say fewer `steps`"
    )


def search(
    path: str,
    compared: Sequence[methods.Method],
    budget: Budget,
    out_dir: Path,
    *,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Makes the rounds and the runs of the finalists; those that are cached are not made again.

    Args:
      path: File of the model; see :func:`own_model.build`.
      compared: The methods.
      budget: With a time, the number of settings follows from a first run, and is kept.
      out_dir: Folder for ``cache/`` and the plan.
      say: Prints a line.

    Returns:
      What the page is made of; plain data.

    Raises:
      ValueError: The file or a method cannot be used, or the budget is too small.
    """
    if len(compared) < 2:
        raise ValueError("--optimizers must name at least two methods")
    version = own_model.fingerprint(path)
    for method in compared:
        training.check(path, None, method)
    maker = _Maker(path, version, {m.name: m for m in compared}, out_dir / "cache", say)
    size, seconds = _plan(maker, compared, budget, out_dir)
    steps = lengths(version["steps"])
    cost = f" in about {seconds / 60:.2g} min" if seconds else ""
    if size.settings == MOST_SETTINGS:
        cost += ", the largest search there is"
    say(
        f"{size.arms[0]} arms of {len(compared)} methods, {size.settings} settings each; rounds of "
        f"{', '.join(f'{n} x {t} steps' for n, t in zip(size.arms, steps, strict=True))}, then "
        f"{size.seeds} seeds of the best: {size.gradients} gradients{cost}"
    )
    arms = [arm for method in compared for arm in _arms(method, size.settings)]
    last: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    for k, (length, count) in enumerate(zip(steps, size.arms, strict=True), 1):
        arms = _best(last, count) if last else arms
        last = maker.make(arms, length, 0, f"round {k} of {ROUNDS}")
        runs += [{"round": k, **run} for run in last]
    finalists = _best_of_methods(last)[:FINALISTS]
    for seed in range(1, size.seeds + 1):
        made = maker.make(finalists, steps[-1], seed, f"seed {seed} of {size.seeds}")
        runs += [{"round": FINAL, **run} for run in made]
    content = {
        "model": Path(path).name,
        "version": version,
        "methods": {m.name: m._asdict() for m in compared},
        "size": size._asdict(),
        "steps": steps,
        "machine": provenance.machine(),
        "versions": provenance.versions(),
        "source": provenance.source(),
        "runs": runs,
    }
    return cache.plain(content)


def _arms(method: methods.Method, settings: int) -> list[Arm]:
    """The arms of a method; those whose schedule is open to choice take turns with schedules."""
    own = method.self_tuning or method.schedule == "constant"
    schedules = [method.schedule] if own else list(methods.SCHEDULES)
    trials = methods.trials(method, 0, settings)
    return [Arm(method.name, s, schedules[i % len(schedules)]) for i, s in enumerate(trials)]


def _value(run: dict[str, Any]) -> float:
    return math.inf if run["best"] is None else run["best"]


def _arm(run: dict[str, Any]) -> Arm:
    return Arm(run["method"], run["setting"], run["schedule"])


def _best_of_methods(runs: Sequence[dict[str, Any]]) -> list[Arm]:
    """The best arm of each method that did not fail, the best first."""
    found: dict[str, Arm] = {}
    for run in sorted(runs, key=_value):
        if math.isfinite(_value(run)):
            found.setdefault(run["method"], _arm(run))
    if not found:
        raise ValueError("every setting of every method diverged: is the loss finite, and scaled?")
    return list(found.values())


def _best(runs: Sequence[dict[str, Any]], count: int) -> list[Arm]:
    """The arms that go on: the best of the three best methods, and then the best of all."""
    kept = _best_of_methods(runs)[:FINALISTS]
    for run in sorted(runs, key=_value):
        if len(kept) < count and math.isfinite(_value(run)) and _arm(run) not in kept:
            kept.append(_arm(run))
    return kept


class _Maker:
    """Makes runs of one model, through the cache."""

    def __init__(self, path, version, compared, folder, say):
        self.path, self.version, self.methods = path, version, compared
        self.folder, self.say = folder, say
        self.own = provenance.own_code()

    def plan(self, arm: Arm, steps: int, seed: int) -> definition.Run:
        method = self.methods[arm.method]._replace(schedule=arm.schedule)
        config = training.config_of(self.path, self.version, method, arm.setting, seed, steps)
        digest = cache.digest("compare", config)
        return definition.Run(arm.method, arm.schedule, dict(arm.setting), seed, config, digest)

    def make(self, arms: Sequence[Arm], steps: int, seed: int, label: str) -> list[dict[str, Any]]:
        """Makes the runs of arms that are missing, each method's as one population."""
        runs = [self.plan(arm, steps, seed) for arm in arms]
        known = execution.finished(execution.load(self.folder, runs, self.own, self.say))
        by_method = itertools.groupby(sorted(runs, key=lambda r: r.row), key=lambda r: r.row)
        packs = [list(pack) for _, pack in by_method]
        with execution.progress(label, sum(r.digest not in known for r in runs)) as bar:
            execution.make(training, packs, self.folder, known, self.own, bar, metric="best")
        results = []
        for run, arm in zip(runs, arms, strict=True):
            record = known[run.digest]
            results.append(
                {
                    **arm._asdict(),
                    "seed": seed,
                    "best": record["final"].get("best"),
                    "diverged": record["final"].get("diverged", 1.0),
                    "seconds": record["seconds"],
                    "history": [[h["step"], h["valid"]] for h in record["history"]],
                }
            )
        return results


def _plan(maker: _Maker, compared, budget: Budget, out_dir: Path) -> tuple[Size, float]:
    """The size of the search and the seconds it will take; decided once for a folder."""
    steps = maker.version["steps"]
    tuned = sum(not m.self_tuning for m in compared)
    untuned = len(compared) - tuned
    if not budget.clock:
        return sizes(tuned, untuned, steps, budget.amount), 0.0
    path = out_dir / f"{STEM}.json"
    wanted = {
        "model": maker.version,
        "budget": budget.amount,
        "methods": [m.name for m in compared],
    }
    known: dict[str, Any] = {}
    if path.exists():
        known = files.read_json(path)
    if known.get("wanted") != wanted:
        per_gradient, to_compile = _pace(maker, compared)
        compiling = 2 * to_compile * len(compared)  # Some anew in later rounds.
        known = {
            "wanted": wanted,
            "gradients": (budget.amount - compiling) / per_gradient,
            "per_gradient": per_gradient,
            "compiling": compiling,
        }
        files.write(path, json.dumps(known, indent=1) + "\n")
    try:
        size = sizes(tuned, untuned, steps, known["gradients"])
    except ValueError as error:
        pace = f"{1000 * known['per_gradient']:.3g} ms per gradient were measured"
        raise ValueError(f"{error} ({pace}, and as many fit into the time)") from error
    return size, known["compiling"] + size.gradients * known["per_gradient"]


def _pace(maker: _Maker, compared) -> tuple[float, float]:
    """Seconds per gradient, and seconds until the first: from two runs of one method."""
    method = compared[0]
    arm = _arms(method, 1)[0]
    short = max(1, lengths(maker.version["steps"])[0])
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        run = maker.plan(arm, short, 0)
        training.run_population([run.config])
        taken.append(time.perf_counter() - start)
    return taken[1] / short, max(0.0, taken[0] - taken[1])
