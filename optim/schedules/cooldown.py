r"""Schedules that are flat or slow at first and cool down at the end.

They follow the convention of :mod:`optim.schedules.budget`, and are computed from the share
:math:`q` of the cool-down that remains, so that they keep their relative accuracy near its end.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optim import _checks
from optim.schedules.budget import Schedule, arithmetic, clamped, warmed_up, whole_steps

__all__ = ["cosine_power_schedule", "power_cool_schedule", "wsd_schedule"]

# The multiplier of the peak where the share q = 1 - r of the cool-down remains.
_KINDS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "linear": lambda q: q,
    "cosine": lambda q: jnp.sin(0.5 * math.pi * q) ** 2,
    "exponential": lambda q: jnp.expm1(q * math.log(2.0)),
    "1-sqrt": lambda q: q / (1 + jnp.sqrt(1 - q)),
    "1-square": lambda q: q * (2 - q),
}


def cosine_power_schedule(
    peak_value: Any,
    decay_steps: Any,
    end_value: Any = 0.0,
    *,
    power: Any = 10.0,
    warmup_steps: Any = 0,
    init_value: Any = 0.0,
    normalize: str = "analytic",
) -> Schedule:
    r"""Cosine annealing in the exponent: the larger ``power`` is, the earlier it falls.

    .. math::
      \eta_t = \eta_T + (\eta_0 - \eta_T)\, \frac{p^{c_t} - 1}{p - 1}, \qquad
      c_t = \tfrac12\left(1 + \cos \pi \tfrac tT\right)

    with t and T counted from the end of the warm-up; :math:`p = 1` is the cosine itself.

    Args:
      peak_value: Peak learning rate :math:`\eta_0`.
      decay_steps: Length in optimizer updates, warm-up included, at least 1.
      end_value: Floor :math:`\eta_T`.
      power: :math:`p \ge 1`.
      warmup_steps: Steps of linear warm-up, at least 0 and below ``decay_steps``.
      init_value: Learning rate at step 0 if there is warm-up.
      normalize: ``"analytic"``, the equation, or ``"given"``, the authors' code: its steps are
        counted from 1 and the curve is scaled to the values that it takes there, so that step 0 has
        the peak and step ``decay_steps - 1`` the floor. Its w warm-up steps are
        :math:`1/(w+1), \dots, w/(w+1)` of the way from the floor to the peak, which follows;
        ``init_value`` is not used.

    Returns:
      A schedule: step -> learning rate.

    Raises:
      ValueError: If ``power < 1``, a number of steps is out of range, or ``normalize`` is unknown.

    Example:
      >>> import optim
      >>> schedule = optim.cosine_power_schedule(1.0, 100)
      >>> [round(float(schedule(t)), 4) for t in (0, 25, 50, 100)]
      [1.0, 0.682, 0.2403, 0.0]

    References:
      Hundt, Jain & Hager, `sharpDARTS <https://arxiv.org/abs/1903.09900>`_, 2019
    """
    _checks.number("power", power, 1)
    _checks.choice("normalize", normalize, ["analytic", "given"])

    def multiplier(t, total):
        rest = jnp.asarray(total - t, float) / jnp.asarray(total, float)
        c = jnp.sin(0.5 * math.pi * rest) ** 2
        log = jnp.log(jnp.asarray(power, float))
        curved = jnp.expm1(c * log) / jnp.where(log > 0, jnp.expm1(log), 1.0)
        return jnp.where(log > 0, curved, c)

    if normalize == "analytic":
        return warmed_up(multiplier, peak_value, end_value, decay_steps, warmup_steps, init_value)
    return _as_given(multiplier, peak_value, end_value, decay_steps, warmup_steps)


def _as_given(multiplier, peak, end_value, decay_steps, warmup_steps):
    """The authors' steps ``e = t + 1`` from 1 to T, scaled to the values at them."""
    warmed_up(multiplier, peak, end_value, decay_steps, warmup_steps, 0.0)  # Checks the ranges.
    total, warm = arithmetic(
        whole_steps("decay_steps", decay_steps), whole_steps("warmup_steps", warmup_steps, 0)
    )

    def schedule(count):
        t = clamped(count, total - 1)
        since = jnp.maximum(t + 1 - warm, 1)
        largest = jnp.where(jnp.asarray(warm) > 0, 1.0, multiplier(1, total - warm))
        share = multiplier(since, total - warm) / largest
        share = jnp.where(t > warm, share, jnp.asarray(t + 1, float) / (warm + 1))
        return end_value + (peak - end_value) * share

    return schedule


