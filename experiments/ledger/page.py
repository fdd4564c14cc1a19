"""The ledger as a page, a JSON and a picture, from claims and files of results."""

import dataclasses
import json
import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.common import figures, files
from experiments.common import markdown as md
from experiments.ledger import verdict
from experiments.ledger.definition import Claim, Family, Part
from experiments.ledger.evidence import Evidence
from experiments.tables import stats

__all__ = ["Entry", "entries", "lines", "texts", "write"]

JSON, PICTURE = "results/claims/ledger.json", "results/claims/verdicts.png"
COLORS = {
    verdict.HOLDS: "#009E73",
    verdict.PART: "#56B4E9",
    verdict.NOT_SEEN: "#E6E6E6",
    verdict.OPPOSITE: "#D55E00",
}
SIGNS = {verdict.HOLDS: "+", verdict.PART: "(+)", verdict.NOT_SEEN: "0", verdict.OPPOSITE: "–"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A claim with what was found.

    Attributes:
      claim: The claim.
      family: Title of its family.
      judged: The answer to each part; ``None`` for those that decide nothing.
      values: The values of each part.
      verdict: On the claim.
      cost: Seconds of all its files, as far as they are known.
      unknown: Files whose cost nobody measured.
    """

    claim: Claim
    family: str
    judged: tuple[verdict.Judged | None, ...]
    values: tuple[list[float], ...]
    verdict: str
    cost: float
    unknown: tuple[str, ...]


def entries(families: Sequence[Family], evidence: Evidence) -> tuple[list[Entry], list[Claim]]:
    """Judges the claims whose files are there; returns them, and those whose files are missing."""
    found, missing = [], []
    for family in families:
        for claim in family.claims:
            if all(evidence.path(name) for name in claim.files):
                found.append(_judge(claim, family.title, evidence))
            else:
                missing.append(claim)
    return found, missing


def _judge(claim: Claim, family: str, evidence: Evidence) -> Entry:
    try:
        values = tuple(evidence.read(part.read) for part in claim.parts)
    except ValueError as error:
        raise ValueError(f"{claim.id}: {error}") from error
    asked = [i for i, part in enumerate(claim.parts) if part.side]
    questions = [
        verdict.Question(values[i], p.side, p.threshold, p.against, _exact(p))
        for i in asked
        for p in [claim.parts[i]]
    ]
    answers = dict(zip(asked, verdict.judge(questions), strict=True))
    costs = {name: evidence.cost(name) for name in claim.files}
    return Entry(
        claim,
        family,
        tuple(answers.get(i) for i in range(len(claim.parts))),
        values,
        verdict.overall([answer.verdict for answer in answers.values()]),
        sum(cost for cost in costs.values() if cost is not None),
        tuple(name for name, cost in costs.items() if cost is None),
    )


def _exact(part: Part) -> bool:
    """Whether a single value is exact, and not that of the one seed a table or study has."""
    read = part.read
    return part.exact or "function" in read or "also" in read or not {"row", "study"} & read.keys()


def lines(entry: Entry) -> list[str]:
    """The claim and its numbers in plain text, for the terminal."""
    head = f"{entry.claim.id} {entry.verdict.upper()}: {entry.claim.claim}"
    return [head, *(f"    {_measured(entry, i)}" for i in range(len(entry.claim.parts)))]


def texts(families: Sequence[Family], evidence: Evidence) -> dict[str, str]:
    """``RESULTS.md`` and the JSON for programs, by their paths in the repository."""
    found, missing = entries(families, evidence)
    return {"RESULTS.md": _page(families, found, missing, evidence), JSON: _json(found)}


def write(families: Sequence[Family], evidence: Evidence, root: Path) -> list[Path]:
    """Writes page, JSON and picture of the ledger below ``root``; returns their paths."""
    found, _ = entries(families, evidence)
    contents = {**texts(families, evidence), PICTURE: _picture(families, found)}
    made = {root / path: content for path, content in contents.items()}
    files.write_all(made)
    return list(made)


def _page(families, found: list[Entry], missing: list[Claim], evidence) -> str:
    counts = Counter(entry.verdict for entry in found)
    before = sum(entry.claim.set == "before" for entry in found)
    once = {name: evidence.cost(name) for entry in found for name in entry.claim.files}
    total = sum(cost for cost in once.values() if cost is not None)
    text = [
        "# What the papers claim, and what is seen here",
        "",
        f"{len(found)} claims of the papers behind this project and its wider family, each with a"
        " number that would show it, a bound for that number, a command, and a verdict: "
        + ", ".join(f"**{counts[v]} {_plural(v, counts[v])}**" for v in verdict.VERDICTS)
        + ". Everything runs on two cores without an accelerator, so that networks, data and"
        " budgets are hundreds to millions of times smaller than the papers'. A verdict is about"
        " this scale: “not seen here” is not “wrong”, nor is “holds” more than a check.",
        "",
        *_wrapped(
            f"The bound of {before} claims was committed before the numbers were made (“before”);"
            f" that of the other {len(found) - before} was written for results that were there"
            " already (“after”), which is weaker: it could have been chosen to fit."
        ),
        "",
        f"![All verdicts at a glance]({PICTURE})",
        "",
        "**The rule.** A number over seeds is above or below a bound if a two-sided t-test says so"
        " with p < 0.05, corrected by Holm's method for all numbers of the claim; intervals are of"
        " 95 % and not corrected. “Within” a bound means: above its negative and below it, in this"
        " sense. A number without seeds is compared as it is. A claim *holds* if all its numbers"
        " do, *holds in part* if some do; if none does it is *opposite* where at least half of them"
        " are beyond the bound on the other side, and else *not seen here*. Differences are paired"
        " by seed; a single seed decides nothing. The p is against the bound in the brackets, on"
        " whichever side of it the number lies.",
        "",
        *_survivors(found),
        "",
        f"**The cost.** {_duration(total)} in all, each file of results counted once: studies in"
        " seconds of the processor, tables in seconds of their runs' clock, both as measured."
        + (
            " Not measured, seconds to a few minutes each: "
            + ", ".join(f"`{name}`" for name, cost in once.items() if cost is None)
            + "."
            if None in once.values()
            else ""
        ),
        "",
        "DATA in a command is the folder of the data sets. `--fresh` leaves the committed results"
        " aside; without it a command only judges again what is there. The same in a file for"
        f" programs: [ledger.json]({JSON}).",
        "",
    ]
    for family in families:
        own = [entry for entry in found if entry.family == family.title]
        if own:
            text += [f"## {family.title}", "", *_table(own), ""]
    differing = [entry for entry in found if entry.claim.reading]
    if differing:
        text += ["## Where we differ from the papers, and why", ""]
        for entry in differing:
            text += [
                f"**{entry.claim.id}, {entry.claim.paper.partition(',')[0]}: {entry.verdict}.** "
                + _filled(entry),
                "",
            ]
    if missing:
        text += [
            "## Defined, not run yet",
            "",
            *(f"- {claim.id} ({claim.paper}): {claim.claim}" for claim in missing),
            "",
        ]
    return "\n".join(text)


def _plural(name: str, many: int) -> str:
    return name.replace("holds", "hold", 1) if many != 1 else name


def _survivors(found: list[Entry]) -> list[str]:
    """How many of the comparisons would stand if the whole ledger were one family."""
    judged = [j for entry in found for j in entry.judged if j and not math.isnan(j.p)]
    decided = [j for j in judged if j.verdict in (verdict.HOLDS, verdict.OPPOSITE)]
    corrected = zip(judged, stats.holm([j.p for j in judged]), strict=True)
    stand = sum(p < verdict.LEVEL for j, p in corrected if j in decided)
    return _wrapped(
        f"Of the {len(judged)} numbers over seeds {len(decided)} decide for or against their claim;"
        f" {stand} of these would still do so if all {len(judged)} were corrected as one"
        " family."
    )


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 100)


def _table(found: list[Entry]) -> list[str]:
    head = ["", "claim", "verdict", "measured [95 %]", "scale", "command", "cost", "evidence"]
    rows = []
    for entry in found:
        claim = entry.claim
        numbers = [_measured(entry, i) for i, part in enumerate(claim.parts) if part.side]
        links = [f"[{Path(name).name}]({_link(name)})" for name in claim.files]
        rows.append(
            [
                claim.id,
                f"{claim.claim} *{claim.paper}; {claim.source}*",
                f"**{entry.verdict}**",
                "<br>".join(numbers) + f"<br>bound set {claim.set} the run",
                claim.scale,
                f"`{claim.made_by}`",
                _duration(entry.cost) if entry.cost else "not measured",
                ", ".join(links),
            ]
        )
    return md.table(head, rows)


def _link(name: str) -> str:
    """The page of a table or study where there is one, else its JSON."""
    return f"results/{name}.json"


def _measured(entry: Entry, i: int) -> str:
    """One number: value, interval, bound, p and what it says."""
    part, judged = entry.claim.parts[i], entry.judged[i]
    shown = _Shown(part, entry.values[i], judged)
    text = f"{part.what}: {shown}{part.unit and ' ' + part.unit}"
    if len(entry.values[i]) > 1:
        text += f" [{shown.low}, {shown.high}], n {len(entry.values[i])}"
    if judged is None:
        return text
    sign = {"above": ">", "below": "<", "within": "±"}[part.side]
    p = "" if math.isnan(judged.p) else f", p {_p(judged.p)}"
    return f"{text} ({sign} {shown.number(part.threshold)}{p}: {SIGNS[judged.verdict]})"


class _Shown:
    """A number of a claim as text, for pages and for the braces of a reading."""

    def __init__(self, part: Part, values: list[float], judged: verdict.Judged | None):
        self.part, summary = part, stats.summarize(values)
        self.mean, self.low, self.high = map(self.number, (summary.mean, summary.low, summary.high))
        self.std, self.n = self.number(summary.std), summary.n
        self.p = "–" if judged is None or math.isnan(judged.p) else _p(judged.p)

    def number(self, value: float) -> str:
        value = 100 * value if self.part.unit == "%" else value
        if math.isnan(value):
            return "–"
        if self.part.digits is not None:
            return f"{value:.{self.part.digits}f}"
        return f"{value:.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"

    def __str__(self) -> str:
        return self.mean


def _filled(entry: Entry) -> str:
    claim = entry.claim
    shown = {
        part.name or f"n{i}": _Shown(part, entry.values[i], entry.judged[i])
        for i, part in enumerate(claim.parts)
    }
    try:
        return claim.reading.format(**shown)
    except (KeyError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(f"{claim.id}: in its reading: {error!r}") from error


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "< 1 s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _json(found: list[Entry]) -> str:
    def finite(x: float) -> float | None:
        return float(f"{x:.6g}") if math.isfinite(x) else None

    def part(entry: Entry, i: int) -> dict[str, Any]:
        p, judged = entry.claim.parts[i], entry.judged[i]
        s = stats.summarize(entry.values[i])
        return {
            "what": p.what,
            "unit": p.unit,
            "value": finite(s.mean),
            "interval": [finite(s.low), finite(s.high)],
            "n": s.n,
            "p": finite(judged.p) if judged else None,
            "side": p.side,
            "threshold": p.threshold,
            "verdict": judged.verdict if judged else None,
        }

    content = []
    for entry in found:
        claim = entry.claim
        parts = [part(entry, i) for i, p in enumerate(claim.parts) if p.side]
        content.append(
            {
                "id": claim.id,
                "family": entry.family,
                "paper": claim.paper,
                "claim": claim.claim,
                "source": claim.source,
                "verdict": entry.verdict,
                **{key: parts[0][key] for key in ("value", "interval", "p", "threshold", "unit")},
                "set": claim.set,
                "scale": claim.scale,
                "command": claim.made_by,
                "cost_s": round(entry.cost, 1) if entry.cost else None,
                "files": [f"results/{name}.json" for name in claim.files],
                "parts": parts,
            }
        )
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _picture(families, found: list[Entry]) -> bytes:
    """A box for each claim, a column for each family, the color and a sign for the verdict."""
    from matplotlib.patches import Patch

    columns = [[e for e in found if e.family == family.title] for family in families]
    titles = [family.title for family, own in zip(families, columns, strict=True) if own]
    columns = [own for own in columns if own]
    tallest = max((len(own) for own in columns), default=1)
    made, (axis,) = figures.figure(width=2.75 * max(1, len(columns)), height=0.8 + 0.3 * tallest)
    axis.axis("off")
    axis.set_xlim(0, max(1, len(columns)))
    axis.set_ylim(tallest + 0.1, -1)
    for x, (title, own) in enumerate(zip(titles, columns, strict=True)):
        axis.text(x + 0.02, -0.35, title, fontsize=9, weight="bold", va="center")
        for y, entry in enumerate(own):
            color = COLORS[entry.verdict]
            box = {"facecolor": color, "edgecolor": "white"}
            axis.barh(y + 0.45, 0.97, 0.86, left=x, **box)
            dark = entry.verdict in (verdict.HOLDS, verdict.OPPOSITE)
            text = f"{entry.claim.id}  {entry.claim.title}"
            axis.text(
                x + 0.02,
                y + 0.47,
                text,
                fontsize=7,
                va="center",
                color="white" if dark else "black",
            )
            axis.text(
                x + 0.955,
                y + 0.47,
                SIGNS[entry.verdict],
                fontsize=8,
                va="center",
                ha="right",
                color="white" if dark else "black",
            )
    counts = Counter(entry.verdict for entry in found)
    handles = [
        Patch(color=COLORS[v], label=f"{SIGNS[v]}  {v} ({counts[v]})") for v in verdict.VERDICTS
    ]
    made.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9)
    return figures.content(made)
