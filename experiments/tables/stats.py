"""Statistics of a table: intervals, paired differences, choice of hyperparameters."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

__all__ = ["Choice", "Paired", "Summary", "at_edge", "choose", "paired", "summarize"]


class Summary(NamedTuple):
    """Mean, sample standard deviation and two-sided 95 % t interval of ``n`` values."""

    n: int
    mean: float
    std: float
    low: float
    high: float


class Paired(NamedTuple):
    """Mean difference over ``n`` pairs, its 95 % interval and the two-sided p-value."""

    n: int
    mean: float
    low: float
    high: float
    p: float


class Choice(NamedTuple):
    """The best trial: its index, its mean validation value, and its runs that did not finish."""

    index: int
    value: float
    lost: int


def summarize(values: Sequence[float]) -> Summary:
    r"""Mean, standard deviation and 95 % interval of the mean.

    .. math::
      \bar x \pm t_{0.975,\,n-1}\, s / \sqrt n, \qquad s^2 = \tfrac{1}{n-1}\sum_i (x_i - \bar x)^2

    Args:
      values: Finite numbers, one for each run; none gives NaN, one has no deviation (NaN).

    Example:
      >>> print(summarize([1.0, 2.0, 3.0]).std)
      1.0
    """
    x = np.asarray(values, np.float64)
    if x.size < 2:
        mean = float(x[0]) if x.size else math.nan
        return Summary(x.size, mean, math.nan, math.nan, math.nan)
    mean, std = float(x.mean()), float(x.std(ddof=1))
    half = float(special.stdtrit(x.size - 1, 0.975)) * std / math.sqrt(x.size)
    return Summary(x.size, mean, std, mean - half, mean + half)


def paired(values: Sequence[float], baseline: Sequence[float]) -> Paired:
    r"""Two-sided paired t-test of ``values - baseline``, matched by position (same seed).

    .. math::
      t = \bar d \sqrt n / s_d, \qquad p = 2\,P(T_{n-1} > |t|)

    Returns:
      NaN for interval and p-value with fewer than two pairs. Equal differences have a deviation
      of zero: p is 1 if they are zero and 0 otherwise.

    Raises:
      ValueError: If the lengths differ.
    """
    if len(values) != len(baseline):
        raise ValueError(f"paired values differ in number: {len(values)} and {len(baseline)}")
    d = summarize([a - b for a, b in zip(values, baseline, strict=True)])
    if d.n < 2:
        return Paired(d.n, d.mean, math.nan, math.nan, math.nan)
    if d.std == 0:
        p = 1.0 if d.mean == 0 else 0.0
    else:
        p = float(2 * special.stdtr(d.n - 1, -abs(d.mean) * math.sqrt(d.n) / d.std))
    return Paired(d.n, d.mean, d.low, d.high, p)


def choose(trials: Sequence[Sequence[float | None]], direction: str) -> Choice:
    """Picks the trial with the best mean validation value over its seeds.

    Args:
      trials: For each hyperparameter setting the validation values of its runs; ``None`` for a run
        that diverged or failed. A setting that lost fewer runs is preferred to any that lost more;
        of equal ones the first is taken.
      direction: ``"max"`` or ``"min"``.

    Returns:
      The choice; its value is NaN if no run of any trial finished.

    Example:
      >>> choose([[0.8, 0.9], [0.99, None], [0.9, 0.9]], "max")
      Choice(index=2, value=0.9, lost=0)
    """
    if direction not in ("max", "min"):
        raise ValueError(f"direction must be 'max' or 'min', got {direction!r}")
    best = None
    for index, values in enumerate(trials):
        kept = [v for v in values if v is not None]
        lost = len(values) - len(kept)
        value = float(np.mean(kept)) if kept else math.nan
        loss = value if direction == "min" else -value
        rank = (lost if kept else math.inf, loss if kept else math.inf)
        if best is None or rank < best[0]:
            best = rank, Choice(index, value, lost)
    if best is None:
        raise ValueError("no trials to choose from")
    return best[1]


def at_edge(point: Mapping[str, Any], grid: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Which hyperparameters of ``point`` lie at the edge of the grid, so that it may be too narrow.

    Args:
      point: The chosen setting.
      grid: All settings of the trials.

    Returns:
      ``{key: "lowest" | "highest"}`` of the numeric keys with at least two values. Zero is no lower
      edge: hyperparameters that may be zero are not negative.

    Example:
      >>> grid = [{"lr": lr, "decay": decay} for lr in (0.1, 1.0) for decay in (0.0, 0.1)]
      >>> at_edge({"lr": 0.1, "decay": 0.0}, grid)
      {'lr': 'lowest'}
    """
    found = {}
    for key, value in point.items():
        values = [g[key] for g in grid if key in g]
        if not all(type(v) in (int, float) for v in values) or len(set(values)) < 2:
            continue
        if value == min(values) and value != 0:
            found[key] = "lowest"
        elif value == max(values):
            found[key] = "highest"
    return found
