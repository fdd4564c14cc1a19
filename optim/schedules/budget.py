r"""Budget-aware learning-rate schedules: profile x sampling rate, REX, and tables of values.

A schedule is a pure function of the step. Steps outside ``[0, decay_steps]`` are clamped, so that
running on past the end keeps the last value. Every number may be a traced value: schedules work
under ``jax.vmap`` over steps, peaks and budgets, under ``optax.inject_hyperparams``, and inside
``optax.join_schedules`` (which evaluates later schedules at negative steps).

All follow the convention of ``optax.warmup_cosine_decay_schedule``: ``peak_value`` is the largest
value; ``decay_steps`` is the length T of the whole schedule, warm-up included; warm-up is linear
from ``init_value`` at step 0 to ``peak_value`` at step ``warmup_steps``. ``decay_steps`` counts
optimizer updates; with gradient accumulation that is micro-steps divided by the number of them in
one update. A run of T steps uses the values at steps 0 to T-1.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optim import _checks, profiles

__all__ = [
    "onecycle_momentum_schedule",
    "rex_schedule",
    "sampled_schedule",
    "table_schedule",
    "warmup_polynomial_schedule",
]

Schedule = Callable[[Any], Any]

_EVERY_N = {"10-10": 10, "5-25": 20, "1-100": 100}
_INT32_MAX = 2**31 - 1


def whole_steps(name: str, value: Any, low: int = 1) -> Any:
    """Returns a checked number of steps: an ``int``, or an integer array where it is traced."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.floating):
        # optax.inject_hyperparams hands all numbers over as floats.
        if not isinstance(value, jax.core.Tracer) and np.any(np.asarray(value) % 1):
            raise ValueError(f"{name} must be an integer >= {low}, got {value}")
        value = value.astype(jnp.int32)
    _checks.count(name, value, low)
    return value if isinstance(value, jax.core.Tracer) else int(value)


def arithmetic(*steps: Any) -> tuple[Any, ...]:
    """Returns numbers of steps for arithmetic: as floats if there is one that int32 cannot hold."""
    if any(isinstance(n, int) and n > _INT32_MAX for n in steps):
        return tuple(float(n) if isinstance(n, int) else n.astype(float) for n in steps)
    return steps


def clamped(count: Any, total: Any) -> jax.Array:
    """Returns the step clamped to ``[0, total]``, as an integer unless one of them is a float."""
    if isinstance(count, jax.Array):
        if jnp.issubdtype(count.dtype, jnp.integer) and jnp.iinfo(count.dtype).max > _INT32_MAX:
            wide = isinstance(total, float)
            count = count.astype(float) if wide else jnp.minimum(count, _INT32_MAX)
    else:  # JAX would cut a wider integer to its last 32 bits.
        whole = np.asarray(count).dtype.kind != "f"
        count = np.asarray(count, np.float64)
        if whole and not isinstance(total, float):
            count = np.clip(count, -_INT32_MAX, _INT32_MAX).astype(np.int32)
    count = jnp.asarray(count)
    if jnp.issubdtype(count.dtype, jnp.integer):
        count = count.astype(jnp.int32)
    return jnp.clip(count, 0, total)


def warmed_up(multiplier, peak, end_value, decay_steps, warmup_steps, init_value):
    """Schedule ``end + (peak - end) * multiplier(t, T)``, after a linear warm-up."""
    _checks.number("peak_value", peak, array=True)
    _checks.number("end_value", end_value, array=True)
    _checks.number("init_value", init_value, array=True)
    total = whole_steps("decay_steps", decay_steps)
    warm = whole_steps("warmup_steps", warmup_steps, 0)
    if isinstance(total, int) and isinstance(warm, int) and warm >= total:
        raise ValueError(f"warmup_steps must be in [0, decay_steps={total}), got {warm}")
    total, warm = arithmetic(total, warm)
    length = total - warm

    def schedule(count):
        count = clamped(count, total)
        value = end_value + (peak - end_value) * multiplier(jnp.maximum(count - warm, 0), length)
        if isinstance(warm, int | float) and warm == 0:
            return value
        share = jnp.asarray(count, float) / jnp.maximum(jnp.asarray(warm, float), 1)
        return jnp.where(count < warm, init_value + (peak - init_value) * share, value)

    return schedule


