"""Reproduces a table: plans its runs, makes those that are missing, writes numbers and picture.

  python -m experiments.reproduce --list
  python -m experiments.reproduce --table=digits_optimizers
  python -m experiments.reproduce --table=~/mine.py

Finished runs are kept in OUT_DIR/cache under the content of their config, so the same command goes
on where it stopped, and a run that two tables share is made once. Several machines: the same
command with ``--shard=1/3``, ``--shard=2/3``, ``--shard=3/3`` and one shared ``--out_dir``; the
last one to end, or the command without ``--shard``, writes the table.
"""

import importlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from experiments.common import launch, provenance
from experiments.tables import cache, cells, definition, execution, render
from experiments.tables.execution import Records

__all__ = ["count", "execute", "refresh"]

COMMITTED = definition.ROOT / "results"
# Fields of a table that say how it looks, not what was run: `--render` takes them from the file.
LOOKS = ("title", "protocol", "setting", "unit", "digits", "also", "paper", "source", "plots")
LOOKS += ("notes", "notes_of")


def execute(
    table: definition.Table,
    out_dir: Path,
    *,
    data_dir: str | None = None,
    shard: tuple[int, int] = (1, 1),
    dry_run: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any] | None:
    """Makes the runs of a table that are not cached, and writes it once all are there.

    Args:
      table: From :func:`tables.load`.
      out_dir: Folder for ``cache/`` and the files of the table; shared by the shards.
      data_dir: Folder of real data, for the main.
      shard: ``(i, n)``: make the i-th of n parts, counted from 1.
      dry_run: Only say what would be run.
      say: Prints a line.

    Returns:
      The content of the JSON file, or ``None`` if runs are still missing (dry run, other shards).

    Raises:
      ValueError: If the table does not plan, or its main refuses a run (before anything runs).
      Exception: What the first run fails with; later failures are recorded and counted.
    """
    main = importlib.import_module(f"experiments.{table.main}")
    runs = definition.plan(table)
    folder = out_dir / "cache"
    own = provenance.own_code(definition.config_file(table))
    # What the runs of a main may share, such as the dense training of pruning methods.
    shared = {"memo": main.Memo()} if hasattr(main, "Memo") else {}
    known = execution.finished(execution.load(folder, runs, own, say))
    mine = _share(table, main, runs, shard)
    many = _announce(table, mine, shard, known, say)
    if dry_run:
        return None
    _check(main, [r for r in mine if r.digest not in known], data_dir)
    with execution.progress(table.name, many) as bar:

        def make(runs: Sequence[definition.Run]) -> None:
            packs = _packs(table, main, runs)
            options = {"data_dir": data_dir, "metric": table.metric, "shared": shared}
            execution.make(main, packs, folder, known, own, bar, **options)

        make(mine)
        if table.staged:
            make(_finals(table, mine, known))

    records = execution.load(folder, runs, own, say)
    wanted = list(runs)
    if table.staged and all(r.digest in records for r in runs):
        wanted = _unique([*runs, *_finals(table, runs, records)])
        records = execution.load(folder, wanted, own, say)
    missing = sum(r.digest not in records for r in wanted)
    if missing or (table.staged and len(wanted) == len(runs)):
        say(
            f"{missing or 'some'} runs of other shards are missing: the last shard to end, or the"
            " same command without --shard, writes the table"
        )
        return None
    results = _with_notes(_results(table, wanted, records), say)
    for path in render.write(results, out_dir):
        say(f"wrote {path}")
    return results


def refresh(name: str, scale: str, out_dir: Path, say: Callable[[str], None] = print) -> None:
    """Writes the files of a table again from its JSON, with the looks its config has now.

    Args:
      name: Name of the table.
      scale: Its scale.
      out_dir: Folder of the JSON.
      say: Prints a line.

    Raises:
      ValueError: If there is no such file, or it is no JSON.
    """
    path = render.path(name, scale, out_dir)
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"there is no {path}: run --table={name} first, or set --out_dir"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(results, dict) or not {"table", "runs"} <= results.keys():
        raise ValueError(f"{path} is no table of experiments.reproduce")
    table = definition.load(name, scale)
    results["table"] |= cache.plain({k: getattr(table, k) for k in LOOKS})
    for written in render.write(_with_notes(results, say), out_dir):
        say(f"wrote {written}")


