r"""Schedules refined from the gradient norms observed in an earlier run.

The last-iterate bound behind linear decay is optimal for constant gradient norms. With the norms
:math:`G_t` of a pilot run the same theory gives the schedule :math:`\eta_t \propto w_t \sum_{p>t}
w_p`, with :math:`w_t = G_t^{-2}` for SGD (l2 norms) and :math:`w_t = G_t^{-1}` for Adam (l1 norms).
Everything here is numpy: norms in, multipliers with maximum 1 out.
"""

import bisect
import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from optim import _checks
from optim.schedules.budget import Schedule, table_schedule, whole_steps

__all__ = [
    "fit_warmup_polynomial",
    "last_iterate_bound",
    "refine",
    "refined_schedule",
    "smooth_norms",
]

_POWER = {"l2": 2, "l1": 1}


def _checked(grad_norms):
    """Finite norms, float64."""
    norms = np.asarray(grad_norms, np.float64)
    if norms.ndim != 1 or not norms.size:
        raise ValueError(f"grad_norms must have shape [T] with T >= 1, got {norms.shape}")
    finite = np.isfinite(norms)
    if dropped := int((~finite).sum()):
        warnings.warn(f"dropped {dropped} of {norms.size} gradient norms: not finite", stacklevel=3)
        norms = norms[finite]
    if not norms.size or norms.min() < 0 or norms.max() == 0:
        seen = f"{norms.min():g} to {norms.max():g}" if norms.size else "no finite ones"
        raise ValueError(f"grad_norms must be >= 0 and not all zero, got {seen}")
    return norms


def _resampled(values, num):
    if num == values.size:
        return values
    return np.interp(np.linspace(0, values.size - 1, num), np.arange(values.size), values)


