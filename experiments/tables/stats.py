"""Statistics of tables: intervals, paired differences, many comparisons, choice of settings."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

__all__ = [
    "Choice",
    "Friedman",
    "Paired",
    "Summary",
    "at_edge",
    "bootstrap",
    "choose",
    "five_by_two",
    "friedman",
    "holm",
    "paired",
    "summarize",
]


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


class Friedman(NamedTuple):
    """Whether methods differ over several data sets, and which two do.

    Attributes:
      ranks: Mean rank of each method, 1 the best.
      statistic: Friedman's chi-squared, corrected for ties.
      p: Of the hypothesis that all methods are equal.
      critical_difference: Two methods differ at the 5 % level if their mean ranks are further
        apart than this (Nemenyi's test).
    """

    ranks: tuple[float, ...]
    statistic: float
    p: float
    critical_difference: float


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
      values: Finite numbers, one for each run.

    Returns:
      The statistics; without a value all are NaN, with one there is neither deviation nor interval.

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

    Args:
      values: Finite numbers, one for each seed.
      baseline: Those of the baseline, in the same order of seeds.

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


def holm(p_values: Sequence[float]) -> list[float]:
    r"""Corrects p-values for the number of comparisons they were picked from.

    With the p-values in ascending order,

    .. math::
      \tilde p_{(i)} = \max_{j \le i} \min\{1, (m - j + 1)\, p_{(j)}\}.

    To call those below 0.05 significant is wrong about any of them with a probability of at most
    0.05, however the comparisons depend on each other.

    Args:
      p_values: One for each of the m comparisons; NaN for one that was not made, which does not
        count.

    Returns:
      The corrected values in the order given.

    Example:
      >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
      [0.03, 0.06, 0.06]

    Reference:
      Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    p = np.asarray(p_values, np.float64)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    corrected = np.full(p.size, np.nan)
    times = order.size - np.arange(order.size)
    corrected[order] = np.maximum.accumulate(np.minimum(1.0, times * p[order]))
    return corrected.tolist()


def friedman(costs: Any) -> Friedman:
    r"""Friedman's test with Nemenyi's critical difference.

    Of k methods on N data sets, two differ if their mean ranks do by more than

    .. math::
      \mathrm{CD} = q_{0.05, k} \sqrt{\frac{k (k + 1)}{6 N}},

    with :math:`q` the quantile of the studentized range divided by :math:`\sqrt 2`.

    Args:
      costs: Array of shape (data sets, methods), smaller is better; infinite where a method failed.
        At least two data sets and three methods.

    Returns:
      Mean ranks (ties share the mean of their places), the test, and the critical difference.

    Raises:
      ValueError: On another shape or NaN.

    Reference:
      Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 2006.
    """
    from scipy import stats  # Slow to import, and not needed by every table.

    x = np.asarray(costs, np.float64)
    if x.ndim != 2 or x.shape[0] < 2 or x.shape[1] < 3 or np.isnan(x).any():
        raise ValueError(
            "costs must be of shape (data sets >= 2, methods >= 3) without NaN, got shape "
            f"{x.shape}"
        )
    ranks = stats.rankdata(x, axis=1)
    data_sets, methods = x.shape
    if (ranks == ranks[:, :1]).all():  # All methods tie everywhere.
        statistic, p = 0.0, 1.0
    else:
        statistic, p = (float(v) for v in stats.friedmanchisquare(*ranks.T))
    q = stats.studentized_range.ppf(0.95, methods, np.inf) / math.sqrt(2)
    distance = q * math.sqrt(methods * (methods + 1) / (6 * data_sets))
    return Friedman(tuple(ranks.mean(0).tolist()), statistic, p, float(distance))


def five_by_two(differences: Any) -> tuple[float, float]:
    r"""The 5x2cv F test of two methods on one data set.

    The data are split in halves five times; each half trains once and tests once. With the
    differences :math:`d_{ij}` of the methods' results in split i, and
    :math:`s_i^2 = \sum_j (d_{ij} - \bar d_i)^2`,

    .. math::
      F = \frac{\sum_{ij} d_{ij}^2}{2 \sum_i s_i^2} \sim F_{10, 5}.

    Args:
      differences: Array of shape (5, 2).

    Returns:
      ``(F, p)``. If no split has a variance, p is 1 for differences of zero and 0 otherwise.

    Raises:
      ValueError: On another shape or a value that is not finite.

    Reference:
      Alpaydin, Combined 5x2cv F Test for Comparing Supervised Classification Learning
      Algorithms, Neural Computation 1999.
    """
    d = np.asarray(differences, np.float64)
    if d.shape != (5, 2) or not np.isfinite(d).all():
        raise ValueError(f"differences must be finite and of shape (5, 2), got {d.tolist()}")
    variance = float(((d - d.mean(1, keepdims=True)) ** 2).sum())
    if variance == 0:
        return (0.0, 1.0) if not d.any() else (math.inf, 0.0)
    f = float((d**2).sum()) / (2 * variance)
    return f, float(special.fdtrc(10, 5, f))


def bootstrap(
    data: Any,
    statistic: Callable[[np.ndarray], Any],
    *,
    axes: Sequence[int] = (0,),
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """A percentile interval of a statistic of nested data.

    What is drawn with replacement along the first of ``axes`` (workloads, say) is drawn again along
    the next ones (studies) for each of them alone.

    Args:
      data: Array whose ``axes`` are exchangeable.
      statistic: Function of an array of the shape of ``data``; may return an array.
      axes: Axes to draw along, the outermost first.
      samples: Number of draws.
      level: Share of the draws inside the interval.
      seed: Of the draws, so that the interval is a function of the data.

    Returns:
      ``(low, high)``, each of the shape of the statistic.
    """
    x, rng = np.asarray(data), np.random.default_rng(seed)
    x = np.moveaxis(x, axes, range(len(axes)))
    drawn = []
    for _ in range(samples):
        index: tuple[np.ndarray, ...] = ()
        for depth in range(len(axes)):
            outer = x.shape[: depth + 1]
            index = tuple(i[..., None] for i in index)
            index += (rng.integers(x.shape[depth], size=outer),)
        drawn.append(statistic(np.moveaxis(x[index], range(len(axes)), axes)))
    tail = 50 * (1 - level)
    low, high = np.percentile(np.asarray(drawn, np.float64), [tail, 100 - tail], axis=0)
    return low, high


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
