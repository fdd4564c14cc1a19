"""Targets: what the tuned baselines reach on a workload, set once and frozen.

A target belongs to one version of its workload. It is set before any new method is seen, and never
after; a workload that changed is refused until its target is set again.
"""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import files, provenance
from experiments.comparing import methods, training, workloads
from experiments.tables import cache, definition, execution

__all__ = ["FILE", "POINTS", "SEEDS", "check", "read", "set_targets"]

FILE = methods.FOLDER / "targets.json"
POINTS, SEEDS = 20, 10


def read(path: Path = FILE) -> dict[str, Any]:
    """Returns ``{workload: {"target", "version", ...}}``; empty without a file."""
    return json.loads(path.read_text(encoding="utf-8"))["workloads"] if path.exists() else {}


def check(name: str, version: dict[str, Any], frozen: dict[str, Any]) -> float:
    """Returns the target of a workload.

    Args:
      name: Of the workload.
      version: Its :func:`workloads.fingerprint`.
      frozen: From :func:`read`.

    Raises:
      ValueError: There is none, or it was set for another version of the workload.
    """
    if name not in frozen:
        raise ValueError(f"workload {name} has no target yet: run --set_targets --workloads={name}")
    old = frozen[name]["version"]
    changed = sorted(k for k in old | version if old.get(k) != version.get(k))
    if changed:
        said = "; ".join(f"{k}: {old.get(k)} then, {version.get(k)} now" for k in changed)
        raise ValueError(
            f"workload {name} is not the one that its target was set for ({said}); set it again: "
            f"--set_targets --workloads={name}"
        )
    return frozen[name]["target"]


def set_targets(
    names: Iterable[str],
    out_dir: Path,
    data_dir: str | None,
    *,
    path: Path = FILE,
    points: int = POINTS,
    seeds: int = SEEDS,
) -> dict[str, Any]:
    """Tunes the baselines on workloads, and writes what the best setting of all reaches.

    Each baseline tries ``points`` settings of its space; the best of all runs again with ``seeds``
    seeds, and the median of their best validation metrics is the target.

    Args:
      names: Workloads. The targets of others stay.
      out_dir: Its ``cache`` keeps the runs.
      data_dir: Folder of the data sets.
      path: File of the targets.
      points: Settings for each baseline.
      seeds: Runs of the best.

    Returns:
      All targets, as :func:`read`.
    """
    result, folder, own = read(path), out_dir / "cache", provenance.own_code()
    baselines = [methods.find(name)[0] for name in methods.BASELINES]
    for name in names:
        workload = workloads.build(name, data_dir)
        version = workloads.fingerprint(workload)

        def planned(method, setting, seed, name=name, version=version, steps=workload.steps):
            config = training.config_of(name, version, method, setting, seed, steps)
            digest = cache.digest("compare", config)
            return definition.Run(method.name, name, dict(setting), seed, config, digest)

        tried = [
            planned(m, setting, 0)
            for m in baselines
            for setting in methods.trials(m, 10**6, points)
        ]
        known = execution.finished(execution.load(folder, tried, own))
        _make(tried, folder, known, own, f"{name}: tuning", data_dir)
        best = min(tried, key=lambda r: _best(known[r.digest]))
        method = next(m for m in baselines if m.name == best.row)
        again = [planned(method, best.point, seed) for seed in range(1, seeds + 1)]
        known |= execution.finished(execution.load(folder, again, own))
        _make(again, folder, known, own, f"{name}: again", data_dir)
        values = [_best(known[r.digest]) for r in again]
        result[name] = {
            "target": float(f"{np.median(values):.6g}"),
            "metric": workload.metric,
            "baseline": method.name,
            "setting": best.point,
            "values": values,
            "points": points,
            "seeds": seeds,
            "version": version,
            "machine": provenance.machine(),
            "versions": provenance.versions(),
            "commit": provenance.commit(),
        }
        content = {"workloads": {k: result[k] for k in workloads.NAMES if k in result}}
        files.write(path, json.dumps(cache.plain(content), indent=1) + "\n")
    return result


def _make(runs, folder, known, own, label, data_dir) -> None:
    with execution.progress(label, sum(r.digest not in known for r in runs)) as bar:
        # The settings of a baseline are one population, and so are the seeds of the best.
        packs = [list(pack) for _, pack in itertools.groupby(runs, lambda r: r.row)]
        execution.make(training, packs, folder, known, own, bar, data_dir=data_dir, metric="best")


def _best(record: dict[str, Any]) -> float:
    return record["final"].get("best", np.inf)