def wsd_schedule(
    peak_value: Any,
    decay_steps: Any,
    warmup_steps: Any,
    cooldown_steps: Any,
    kind: str | Callable[[Any], Any] = "linear",
    *,
    init_value: Any = 0.0,
    end_value: Any = 0.0,
    end_mode: str = "scaled",
) -> Schedule:
    r"""Warm-up, stable, decay (WSD): a plateau at the peak with a short cool-down at its end.

    .. math::
      \eta_t = \begin{cases}
        \eta_{\mathrm{init}} + (\eta - \eta_{\mathrm{init}})\, t / w & t < w \\
        \eta & w \le t < T - D \\
        \eta_{\mathrm{end}} + (\eta - \eta_{\mathrm{end}})\, k(r) & t \ge T - D
      \end{cases}
      \qquad r = \frac{t - (T - D)}{D}

    ================  ==========================
    ``kind``          :math:`k(r)`
    ================  ==========================
    ``linear``        :math:`1 - r`
    ``cosine``        :math:`(1 + \cos \pi r)/2`
    ``exponential``   :math:`2 \cdot 2^{-r} - 1`
    ``1-sqrt``        :math:`1 - \sqrt r`
    ``1-square``      :math:`1 - r^2`
    a function        its value at r
    ================  ==========================

    MiniCPM's form, which halves every ``h`` steps and does not end at 0, is
    ``kind=lambda r: 0.5 ** (r * cooldown_steps / h)``.

    Args:
      peak_value: Peak learning rate :math:`\eta`.
      decay_steps: Length T in optimizer updates, warm-up and cool-down included.
      warmup_steps: Steps w of linear warm-up, at least 0.
      cooldown_steps: Steps D of the cool-down, at least 1; ``warmup_steps + cooldown_steps`` is at
        most ``decay_steps``. (Megatron takes more and jumps at the end of the warm-up.)
      kind: Form of the cool-down, as in the table.
      init_value: Learning rate at step 0 if there is warm-up.
      end_value: Floor, from step T on.
      end_mode: ``"scaled"`` cools down to ``end_value``; ``"jump"`` cools down to 0 and jumps up to
        ``end_value`` at step T, as pytorch_optimizer does.

    Returns:
      A schedule: step -> learning rate.

    Raises:
      ValueError: If a number of steps is out of range, or ``kind`` or ``end_mode`` is unknown.

    Example:
      >>> import optim
      >>> schedule = optim.wsd_schedule(1.0, 100, 10, 20, "1-sqrt")
      >>> [round(float(schedule(t)), 4) for t in (0, 5, 10, 80, 85, 100)]
      [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]

    References:
      Hu et al., `MiniCPM <https://arxiv.org/abs/2404.06395>`_, 2024;
      Hägele et al., `Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations
      <https://arxiv.org/abs/2405.18392>`_, 2024
    """
    if not callable(kind):
        _checks.choice("kind", kind, _KINDS, "a function")
    _checks.choice("end_mode", end_mode, ["scaled", "jump"])
    total = whole_steps("decay_steps", decay_steps)
    warm = whole_steps("warmup_steps", warmup_steps, 0)
    cool = whole_steps("cooldown_steps", cooldown_steps)
    if all(isinstance(n, int) for n in (total, warm, cool)) and warm + cool > total:
        raise ValueError(
            "warmup_steps + cooldown_steps must be at most decay_steps="
            f"{total}, got {warm} + {cool}"
        )
    last, _, cool = arithmetic(total, warm, cool)

    def multiplier(t, length):
        q = jnp.minimum(jnp.asarray(length - t, float) / jnp.asarray(cool, float), 1.0)
        return kind(1 - q) if callable(kind) else _KINDS[kind](q)

    if end_mode == "scaled":
        return warmed_up(multiplier, peak_value, end_value, total, warm, init_value)
    _checks.number("end_value", end_value, array=True)
    to_zero = warmed_up(multiplier, peak_value, 0.0, total, warm, init_value)
    return lambda count: jnp.where(clamped(count, last) < last, to_zero(count), end_value)


def power_cool_schedule(
    peak_value: Any, decay_steps: Any, flat_steps: Any, power: Any = 1.2
) -> Schedule:
    r"""Flat, then a power of the remaining steps (PowerCool of modded-nanogpt).

    .. math::
      \eta_t = \eta \min\left(1, \left(\frac{T - t}{T - t_0}\right)^p\right)

    Its code has :math:`\min(\eta, c\,(T - t)^p)`, so that :math:`c = \eta / (T - t_0)^p`.

    Args:
      peak_value: Peak learning rate :math:`\eta`.
      decay_steps: Length T in optimizer updates, at least 1.
      flat_steps: Steps :math:`t_0` at the peak, in [0, T); need not be an integer.
      power: Exponent p, positive.

    Returns:
      A schedule: step -> learning rate, 0 from step T on.

    Raises:
      ValueError: If a number is out of its range.

    Example:
      >>> import optim
      >>> schedule = optim.power_cool_schedule(1.0, 100, 50, power=2.0)
      >>> [round(float(schedule(t)), 4) for t in (0, 50, 75, 100)]
      [1.0, 1.0, 0.25, 0.0]

    References:
      Jordan et al., `modded-nanogpt <https://github.com/KellerJordan/modded-nanogpt>`_
    """
    _checks.number("peak_value", peak_value, array=True)
    total = whole_steps("decay_steps", decay_steps)
    high = total if isinstance(total, int) else math.inf
    _checks.number("flat_steps", flat_steps, 0, high, open_high=True)
    _checks.number("power", power, 0, open_low=True)
    (total,) = arithmetic(total)

    def schedule(count):
        rest = jnp.asarray(total - clamped(count, total), float)
        return peak_value * jnp.minimum(rest / (total - flat_steps), 1.0) ** power

    return schedule
