"""What a claim is, and the files that hold them: ``configs/claims/FAMILY.py``.

A file has ``TITLE``, a list ``CLAIMS`` of dicts with the fields of :class:`Claim`, and a dict
``STUDIES`` from names of files in ``experiments/studies`` to the fields of :class:`Study`.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.common import config_files
from experiments.ledger import verdict
from experiments.tables import sweep
from optim import _checks

__all__ = ["FAMILIES", "Claim", "Family", "Part", "Study", "load", "select"]

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "claims"
FAMILIES = ("optimizers", "schedules", "bilevel", "pruning", "small", "training")


@dataclasses.dataclass(frozen=True)
class Part:
    """One number of a claim.

    Attributes:
      what: The number in words.
      read: Where it is read: keyword arguments of :func:`evidence.read`.
      side: ``"above"``, ``"below"`` or ``"within"`` the threshold; empty for a number that is
        only used in the text.
      threshold: The bound, in the unit of the number as it is read.
      against: Beyond this bound on the other side the evidence is opposite.
      unit: ``"%"`` shows fractions as percentages, differences of them as points; other units are
        printed behind the number.
      digits: Digits behind the point; ``None`` shows three significant digits.
      exact: Whether the single value of a study is exact, as no chance is involved.
      name: For the texts of the claim: ``{name}``, ``{name.low}``, ``{name.high}``, ``{name.p}``.
    """

    what: str
    read: Mapping[str, Any]
    side: str = ""
    threshold: float = 0.0
    against: float | None = None
    unit: str = ""
    digits: int | None = None
    exact: bool = False
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim of a paper.

    Attributes:
      id: Such as ``"C9"``.
      paper: Short name and where it is published.
      claim: In one sentence.
      source: Where the paper says it.
      scale: What it was measured on here.
      parts: The numbers that decide.
      set: ``"before"``: the threshold was committed before the result was known; ``"after"``: it
        was written for numbers that were there.
      command: That makes the numbers again; by default this ledger's own.
      reading: Why the verdict is what it is; names in braces are numbers of the parts.
      title: A few words for the picture.
    """

    id: str
    paper: str
    claim: str
    source: str
    scale: str
    parts: tuple[Part, ...]
    set: str
    title: str
    command: str = ""
    reading: str = ""

    def __post_init__(self):
        if self.set not in ("before", "after"):
            raise ValueError(f"{self.id}: set must be 'before' or 'after', got {self.set!r}")
        parts = tuple(p if isinstance(p, Part) else _made(self.id, Part, p) for p in self.parts)
        object.__setattr__(self, "parts", parts)
        if not any(p.side for p in parts):
            raise ValueError(f"{self.id}: no part has a side, so nothing decides")
        for p in parts:
            if p.side not in ("", verdict.ABOVE, verdict.BELOW, verdict.WITHIN):
                raise ValueError(f"{self.id}: side must be above, below or within, got {p.side!r}")

    @property
    def studies(self) -> list[str]:
        """The studies that its parts read."""
        return _unique(p.read["study"] for p in self.parts if "study" in p.read)

    @property
    def files(self) -> list[str]:
        """The files of results that its parts read, studies included, without ``.json``."""
        found = (p.read.get("file") or f"claims/{p.read['study']}" for p in self.parts)
        several = ([f] if isinstance(f, str) else list(f) for f in found)
        return _unique(f for files in several for f in files)

    @property
    def made_by(self) -> str:
        """The command that makes the numbers again."""
        return self.command or f"python -m experiments.claims --only={self.id} --fresh"


@dataclasses.dataclass(frozen=True)
class Study:
    """How a study is made.

    Attributes:
      name: Of the file of its results, and of that in ``experiments/studies`` whose
        ``measure(seeds, **settings)`` returns a dict of numbers for each seed.
      units: The settings of each call, which is kept as soon as it ends; as ``sweep.read`` takes
        them.
      seeds: Number of seeds.
      data: Whether it needs ``--data_dir``, which ``measure`` then takes too.
      file: The file in ``experiments/studies`` where it has another name.
    """

    name: str
    units: Any = dataclasses.field(default_factory=dict)
    seeds: int = 5
    data: bool = False
    file: str = ""

    def settings(self) -> list[dict[str, Any]]:
        """The settings of each unit."""
        return [dict(point) for point in sweep.read(self.units)]


@dataclasses.dataclass(frozen=True)
class Family:
    """The claims of one file."""

    name: str
    title: str
    claims: tuple[Claim, ...]
    studies: Mapping[str, Study]


def load() -> list[Family]:
    """Reads all families.

    Raises:
      ValueError: If a field is unknown, an id stands twice, or a claim names an unknown study.
    """
    families = []
    for name in FAMILIES:
        module = config_files.module(FOLDER / f"{name}.py")
        claims = tuple(_made(c.get("id", name), Claim, c) for c in module.CLAIMS)
        studies = {k: _made(k, Study, {"name": k, **v}) for k, v in module.STUDIES.items()}
        families.append(Family(name, module.TITLE, claims, studies))
    ids = [claim.id for family in families for claim in family.claims]
    for i, name in enumerate(ids):
        if name in ids[:i]:
            raise ValueError(f"the claim {name} stands twice")
    for family in families:
        for claim in family.claims:
            for study in claim.studies:
                if study not in family.studies:
                    hint = _checks.nearest(study, list(family.studies))
                    raise ValueError(f"{claim.id}: unknown study {study!r}; {hint}")
    return families


def select(families: Iterable[Family], only: str) -> list[Claim]:
    """The claims of a comma-separated list of ids; all if it is empty."""
    claims = {claim.id: claim for family in families for claim in family.claims}
    ids = [name.strip() for name in only.split(",") if name.strip()]
    for name in ids:
        if name not in claims:
            raise ValueError(f"unknown claim {name!r}; {_checks.nearest(name, list(claims))}")
    return [claims[name] for name in ids] if ids else list(claims.values())


def _made(where: str, kind: Any, fields: Mapping[str, Any]) -> Any:
    known = [f.name for f in dataclasses.fields(kind)]
    for field in fields:
        if field not in known:
            raise ValueError(f"{where}: unknown field {field!r}; {_checks.nearest(field, known)}")
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))
