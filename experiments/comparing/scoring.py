r"""From the times at which trials reach a target to scores, as AlgoPerf does it.

Times have the axes (methods, workloads, studies, trials); infinite is a trial that missed. In each
study the fastest trial counts, over the studies their median:

.. math::
  t_{s,w} = \operatorname{median}_k \min_j t_{s,w,k,j}, \qquad
  r_{s,w} = t_{s,w} / \min_{s'} t_{s',w}, \qquad
  \rho_s(\tau) = \frac{1}{W} \left|\{w : r_{s,w} \le \tau\}\right|

and the score of a method is the mean of its profile :math:`\rho_s` from 1 to 4.

Reference: Dahl et al., Benchmarking Neural Network Training Algorithms, 2023.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

__all__ = ["LARGEST", "agreement", "of_workloads", "profile", "ratios", "score", "speed_up"]

# The profile is taken up to this many times the fastest method's time.
LARGEST = 4.0


def of_workloads(times: Any) -> np.ndarray:
    """Returns a method's time on a workload: median over studies of the fastest trial.

    Args:
      times: Shape (..., studies, trials), positive or infinite.

    Returns:
      Shape (...,).

    Raises:
      ValueError: On a time that is NaN or not positive.
    """
    times = np.asarray(times, np.float64)
    if np.isnan(times).any() or (times <= 0).any():
        raise ValueError("times must be positive; a trial that missed its target is infinite")
    best = np.sort(times.min(-1), axis=-1)
    studies = best.shape[-1]
    # np.median would subtract infinities where the number of studies is even.
    return (best[..., (studies - 1) // 2] + best[..., studies // 2]) / 2


def ratios(times: Any) -> np.ndarray:
    """Returns the times of (methods, workloads) over the fastest method's; infinite for a miss."""
    times = np.asarray(times, np.float64)
    fastest = times.min(0)
    reached = np.isfinite(fastest)
    return np.where(reached, times / np.where(reached, fastest, 1.0), np.inf)


def profile(times: Any, taus: Any) -> np.ndarray:
    """Returns the performance profiles, shape (methods, taus), of times (methods, workloads).

    Example:
      >>> profile([[1.0, 2.0], [2.0, 1.0]], [1.0, 2.0]).tolist()
      [[0.5, 1.0], [0.5, 1.0]]
    """
    inside = ratios(times)[:, :, None] <= np.asarray(taus, np.float64)
    return inside.mean(1)


def score(times: Any, points: int | None = None) -> np.ndarray:
    r"""Returns the score of each method, between 0 and 1.

    .. math::
      B_s = \frac13 \int_1^4 \rho_s(\tau)\, d\tau
          = \frac1W \sum_w \operatorname{clip}\left(\frac{4 - r_{s,w}}{3}, 0, 1\right)

    Args:
      times: Shape (methods, workloads).
      points: ``None`` for the exact integral. AlgoPerf's own program integrates 100 points by the
        trapezoid rule, which published scores are by.

    Example:
      >>> score([[1.0, 2.0], [2.0, 1.0]]).round(4).tolist()  # 5/6 each
      [0.8333, 0.8333]
    """
    if points is None:
        return np.clip((LARGEST - ratios(times)) / (LARGEST - 1), 0, 1).mean(1)
    taus = np.linspace(1, LARGEST, points)
    return np.trapezoid(profile(times, taus), taus, axis=1) / (LARGEST - 1)


def speed_up(times: Any, baseline: int) -> list[tuple[float, int]]:
    """Returns how much faster than the baseline each method is, over the workloads both reach.

    Args:
      times: Shape (methods, workloads).
      baseline: Row of the baseline.

    Returns:
      For each method ``(geometric mean of baseline's time over its own, number of workloads)``;
      NaN without such a workload.
    """
    times = np.asarray(times, np.float64)
    result = []
    for own in times:
        both = np.isfinite(own) & np.isfinite(times[baseline])
        logs = np.log(times[baseline][both] / own[both])
        result.append((float(np.exp(logs.mean())) if both.any() else math.nan, int(both.sum())))
    return result


def agreement(scores: Mapping[str, float], places: Mapping[str, float]) -> tuple[float, float, int]:
    """Returns how far a ranking by scores agrees with places that were published.

    Args:
      scores: Of the methods here; the largest is the best.
      places: Of methods there, 1 the best; methods that share a place tie.

    Returns:
      Spearman's correlation over the methods that are in both, its p-value by permutations, and
      their number; NaN below four methods.
    """
    both = [name for name in scores if name in places]
    if len(both) < 4:
        return math.nan, math.nan, len(both)
    own, theirs = [-scores[n] for n in both], [places[n] for n in both]

    def statistic(x):
        return stats.spearmanr(x, theirs).statistic

    found = stats.permutation_test(
        (own,), statistic, permutation_type="pairings", n_resamples=2000, rng=0
    )
    return float(found.statistic), float(found.pvalue), len(both)
