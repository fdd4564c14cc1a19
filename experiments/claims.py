"""The ledger of claims: makes the studies that are missing, judges, and writes RESULTS.md.

  python -m experiments.claims --list
  python -m experiments.claims --only=C8,C9
  python -m experiments.claims --only=C9 --fresh --data_dir=DATA
  python -m experiments.claims --all --out_dir=runs/ledger --data_dir=DATA
  python -m experiments.claims --render

Each finished unit of a study is kept in OUT_DIR/cache under the content of its settings, so the
same command goes on where it stopped, however it stopped. Several machines: ``--shard=1/2`` and
``--shard=2/2`` with one shared ``--out_dir``. Tables are made by ``experiments.reproduce``; their
committed results are read.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags, logging

from experiments import reproduce
from experiments.common import launch
from experiments.ledger import definition, making, page
from experiments.ledger.evidence import Evidence
from experiments.tables import execution

__all__ = ["listing", "make"]

COMMITTED = definition.ROOT / "results"


def make(
    families: Sequence[definition.Family],
    claims: Sequence[definition.Claim],
    out_dir: Path,
    *,
    data_dir: str | None = None,
    shard: tuple[int, int] = (1, 1),
    fresh: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Makes the units of the studies of some claims that are neither committed nor cached.

    Args:
      families: All families.
      claims: Whose studies are wanted.
      out_dir: Folder for ``cache/`` and ``claims/STUDY.json``; shared by the shards.
      data_dir: Folder of real data; studies that need it are left out without it.
      shard: ``(i, n)``: make the i-th of n parts of the units, counted from 1.
      fresh: Leave committed results aside.
      say: Prints a line.
    """
    known = {name: study for family in families for name, study in family.studies.items()}
    wanted = [known[n] for n in dict.fromkeys(name for claim in claims for name in claim.studies)]
    folders = [out_dir] if fresh else [out_dir, COMMITTED]
    for study in wanted:
        evidence, name = Evidence(*folders), f"claims/{study.name}"
        if evidence.path(name) and making.is_of(study, evidence.file(name)):
            continue
        if study.data and data_dir is None:
            say(f"{study.name} needs real data: give --data_dir=DIR")
            continue
        try:
            _make(study, out_dir, data_dir, shard, say)
        except Exception as error:  # The other studies do not depend on this one.
            say(f"{study.name} failed: {type(error).__name__}: {error}")


def _make(study: definition.Study, out_dir: Path, data_dir: str | None, shard, say) -> None:
    units, own, cache = making.plan(study), making.code(study), out_dir / "cache"
    records = execution.finished(execution.load(cache, units, own, say))
    i, n = shard
    mine = units[i - 1 :: n]
    todo = sum(unit.digest not in records for unit in mine)
    with execution.progress(study.name, todo) as bar:
        packs = ([unit] for unit in mine)
        execution.make(making, packs, cache, records, own, bar, data_dir=data_dir)
    records = execution.load(cache, units, own, say)
    if all(unit.digest in records for unit in units):
        say(f"wrote {making.write(study, records, out_dir / 'claims')}")
    else:
        say(f"{study.name}: units of other shards are missing")


def listing(families: Sequence[definition.Family], evidence: Evidence) -> str:
    """Returns a line for each claim: id, verdict so far, what it says."""
    found, _ = page.entries(families, evidence)
    verdicts = {entry.claim.id: entry.verdict for entry in found}
    lines = []
    for family in families:
        lines.append(family.title)
        for claim in family.claims:
            said = verdicts.get(claim.id, "not run")
            lines.append(f"  {claim.id:<5} {said:<14} {claim.claim}")
    return "\n".join(lines)


def define_flags() -> None:
    """Defines the flags of this main."""
    flags.DEFINE_bool("list", False, "Show all claims with their verdicts; run nothing.")
    flags.DEFINE_string("only", "", "Ids of claims, separated by commas: C8,C9.")
    flags.DEFINE_bool("all", False, "Make the missing studies of all claims.")
    flags.DEFINE_bool("render", False, "Write RESULTS.md, its JSON and picture; run nothing.")
    flags.DEFINE_bool("fresh", False, "Leave committed results aside: make studies again.")
    flags.DEFINE_string("shard", "1/1", "i/n: make the i-th of n parts, counted from 1.")
    flags.DEFINE_string("data_dir", None, "Folder of real data, for studies that need it.")
    flags.DEFINE_string("out_dir", "runs/ledger", "Folder of finished units and written studies.")


def main() -> int:
    """Does what the flags say."""
    logging.set_verbosity(logging.WARNING)
    flag = flags.FLAGS
    families = definition.load()
    out_dir = Path(flag.out_dir).expanduser()
    evidence = Evidence(out_dir, COMMITTED)
    if flag.list:
        print(listing(families, evidence))
        return 0
    if flag.render:
        for path in page.write(families, Evidence(COMMITTED), definition.ROOT):
            print(f"wrote {path}")
        return 0
    if not (flag.only or flag.all):
        raise ValueError("give --only=C9, --all, --render, or --list to see the claims")
    launch.use_compilation_cache()
    claims = definition.select(families, flag.only)
    shard = reproduce.parse_shard(flag.shard)
    options = {"data_dir": flag.data_dir, "shard": shard, "fresh": flag.fresh}
    try:
        make(families, claims, out_dir, **options)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    found, missing = page.entries(families, Evidence(out_dir, COMMITTED))
    for entry in found:
        if entry.claim in claims:
            print("\n".join(page.lines(entry)))
    for claim in missing:
        if claim in claims:
            print(f"{claim.id}: its results are missing; {claim.made_by}")
    return 0


if __name__ == "__main__":
    define_flags()
    sys.exit(launch.guard(lambda: app.run(lambda _: sys.exit(launch.guard(main)))))
