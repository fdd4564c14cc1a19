"""Makes runs that are not cached yet, and keeps what they gave: for tables and comparisons."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.common import provenance
from experiments.tables import cache, definition

__all__ = ["Records", "finished", "load", "make", "progress"]

# What is kept of each run, by the digest of its config.
Records = dict[str, dict[str, Any]]


def load(
    folder: Path, runs: Iterable[definition.Run], own: str, say: Callable[[str], None] = print
) -> Records:
    """Reads the records of runs that are cached and still hold.

    Args:
      folder: Of the cache.
      runs: What is wanted.
      own: From :func:`provenance.own_code`: records that other code of one's own gave are left out.
      say: Prints a line about those that are corrupt or stale.
    """
    records, corrupt = cache.load(folder, [r.digest for r in runs])
    for path in corrupt:
        say(f"corrupt result set aside as {path}; its run is made again")
    stale = [key for key, record in records.items() if record.get("own", own) != own]
    if stale:
        say(
            f"{len(stale)} cached runs were made by other source code of your own, that of the"
            " config file or of what it imports; they are made again"
        )
    return {key: record for key, record in records.items() if key not in stale}


def finished(records: Records) -> Records:
    """Returns those that need not be made again: failed runs are."""
    return {key: r for key, r in records.items() if r["status"] != "failed"}


def progress(name: str, many: int) -> tqdm:
    """Returns the one line of progress of ``many`` runs."""
    return tqdm(
        total=many,
        desc=name,
        unit="run",
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,  # A log file gets few lines.
        disable=not many,
    )


def make(
    main: Any,
    packs: Iterable[Sequence[definition.Run]],
    folder: Path,
    known: Records,
    own: str,
    bar: tqdm,
    *,
    data_dir: str | None = None,
    metric: str = "",
    shared: Mapping[str, Any] | None = None,
) -> None:
    """Makes the runs that are not among the ``known`` records, keeps them, and adds them there.

    Args:
      main: Module with ``run(config, data_dir=…, quiet=True)``, and ``run_population`` if packs
        hold several runs.
      packs: Runs that are made together.
      folder: Of the cache.
      known: Records by digest; grows.
      own: As of :func:`load`.
      bar: From :func:`progress`.
      data_dir: Folder of real data.
      metric: Number to show in the line.
      shared: Further arguments of a single run, such as what the runs of a main share.

    Raises:
      Exception: What the first run fails with, as all of them may; later failures are recorded.
    """
    environment: dict[str, Any] = {}
    for pack in packs:
        todo = [r for r in pack if r.digest not in known]
        if not todo:
            continue
        if not environment:
            environment.update(
                machine=provenance.machine(),
                versions=provenance.versions(),
                source=provenance.source(),
                own=own,
            )
        new = _run(main, todo, data_dir, environment, bool(known), dict(shared or {}))
        cache.save(folder, new)
        known.update(new)
        _show(bar, metric, todo, new)


def _run(main, runs, data_dir, environment, any_finished, shared) -> Records:
    """Makes runs as one population, or one; returns their records."""
    start = time.perf_counter()
    try:
        if len(runs) > 1:
            results = main.run_population([r.config for r in runs], data_dir=data_dir, quiet=True)
        else:
            results = [main.run(runs[0].config, data_dir=data_dir, quiet=True, **shared)]
        outcomes = [_outcome(result) for result in results]
    except Exception as error:
        if len(runs) > 1:  # One of them may be at fault: each alone tells which.
            records: Records = {}
            for run in runs:
                any_finished = any_finished or bool(records)
                records |= _run(main, [run], data_dir, environment, any_finished, shared)
            return records
        if isinstance(error, FloatingPointError):
            outcomes = [{"status": "diverged", "error": str(error)}]
        else:
            if not any_finished:  # The data, or a package, may be missing for all of them.
                print(f"the first run, {runs[0].label}, failed:", file=sys.stderr)
                raise
            outcomes = [{"status": "failed", "error": f"{type(error).__name__}: {error}"}]
    seconds = (time.perf_counter() - start) / len(runs)
    return {
        run.digest: {
            "main": main.__name__.rsplit(".", 1)[-1],
            "config": run.config,
            "seconds": seconds,
            "final": {},
            "history": [],
            **outcome,
            **environment,
        }
        for run, outcome in zip(runs, outcomes, strict=True)
    }


def _outcome(result) -> dict[str, Any]:
    bad = {k: v for k, v in result.final.items() if not math.isfinite(v)}
    outcome = {"status": "done", "final": dict(result.final), "history": result.history}
    if bad:
        name, value = next(iter(bad.items()))
        outcome |= {"status": "diverged", "error": f"{name} is {value} at the end"}
    return outcome


def _show(bar: tqdm, metric: str, runs, records: Records) -> None:
    """Counts runs that ended; those that did not end well get a line of their own."""
    for run in runs:
        if records[run.digest]["status"] != "done":
            bar.write(f"{run.label}: {records[run.digest]['error']}", file=sys.stderr)
    record = records[runs[-1].digest]
    value = record["final"].get(metric)
    shown = record["status"] if value is None else f"{metric} {value:.4g}"
    bar.set_postfix_str(f"{runs[-1].label}: {shown}", refresh=False)
    bar.update(len(runs))
