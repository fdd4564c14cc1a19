"""The rule that turns numbers into a verdict; thresholds stand in the claim, not here."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from experiments.tables import stats

__all__ = [
    "ABOVE",
    "BELOW",
    "HOLDS",
    "LEVEL",
    "NOT_SEEN",
    "OPPOSITE",
    "PART",
    "VERDICTS",
    "WITHIN",
    "Judged",
    "Question",
    "judge",
    "overall",
]

LEVEL = 0.05
HOLDS, PART, NOT_SEEN, OPPOSITE = "holds", "holds in part", "not seen here", "opposite"
VERDICTS = (HOLDS, PART, NOT_SEEN, OPPOSITE)
ABOVE, BELOW, WITHIN = "above", "below", "within"


class Question(NamedTuple):
    """What one number of a claim has to be.

    Attributes:
      values: One for each seed, in the unit of the threshold, or a single one.
      side: ``"above"`` or ``"below"`` the threshold, or ``"within"`` it on both sides of zero.
      threshold: The bound.
      against: Beyond this bound on the other side the evidence is opposite; ``None``: never.
      exact: Whether a single value is exact; one of a single seed decides nothing.
    """

    values: Sequence[float]
    side: str
    threshold: float
    against: float | None = None
    exact: bool = False


class Judged(NamedTuple):
    """The verdict on one number: its statistics over seeds, and the p-value that decided.

    ``p`` is two-sided against the bound, corrected by Holm's method over the numbers of the
    claim; NaN for an exact number, whose interval is NaN too.
    """

    verdict: str
    summary: stats.Summary
    p: float


def judge(questions: Sequence[Question]) -> list[Judged]:
    r"""Answers the questions of one claim.

    A mean over seeds is on a side of a bound if a two-sided t-test says so with a corrected p
    below 0.05 (:func:`stats.holm` over the questions of the claim). It is within
    :math:`\pm\delta` if it is above :math:`-\delta` and below :math:`\delta` in this sense. A
    exact number is compared as it is.

    Args:
      questions: All of one claim, since they are corrected together.

    Returns:
      One answer for each, ``"holds"``, ``"opposite"`` or ``"not seen here"``.

    Raises:
      ValueError: On an unknown side, or no values.
    """
    for q in questions:
        if q.side not in (ABOVE, BELOW, WITHIN):
            raise ValueError(f"side must be above, below or within, got {q.side!r}")
        if not q.values:
            raise ValueError("a question needs at least one value")
    p_for = stats.holm([_p_for(q) for q in questions])
    p_against = stats.holm([_p_against(q) for q in questions])
    found = []
    for q, p, other in zip(questions, p_for, p_against, strict=True):
        if _on_side(q) and _decides(q, p):
            found.append(Judged(HOLDS, stats.summarize(q.values), p))
        elif _on_other_side(q) and _decides(q, other):
            found.append(Judged(OPPOSITE, stats.summarize(q.values), other))
        else:
            found.append(Judged(NOT_SEEN, stats.summarize(q.values), p))
    return found


def overall(parts: Sequence[str]) -> str:
    """The verdict on a claim from those on its numbers.

    All hold: holds. Some do: holds in part, whatever the others say. None does: opposite if at
    least half of them are, else not seen here.
    """
    if not parts:
        raise ValueError("a claim needs at least one number")
    if HOLDS in parts:
        return HOLDS if set(parts) == {HOLDS} else PART
    opposite = sum(part == OPPOSITE for part in parts)
    return OPPOSITE if 2 * opposite >= len(parts) else NOT_SEEN


def _decides(q: Question, p: float) -> bool:
    return q.exact if len(q.values) == 1 else p < LEVEL


def _mean(q: Question) -> float:
    return stats.summarize(q.values).mean


def _on_side(q: Question) -> bool:
    if q.side == WITHIN:
        return abs(_mean(q)) < q.threshold
    return _mean(q) > q.threshold if q.side == ABOVE else _mean(q) < q.threshold


def _on_other_side(q: Question) -> bool:
    if q.against is None:
        return False
    if q.side == WITHIN:
        return abs(_mean(q)) > q.against
    return _mean(q) < q.against if q.side == ABOVE else _mean(q) > q.against


def _p_for(q: Question) -> float:
    bounds = (-q.threshold, q.threshold) if q.side == WITHIN else (q.threshold,)
    return max(_p(q.values, bound) for bound in bounds)


def _p_against(q: Question) -> float:
    if q.against is None:
        return math.nan
    return _p(q.values, math.copysign(q.against, _mean(q)) if q.side == WITHIN else q.against)


def _p(values: Sequence[float], bound: float) -> float:
    """Two-sided; NaN for a single value."""
    return stats.paired(values, [bound] * len(values)).p