def smooth_norms(
    grad_norms: ArrayLike, tau: float = 0.1, *, filter_width: int | None = None
) -> np.ndarray:
    r"""Median filter of the gradient norms, the authors' one.

    The window is :math:`2 \lfloor \lfloor\tau n\rfloor / 2\rfloor + 1` steps wide. The sequence is
    continued by reflection at its end and by its first value at its start.

    Args:
      grad_norms: Norms, shape [n], one per step. Non-finite ones are dropped with a warning.
      tau: Share of the run in one window, in [0, 1]; 0 leaves the norms as they are.
      filter_width: The width itself, odd, instead of ``tau``. The authors' plots take it from a
        fixed 10000 steps whatever the length of the sequence; this reproduces them.

    Returns:
      Smoothed norms, float64, as many as there are finite norms.

    Raises:
      ValueError: If no norm is positive, one is negative, ``tau`` is outside [0, 1] or
        ``filter_width`` is not odd and positive.

    Example:
      >>> import optim
      >>> optim.smooth_norms([1.0, 9.0, 1.0, 2.0, 2.0], filter_width=3).tolist()
      [1.0, 1.0, 2.0, 2.0, 2.0]
    """
    norms = _checked(grad_norms)
    _checks.number("tau", tau, 0, 1)
    if filter_width is None:
        filter_width = 2 * (int(tau * norms.size) // 2) + 1
    elif not (isinstance(filter_width, int | np.integer) and filter_width > 0 and filter_width % 2):
        raise ValueError(f"filter_width must be odd and >= 1, got {filter_width!r}")
    half = filter_width // 2
    if not half or norms.size == 1:
        return norms
    padded = np.concatenate([np.full(half, norms[0]), np.pad(norms, (0, half), mode="reflect")])
    # A sorted window: one deletion and one insertion a step.
    values = padded.tolist()
    window = sorted(values[:filter_width])
    medians = [window[half]]
    for old, new in zip(values, values[filter_width:], strict=False):
        del window[bisect.bisect_left(window, old)]
        bisect.insort(window, new)
        medians.append(window[half])
    return np.array(medians)


def refine(
    grad_norms: ArrayLike,
    *,
    norm: str = "l2",
    tau: float = 0.1,
    method: str = "closed_form",
    num_steps: int | None = None,
    filter_width: int | None = None,
) -> np.ndarray:
    r"""Refines linear decay with the gradient norms of an earlier run.

    .. math::
      w_t &= \hat G_t^{-2} \text{ (l2)} \quad\text{or}\quad \hat G_t^{-1} \text{ (l1)} \\
      m_t &= w_t \sum_{p=t+1}^{T-1} w_p, \qquad \text{divided by } \max_t m_t

    with :math:`\hat G` the norms after :func:`smooth_norms`. Constant norms give
    :math:`(T-1-t)/(T-1)`: as in the authors' code the last multiplier is exactly 0, so the last
    step of a run changes nothing (:func:`optim.rex_schedule` and ``profiles.linear`` reach 0 one
    step later). A single norm gives the multiplier 1 (the formula's 0/0).

    ``method="bound"`` minimizes the bound itself numerically (the authors' second approach), see
    :func:`last_iterate_bound`; it is meant for l2 norms and needs scipy.

    Args:
      grad_norms: Norm of the minibatch gradient at each step of the pilot, shape [n]. Zeros are
        raised to 1e-12 of the maximum after smoothing; non-finite norms are dropped with a warning.
      norm: ``"l2"`` norms for SGD, ``"l1"`` norms for Adam; must be the norm that was recorded.
      tau: Smoothing window as a share of the sequence, in [0, 1]; 0 for none.
      method: ``"closed_form"`` or ``"bound"``.
      num_steps: Number of multipliers, by linear interpolation; default: one per norm. A shorter
        sequence is interpolated before smoothing, a longer one after, as in the authors' code.
      filter_width: Odd window instead of ``tau``, see :func:`smooth_norms`.

    Returns:
      Multipliers, float64, shape [T], in [0, 1] with maximum 1. Sweep the peak again: the best
      one for a refined schedule is not the pilot's.

    Raises:
      ValueError: If no norm is positive, one is negative, or an argument is out of its range.

    Example:
      >>> import optim
      >>> optim.refine([2.0, 2.0, 2.0], tau=0).tolist()
      [1.0, 0.5, 0.0]
      >>> optim.refine([4.0, 2.0, 2.0], norm="l1", tau=0).tolist()
      [1.0, 1.0, 0.0]

    References:
      Defazio et al., `Optimal Linear Decay Learning Rate Schedules and Further Refinements
      <https://arxiv.org/abs/2310.07831>`_, 2023
    """
    _checks.choice("norm", norm, _POWER)
    _checks.choice("method", method, ["closed_form", "bound"])
    if method == "bound" and norm != "l2":
        raise ValueError(f"norm must be 'l2' with method 'bound', got {norm!r}")
    norms = _checked(grad_norms)
    num_steps = norms.size if num_steps is None else whole_steps("num_steps", num_steps)
    if norms.size < num_steps:
        norms = _resampled(norms, num_steps)
    norms = _resampled(smooth_norms(norms, tau, filter_width=filter_width), num_steps)
    if norms.max() == 0:
        raise ValueError(f"grad_norms must not be zero everywhere after smoothing with tau={tau}")
    norms = np.maximum(norms, 1e-12 * norms.max())
    if norms.size == 1:
        return np.ones(1)
    if method == "bound":
        multipliers = _minimize_bound(norms)
    else:
        w = (norms / norms.max()) ** -_POWER[norm]
        tail = np.cumsum(w[::-1])[::-1]
        multipliers = w * np.append(tail[1:], 0.0)
    return multipliers / multipliers.max()


def last_iterate_bound(
    learning_rates: ArrayLike, grad_norms: ArrayLike, distance: float = 1.0
) -> tuple[float, np.ndarray]:
    r"""Bound on the suboptimality of SGD's last iterate, and its gradient.

    .. math::
      \frac{D^2}{2S} + \frac{1}{2S}\sum_t G_t^2\lambda_t^2 + \frac12\sum_{k<T-1}
      \frac{\lambda_k \sum_{p \ge k} G_p^2 \lambda_p^2}
      {\left(\sum_{p \ge k}\lambda_p\right)\left(\sum_{p > k}\lambda_p\right)},
      \qquad S = \sum_t \lambda_t

    Args:
      learning_rates: Learning rates :math:`\lambda > 0`, shape [T].
      grad_norms: l2 norms :math:`G \ge 0`, shape [T].
      distance: :math:`D \ge 0`, from the start to the solution.

    Returns:
      The bound and its gradient with respect to the learning rates, shape [T].

    Raises:
      ValueError: If the shapes differ, or a number is out of its range.

    Example:
      >>> import optim
      >>> bound, gradient = optim.last_iterate_bound([1.0, 1.0], [1.0, 1.0])
      >>> bound, gradient.shape
      (1.25, (2,))
    """
    lam = np.asarray(learning_rates, np.float64)
    g2 = np.asarray(grad_norms, np.float64) ** 2
    if lam.ndim != 1 or lam.shape != g2.shape:
        raise ValueError(f"learning_rates and grad_norms must match, got {lam.shape}, {g2.shape}")
    _checks.number("learning_rates", lam, 0, open_low=True, array=True)
    _checks.number("grad_norms", np.asarray(grad_norms), 0, array=True)
    _checks.number("distance", distance, 0)
    tail = np.cumsum(lam[::-1])[::-1]
    energy = np.cumsum((g2 * lam**2)[::-1])[::-1]
    total = tail[0]
    # lam_k / (tail_k tail_{k+1}) = 1/tail_{k+1} - 1/tail_k, so that sums over k telescope.
    inverse = 1 / tail
    steps = np.diff(inverse)
    value = 0.5 * (distance**2 + energy[0]) / total + 0.5 * energy[:-1] @ steps
    reach = np.append(inverse[1:], inverse[-1])
    # Coefficient of 1/tail_m in the last sum.
    coefficient = np.append(0.0, energy[:-1]) - np.append(energy[:-1], 0.0)
    gradient = (
        g2 * lam * inverse[0]
        - 0.5 * (distance**2 + energy[0]) / total**2
        + g2 * lam * (reach - inverse[0])
        - 0.5 * np.cumsum(coefficient * inverse**2)
    )
    return float(value), gradient


def _minimize_bound(norms):
    try:
        from scipy.optimize import minimize
    except ImportError as error:  # optim itself does not need scipy.
        raise ImportError("refine(method='bound') needs scipy: pip install scipy") from error

    # The shape of the minimizer depends neither on the distance nor on the unit of the norms;
    # in logarithms the learning rates stay positive. Bound and start are the authors'.
    unit = norms / np.median(norms)

    def objective(u):
        value, gradient = last_iterate_bound(np.exp(u), unit)
        return value, gradient * np.exp(u)

    start = np.full(norms.size, -0.5 * math.log(norms.size))
    result = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(math.log(1e-8), None)] * norms.size,
        options={"maxiter": 20000, "maxfun": 200000, "maxcor": 30, "ftol": 1e-15, "gtol": 1e-10},
    )
    return np.exp(result.x)