def rex_schedule(
    peak_value: Any,
    decay_steps: Any,
    *,
    d: Any = 0.5,
    end_value: Any = 0.0,
    warmup_steps: Any = 0,
    init_value: Any = 0.0,
) -> Schedule:
    r"""REX: reflected exponential decay over a budget of ``decay_steps``.

    .. math::
      \eta_t = \eta_T + (\eta_0 - \eta_T) \frac{z}{(1 - d) + d z},
      \qquad z = 1 - \frac{t}{T}

    With the paper's :math:`d = 1/2` and no floor this is :math:`\eta_0\, 2r/(T + r)`,
    :math:`r = T - t`: the last executed step, T-1, has :math:`2\eta_0/(T+1)`, and step T has 0.

    The warm-up is part of ``decay_steps``, as in optax; T and t above are what follows it. The
    paper does not count it in its budget T: for that, pass ``decay_steps = T + warmup_steps``. It
    is silent about steps after T; they are clamped to the floor.

    Args:
      peak_value: Peak learning rate :math:`\eta_0`; a number or an array.
      decay_steps: Length in optimizer updates, warm-up included, at least 1.
      d: Shape in [0, 1): 0.5 is the paper, 0 linear. 0.9 and 0.1 are seen in other code.
      end_value: Floor :math:`\eta_T`.
      warmup_steps: Steps of linear warm-up, at least 0 and below ``decay_steps``.
      init_value: Learning rate at step 0 if there is warm-up.

    Returns:
      A schedule: step (integer, any shape) -> learning rate.

    Raises:
      ValueError: If ``decay_steps < 1``, ``warmup_steps`` is outside [0, ``decay_steps``) or ``d``
        outside [0, 1). Traced values are not checked.

    Example:
      >>> import optim
      >>> schedule = optim.rex_schedule(0.1, 100)
      >>> [round(float(schedule(t)), 4) for t in (0, 50, 99, 100, 200)]
      [0.1, 0.0667, 0.002, 0.0, 0.0]

    References:
      Chen, Wolfe & Kyrillidis, `REX: Revisiting Budgeted Training with an Improved Schedule
      <https://arxiv.org/abs/2107.04197>`_, 2022
    """
    profiles.rex(d)  # Checks the range.

    def multiplier(t, total):
        return profiles.rex_multiplier(t, total, d)

    return warmed_up(multiplier, peak_value, end_value, decay_steps, warmup_steps, init_value)