def _with_notes(results: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Keeps the notes of a table only if they were written about these very runs."""
    table, made = results["table"], cells.print_of(results)
    if table["notes"] and table["notes_of"] != made:
        say(
            f"the notes of {table['name']} are about other runs ({table['notes_of']}) and left out;"
            f" once they say what these runs show, set notes_of to {made}"
        )
        return results | {"table": table | {"notes": [], "notes_of": ""}}
    return results


def parse_shard(text: str) -> tuple[int, int]:
    """Returns ``(i, n)`` of the text ``i/n``; counts from 1."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    i, n = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= i <= n:
        raise ValueError(f"shard must be i/n with 1 <= i <= n, such as 1/2, got {text!r}")
    return i, n


def listing() -> str:
    """Returns a line for all tables with what each scale means and how long it takes."""
    lines = []
    for name in definition.names():
        scales = definition.definition(name).get("scales", {})
        for i, scale in enumerate(scales):
            table = definition.load(name, scale)
            lines += [f"{name}: {table.title}"] * (i == 0)
            seconds, measured = _expected(table, count(table), {})
            took = f"{_duration(seconds)}{'' if measured else ' (not measured yet)'}"
            about = scales[scale].get("about", "")
            lines.append(f"  --scale={scale}: {count(table)} runs, about {took}; {about}")
    return "\n".join(lines)


def _packs(table, main, runs: Iterable[definition.Run]) -> list[list[definition.Run]]:
    """Groups runs that the main can make as one population, in the order of the plan.

    Runs that try hyperparameters on one seed share their batches, which vectorizes best.
    """
    if not hasattr(main, "run_population"):
        return [[r] for r in runs]
    open_packs: dict[str, list[definition.Run]] = {}
    packs = []
    for run in runs:
        shared = f"{main.shared_part(run.config)} {run.seed if run.point else ''}"
        pack = open_packs.get(shared)
        if pack is None or len(pack) == table.packed:
            pack = open_packs[shared] = []
            packs.append(pack)
        pack.append(run)
    return packs


def _check(main, runs: Iterable[definition.Run], data_dir: str | None) -> None:
    """Raises ``ValueError`` for the first run that its main refuses; one seed of each is asked."""
    cells = {(r.row, r.column, repr(r.point)): r for r in runs}
    for run in cells.values() if hasattr(main, "check") else ():
        try:
            main.check(run.config, data_dir)
        except ValueError as error:
            raise ValueError(f"{run.label}: {error}") from error


def _share(table, main, runs, shard) -> list[definition.Run]:
    """The runs of one shard: whole packs, or whole cells where tuning decides what comes next."""
    i, n = shard
    if table.staged:
        places = _unique((r.row, r.column) for r in runs)[i - 1 :: n]
        return [r for r in runs if (r.row, r.column) in places]
    return [r for pack in _packs(table, main, runs)[i - 1 :: n] for r in pack]


def _finals(table, runs, records) -> list[definition.Run]:
    """The reported runs at the chosen hyperparameters of each cell."""
    base, result = definition.base_config(table), []
    plain = cache.plain(table.__dict__)
    for row, column in _unique((r.row, r.column) for r in runs):
        mine = [r for r in runs if (r.row, r.column) == (row, column)]
        chosen = cells.chosen_point(plain, [_entry(table, r, records) for r in mine])
        # The point as it was written: in a file, tuples are lists.
        point = next(r.point for r in mine if cache.plain(r.point) == cache.plain(chosen))
        result += [definition.run(table, base, row, column, point, seed) for seed in table.seeds]
    return result


def _entry(table, run: definition.Run, records: Records) -> dict[str, Any]:
    record = records[run.digest]
    entry = {
        "row": run.row,
        "column": run.column,
        "point": run.point,
        "seed": run.seed,
        "digest": run.digest,
        "status": record["status"],
        "seconds": round(record["seconds"], 3),
        "final": record["final"],
    }
    return cache.plain(entry | ({"error": record["error"]} if "error" in record else {}))


def _results(table, runs, records) -> dict[str, Any]:
    """The content of the JSON file."""
    environments: list[dict[str, Any]] = []
    entries = []
    for run in runs:
        record = records[run.digest]
        environment = {k: record[k] for k in ("machine", "versions", "source")}
        if environment not in environments:
            environments.append(environment)
        entry = _entry(table, run, records)
        entries.append(entry | {"environment": environments.index(environment)})
    scale = "" if table.scale == "cpu" else f" --scale={table.scale}"
    results = {
        "table": cache.plain(table.__dict__),
        "command": f"python -m experiments.reproduce --table={table.name}{scale}",
        "environments": environments,
        "runs": entries,
    }
    if "history" in table.plots:
        chosen = {(c.row, c.column): c.chosen for c in cells.cells(results)}
        for run, entry in zip(runs, entries, strict=True):
            if entry["point"] == chosen[run.row, run.column] and run.seed in table.seeds:
                x, y = table.history
                rows = records[run.digest]["history"]
                entry["history"] = [[h[x], h[y]] for h in rows if x in h and y in h]
    return cache.plain(results)


def count(table: definition.Table) -> int:
    """Returns the number of runs of a table."""
    cells = len(table.rows) * len(table.columns)
    trials = len(table.trials(next(iter(table.rows))))
    more = len(set(table.seeds) - set(table.tuning))
    return cells * (trials * len(table.tuning) + more)


def _expected(table, number, records: Records) -> tuple[float, bool]:
    """Seconds for ``number`` runs, and whether that is from runs that were timed."""
    timed = [r["seconds"] for r in records.values()]
    file = render.path(Path(table.name).name, table.scale, Path()).name
    for path in () if timed else COMMITTED.rglob(file):  # They lie in folders by subject.
        timed = [r["seconds"] for r in json.loads(path.read_text(encoding="utf-8"))["runs"]]
    if timed:
        return number * sum(timed) / len(timed), True
    stated = definition.definition(table.name)["scales"][table.scale].get("minutes", math.nan)
    return 60 * stated * number / count(table), False


def _announce(table, mine, shard, finished: Records, say) -> int:
    """Says what will be made and how long it takes; returns the number of runs to make."""
    i, n = shard
    todo = sum(r.digest not in finished for r in mine)
    more = len(set(table.seeds) - set(table.tuning))
    if more:  # Named once hyperparameters are chosen; all are counted as still to be made.
        todo += more * len(_unique((r.row, r.column) for r in mine))
    seconds, _ = _expected(table, todo, finished)
    part = f"shard {i} of {n}: " if n > 1 else ""
    say(
        f"{table.name}: {count(table)} runs = {len(table.rows)} methods x"
        f" {len(table.columns)} settings x {len(table.trials(next(iter(table.rows))))} trials x"
        f" {len(table.tuning)} seeds{f' + {more} more seeds of the chosen' if more else ''};"
        f" {part}{todo} to make, about {_duration(seconds)}"
    )
    sources = {r["source"] for r in finished.values()} - {provenance.source()}
    if sources:
        say("cached runs were made by other source code; delete the cache to repeat them")
    return todo


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "an unknown time"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _unique(items) -> list:
    seen = []
    for item in items:
        if item not in seen:
            seen.append(item)
    return seen


def define_flags() -> None:
    """Defines the flags of this main; the mains that it imports have flags of the same names."""
    flags.DEFINE_string("table", None, "Name of a table (--list shows them), or the path of one.")
    flags.DEFINE_bool("list", False, "Show all tables, what their scales mean, and their time.")
    scales = ", ".join(definition.SCALES)
    flags.DEFINE_string("scale", "cpu", f"One of {scales}, if the table has it.")
    flags.DEFINE_bool("dry_run", False, "Show the plan and its time; run nothing.")
    flags.DEFINE_string("shard", "1/1", "i/n: make the i-th of n parts, counted from 1.")
    flags.DEFINE_bool("render", False, "Write the table again from its JSON; run nothing.")
    flags.DEFINE_string("data_dir", None, "Folder of real data, for tables that need it.")
    flags.DEFINE_string("out_dir", "runs/tables", "Folder of finished runs and written tables.")


def main() -> int:
    """Does what the flags say."""
    logging.set_verbosity(logging.WARNING)
    launch.use_compilation_cache()
    flag = flags.FLAGS
    if flag.list:
        print(listing())
        return 0
    if flag.table is None:
        raise ValueError("give --table=NAME, or --list to see the tables")
    out_dir = Path(flag.out_dir).expanduser()
    if flag.render:
        refresh(flag.table, flag.scale, out_dir)
        return 0
    table = definition.load(flag.table, flag.scale)
    shard = parse_shard(flag.shard)
    try:
        results = execute(table, out_dir, data_dir=flag.data_dir, shard=shard, dry_run=flag.dry_run)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    if results is None:
        return 0
    print(f"\n{render.markdown(results)}")
    failed = [r for r in results["runs"] if r["status"] == "failed"]
    if failed:
        print(f"{len(failed)} runs failed, first: {failed[0]['error']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    define_flags()
    sys.exit(launch.guard(lambda: app.run(lambda _: sys.exit(launch.guard(main)))))