def refined_schedule(
    peak_value: Any,
    grad_norms: ArrayLike,
    *,
    norm: str = "l2",
    tau: float = 0.1,
    method: str = "closed_form",
    decay_steps: int | None = None,
    filter_width: int | None = None,
) -> Schedule:
    r"""The refined schedule :math:`\eta_t = \eta\, m_t` of :func:`refine`.

    Args:
      peak_value: Peak learning rate :math:`\eta`; may be traced.
      grad_norms: Norms of the pilot, shape [n].
      norm: ``"l2"`` (SGD) or ``"l1"`` (Adam).
      tau: Smoothing window as a share of the sequence.
      method: ``"closed_form"`` or ``"bound"``.
      decay_steps: Budget T of the new run; default: the pilot's, n (dropped norms included). A
        record of fewer norms than steps (every tenth, say) needs it.
      filter_width: Odd window instead of ``tau``.

    Returns:
      A schedule: step -> learning rate, 0 from step T-1 on.

    Raises:
      ValueError: As :func:`refine`.

    Example:
      >>> import optim
      >>> schedule = optim.refined_schedule(0.1, [2.0, 2.0, 2.0], tau=0)
      >>> [round(float(schedule(t)), 4) for t in range(4)]
      [0.1, 0.05, 0.0, 0.0]
    """
    if decay_steps is None:
        decay_steps = max(np.size(grad_norms), 1)
    multipliers = refine(
        grad_norms,
        norm=norm,
        tau=tau,
        method=method,
        num_steps=whole_steps("decay_steps", decay_steps),
        filter_width=filter_width,
    )
    return table_schedule(peak_value, multipliers)


def fit_warmup_polynomial(multipliers: ArrayLike) -> tuple[float, float]:
    r"""Fits warm-up + polynomial decay to a refined schedule, in least squares.

    .. math::
      \min_{f, p} \sum_t (m_t - \hat m_t(f, p))^2

    where :math:`\hat m` is :func:`optim.warmup_polynomial_schedule` with peak 1. The end of the
    warm-up and the power are found by grids that are narrowed around the best cell, on at most
    1000 of the steps. (The numbers in the authors' code are no fits; they overlay the curves.)

    Args:
      multipliers: Values of a schedule with maximum 1, shape [T], T >= 2.

    Returns:
      ``(warmup_fraction, power)``, to reuse in :func:`optim.warmup_polynomial_schedule` on runs
      of any length.

    Raises:
      ValueError: If there are fewer than two multipliers or one is not finite.

    Example:
      >>> import numpy as np, optim
      >>> fraction, power = optim.fit_warmup_polynomial((1 - np.arange(100) / 100) ** 2)
      >>> round(fraction, 2), round(power, 2)
      (0.0, 2.0)
    """
    m = np.asarray(multipliers, np.float64)
    if m.ndim != 1 or m.size < 2 or not np.isfinite(m).all():
        raise ValueError(f"multipliers must be at least 2 finite numbers, got shape {m.shape}")
    n = m.size
    t = np.unique(np.linspace(0, n - 1, min(n, 1000)).round().astype(int))
    m = m[t]

    def error(w, log_power):
        rise = t / max(w, 1e-30)
        fall = (np.maximum(n - t, 0) / (n - w)) ** math.exp(log_power)
        return float(((np.where(t < w, rise, np.minimum(fall, 1.0)) - m) ** 2).mean())

    def best_power(w):
        grid = np.linspace(math.log(0.05), math.log(50), 25)
        for _ in range(5):  # Each pass narrows the bracket twelvefold.
            values = [error(w, x) for x in grid]
            i = int(np.argmin(values))
            grid = np.linspace(grid[max(i - 1, 0)], grid[min(i + 1, 24)], 25)
        return min(values), grid[12]

    ends = np.unique(np.linspace(0, 0.95 * n, min(n, 60)))
    for _ in range(3):
        scores = [best_power(w)[0] for w in ends]
        i = int(np.argmin(scores))
        w = ends[i]
        ends = np.linspace(ends[max(i - 1, 0)], ends[min(i + 1, len(ends) - 1)], 17)
    return float(w / n), float(math.exp(best_power(w)[1]))