def _sampler(sampling):
    """Returns a function (t, T) -> the (possibly fractional) step at which t's value is taken."""
    if not isinstance(sampling, str):
        if not isinstance(sampling, (Sequence, np.ndarray)):
            raise ValueError(f"sampling must be a name or fractions, got {sampling!r}")
        return _hold_at(profiles.check_fractions("sampling", list(sampling)))
    if sampling == "every":
        return lambda t, total: t
    if sampling in _EVERY_N:
        return _hold_every(_EVERY_N[sampling])
    try:
        percents = [int(p) for p in sampling.split("-")]
    except ValueError:
        percents = []
    if len(percents) == 2 and percents[0] == percents[1] and 0 < percents[0] < 100:
        if 100 % percents[0] == 0:
            return _hold_every(100 // percents[0])
    elif percents:
        return _hold_at(profiles.check_fractions("sampling", [p / 100 for p in percents]))
    _checks.choice(
        "sampling",
        sampling,
        ["every", "50-75", "33-66", "25-50-75", *_EVERY_N],
        "other percents like 30-60-90, 20-20 for every 20 %, or fractions in (0, 1)",
    )
    return None


def _hold_every(n):
    def sample(t, total):
        if isinstance(total, float):  # Beyond int32.
            return jnp.floor(t / total * n) * (total / n)
        t = jnp.floor(t).astype(jnp.int32)
        # k = floor(t n / T) in int32 without overflow: a float guess, then the exact remainder,
        # which is small, so that wrapping in its two terms cancels.
        k = jnp.floor(jnp.asarray(t, float) / jnp.asarray(total, float) * n).astype(jnp.int32)
        rest = t * n - k * total
        k = jnp.where(rest < 0, k - 1, jnp.where(rest >= total, k + 1, k))
        # Counted from the nearer end, so that the last holds are as accurate as the first.
        hold = jnp.asarray(total, float) / n
        return jnp.where(2 * k < n, k * hold, total - (n - k) * hold)

    return sample


def _hold_at(fractions):
    def sample(t, total):
        x = jnp.zeros_like(jnp.asarray(t, float))
        for f in fractions:
            x = jnp.where(t >= profiles.milestone(f, total), f * jnp.asarray(total, float), x)
        return x

    return sample


def sampled_schedule(
    profile: str | profiles.Profile,
    peak_value: Any,
    decay_steps: Any,
    *,
    sampling: str | Sequence[float] = "every",
    end_value: Any = 0.0,
    warmup_steps: Any = 0,
    init_value: Any = 0.0,
) -> Schedule:
    r"""A profile, refreshed at a sampling rate and held in between.

    .. math::
      \eta_t = \eta_T + (\eta_0 - \eta_T)\, p(x_t), \qquad
      x_t = \max\{m \in \mathcal M \cup \{0\} : t \ge m T\}

    with milestones :math:`\mathcal M`; :math:`x_t = t/T` for ``"every"`` step. A hold takes the
    profile at its milestone, p(m), whatever step it begins at when ``m T`` is no integer. With
    warm-up, t and T are counted from its end.

    Args:
      profile: A name of :mod:`optim.profiles`, a profile ``p(t, T)``, or a function of the
        progress ``p(x)``.
      peak_value: Peak learning rate; the multiplier 1 of the profile.
      decay_steps: Length in optimizer updates, warm-up included, at least 1.
      sampling: ``"every"`` step; milestones in percent (``"50-75"``, ``"33-66"``,
        ``"25-50-75"``, ...) or as increasing fractions in (0, 1); ``"N-N"`` is once every N
        percent. ``"5-25"`` and ``"1-100"`` are the REX paper's names for every 5 and 1 percent.
      end_value: Learning rate where the profile is 0.
      warmup_steps: Steps of linear warm-up, at least 0 and below ``decay_steps``.
      init_value: Learning rate at step 0 if there is warm-up.

    Returns:
      A schedule: step (integer, any shape) -> learning rate.

    Raises:
      ValueError: If the profile or sampling rate is unknown, fractions are out of order or outside
        (0, 1), or a number of steps is too small.

    Example:
      >>> import optim
      >>> schedule = optim.sampled_schedule("linear", 1.0, 100, sampling="50-75")
      >>> [float(schedule(t)) for t in (0, 49, 50, 75, 100)]
      [1.0, 1.0, 0.5, 0.25, 0.25]

    References:
      Chen, Wolfe & Kyrillidis, `REX: Revisiting Budgeted Training with an Improved Schedule
      <https://arxiv.org/abs/2107.04197>`_, section 3, 2022
    """
    p, sample = profiles.get(profile), _sampler(sampling)

    def multiplier(t, total):
        return p(sample(t, total), total)

    return warmed_up(multiplier, peak_value, end_value, decay_steps, warmup_steps, init_value)


def onecycle_momentum_schedule(decay_steps: Any, *, high: Any = 0.95, low: Any = 0.85) -> Schedule:
    r"""Momentum in the opposite phase of :func:`optim.profiles.onecycle`.

    .. math::
      \beta_t = \mathrm{low} + (\mathrm{high} - \mathrm{low})\, |2t - T| / T

    Args:
      decay_steps: Budget T in optimizer updates, at least 1.
      high: Momentum at both ends.
      low: Momentum at T/2, where the learning rate peaks.

    Returns:
      A schedule: step -> momentum, for ``optax.inject_hyperparams``.

    Raises:
      ValueError: If ``decay_steps < 1``.

    Example:
      >>> import optax, optim
      >>> lr = optim.sampled_schedule("onecycle", 0.1, 100)
      >>> momentum = optim.onecycle_momentum_schedule(100)
      >>> [round(float(momentum(t)), 4) for t in (0, 50, 100)]
      [0.95, 0.85, 0.95]
      >>> tx = optax.inject_hyperparams(optax.sgd)(learning_rate=lr, momentum=momentum)
    """
    _checks.number("high", high, array=True)
    _checks.number("low", low, array=True)
    (total,) = arithmetic(whole_steps("decay_steps", decay_steps))

    def schedule(count):
        return low + (high - low) * profiles.triangle(clamped(count, total), total)

    return schedule


def table_schedule(peak_value: Any, multipliers: Any) -> Schedule:
    r"""A schedule from an array with one multiplier per step.

    .. math::
      \eta_t = \eta\, m_{\min(\max(t, 0), T-1)}

    Args:
      peak_value: Learning rate :math:`\eta` where the multiplier is 1.
      multipliers: Array of shape [T]. It may be a traced argument, so that one compiled step
        serves any table of that length.

    Returns:
      A schedule: step -> learning rate.

    Raises:
      ValueError: If the array is empty, not one-dimensional or not finite.

    Example:
      >>> import optim
      >>> schedule = optim.table_schedule(0.1, [1.0, 0.5, 0.0])
      >>> [round(float(schedule(t)), 4) for t in (-1, 0, 1, 2, 3)]
      [0.1, 0.1, 0.05, 0.0, 0.0]
    """
    _checks.number("peak_value", peak_value, array=True)
    table = multipliers if isinstance(multipliers, jax.Array) else np.asarray(multipliers, float)
    if table.ndim != 1 or not table.size:
        raise ValueError(f"multipliers must have shape [T] with T >= 1, got {table.shape}")
    _checks.number("multipliers", table, array=True)

    def schedule(count):
        index = clamped(count, table.shape[0] - 1).astype(jnp.int32)
        return peak_value * jnp.asarray(table, float)[index]

    return schedule


def warmup_polynomial_schedule(
    peak_value: Any,
    decay_steps: Any,
    *,
    warmup_fraction: Any = 0.0,
    power: Any = 1.0,
    authors_warmup: bool = False,
) -> Schedule:
    r"""Linear warm-up, then polynomial decay: the closed form near many refined schedules.

    .. math::
      \eta_t = \eta \begin{cases} t / w & t < w \\
        \left(\dfrac{T - t}{T - w}\right)^p & t \ge w \end{cases}
      \qquad w = \mathrm{warmup\_fraction} \cdot T

    The warm-up is part of T and begins at 0, as in optax; :math:`w` need not be an integer.
    :func:`optim.fit_warmup_polynomial` finds the two numbers for a refined schedule.

    Args:
      peak_value: Peak learning rate.
      decay_steps: Number of steps T with warm-up, at least 1.
      warmup_fraction: In [0, 1).
      power: Exponent of the decay, positive.
      authors_warmup: Whether the warm-up is :math:`\min(1, (t + 1) / w)`, as in the refinement
        paper's code: it begins at :math:`1/w` and reaches the peak one step earlier. (For a
        :math:`w` that is no integer that code goes above its peak; here it does not.)

    Returns:
      A schedule: step -> learning rate.

    Raises:
      ValueError: If ``decay_steps < 1``, ``warmup_fraction`` outside [0, 1) or ``power <= 0``.

    Example:
      >>> import optim
      >>> schedule = optim.warmup_polynomial_schedule(1.0, 10, warmup_fraction=0.2, power=2.0)
      >>> [round(float(schedule(t)), 4) for t in (0, 1, 2, 6, 10)]
      [0.0, 0.5, 1.0, 0.25, 0.0]

    References:
      Defazio et al., `Optimal Linear Decay Learning Rate Schedules and Further Refinements
      <https://arxiv.org/abs/2310.07831>`_, 2023
    """
    _checks.number("peak_value", peak_value, array=True)
    (total,) = arithmetic(whole_steps("decay_steps", decay_steps))
    _checks.number("warmup_fraction", warmup_fraction, 0, 1, open_high=True)
    _checks.flag("authors_warmup", authors_warmup)
    profiles.polynomial(power)  # Checks the range.

    def schedule(count):
        t = clamped(count, total)
        w = jnp.asarray(warmup_fraction * total, float)
        done = jnp.asarray(t, float)
        rise = (done + 1 if authors_warmup else done) / jnp.maximum(w, 1e-30)
        fall = jnp.maximum(jnp.asarray(total - t, float) / (total - w), 0.0) ** power
        return peak_value * jnp.where(done < w, jnp.minimum(rise, 1.0), fall)

    return schedule
