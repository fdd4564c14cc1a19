r"""Shapes of a learning-rate schedule: the multiplier at step t of T.

A profile is a function ``p(t, T=1)`` that returns the multiplier of the peak learning rate after
``t`` of ``T`` steps, ``0 <= t <= T``. With the default ``T=1`` the first argument is the progress
:math:`x = t/T \in [0, 1]`. All profiles but ``inverse_time`` and ``inverse_sqrt`` depend on
:math:`t/T` alone. They are computed from the remaining steps ``T - t``, which is exact for integer
counts, because in float32 ``1 - t/T`` has a relative error of 2e-3 near the end of 10^6 steps.

:func:`optim.sampled_schedule` turns a profile into a schedule; a user's own profile is such a
function, or a function of the progress alone (``lambda x: 1 - x``).
"""

import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np

from optim import _checks

__all__ = [
    "constant",
    "cosine",
    "delayed_linear",
    "exponential",
    "inverse_sqrt",
    "inverse_time",
    "linear",
    "onecycle",
    "polynomial",
    "rex",
    "step",
]

Profile = Callable[..., Any]


def _float(x):
    return jnp.asarray(x, float)  # int / int is float32 in JAX even under x64.


def _rest(t, total):
    """Remaining share of the steps, with full relative accuracy for integer counts."""
    return _float(total - t) / _float(total)


def milestone(fraction: float, total: Any) -> Any:
    """Returns the first integer step ``t >= fraction * total``, in exact integer arithmetic.

    With a traced ``total`` the fraction is taken to the nearest one with a denominator of at most
    2**15 (exact for percents and for up to four decimals), so that nothing overflows int32.
    """
    if isinstance(total, (int, np.integer)):
        # 0.55 is meant as 55/100, not as the double slightly above it.
        return math.ceil(Fraction(str(float(fraction))) * int(total))
    ratio = Fraction(str(float(fraction))).limit_denominator(2**15)
    n, d = ratio.numerator, ratio.denominator
    whole, part = total // d, total % d
    return n * whole + (n * part + d - 1) // d


def check_fractions(name: str, fractions: Sequence[float]) -> tuple[float, ...]:
    """Returns the fractions as floats, checked to increase strictly inside (0, 1)."""
    values = tuple(float(f) for f in fractions)
    increasing = all(a < b for a, b in itertools.pairwise(values))
    if not values or not increasing or not all(0 < f < 1 for f in values):
        raise ValueError(f"{name} must be increasing and in (0, 1), got {list(fractions)}")
    return values


def constant(t, T=1):
    """Returns 1 at every step.

    Args:
      t: Steps done, a number or an array.
      T: Number of steps; not used.

    Returns:
      The multiplier of the peak, an array like ``t``.

    Example:
      >>> from optim import profiles
      >>> float(profiles.constant(0.3))
      1.0
    """
    del T
    return jnp.ones_like(_float(t))


def linear(t, T=1):
    r"""Linear decay, :math:`p = 1 - t/T`.

    Args:
      t: Steps done, a number or an array.
      T: Number of steps.

    Returns:
      The multiplier of the peak, an array like ``t``.

    Example:
      >>> from optim import profiles
      >>> float(profiles.linear(3, 4))
      0.25
    """
    return _rest(t, T)


def cosine(t, T=1):
    r"""Half a cosine, :math:`p = \tfrac12(1 + \cos \pi t/T) = \sin^2(\tfrac\pi2 (T-t)/T)`.

    Args:
      t: Steps done, a number or an array.
      T: Number of steps.

    Returns:
      The multiplier of the peak, an array like ``t``.

    Example:
      >>> from optim import profiles
      >>> round(float(profiles.cosine(1, 2)), 6)
      0.5

    References:
      Loshchilov & Hutter, `SGDR <https://arxiv.org/abs/1608.03983>`_, 2017
    """
    # The sine keeps its relative accuracy near the end, where 1 + cos cancels.
    return jnp.sin(0.5 * math.pi * _rest(t, T)) ** 2


def exponential(gamma: float = -3.0) -> Profile:
    r"""Exponential decay, :math:`p = e^{\gamma t/T}`; the REX paper finds -3 best.

    Args:
      gamma: Exponent, finite and at most 0.

    Returns:
      A profile.

    Raises:
      ValueError: If ``gamma`` is positive or not finite.

    Example:
      >>> from optim import profiles
      >>> round(float(profiles.exponential(-3.0)(1.0)), 4)
      0.0498
    """
    _checks.number("gamma", gamma, high=0)
    return lambda t, T=1: jnp.exp(gamma * (_float(t) / _float(T)))


def step(fractions: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> Profile:
    r"""Step decay: multiplied by ``factor`` from each fraction of the steps on.

    .. math::
      p = \mathrm{factor}^{\#\{i :\, t \ge f_i T\}}

    Args:
      fractions: Increasing, inside (0, 1). The default is the REX paper's.
      factor: In (0, 1].

    Returns:
      A profile.

    Raises:
      ValueError: If the fractions are out of order or outside (0, 1), or the factor outside (0, 1].

    Example:
      >>> from optim import profiles
      >>> [round(float(profiles.step()(t, 100)), 6) for t in (49, 50, 75)]
      [1.0, 0.1, 0.01]
    """
    fractions = check_fractions("fractions", fractions)
    _checks.number("factor", factor, 0, 1, open_low=True)

    def profile(t, T=1):
        whole = jnp.issubdtype(jnp.result_type(t), jnp.integer)
        p = jnp.ones_like(_float(t))
        for f in fractions:
            # Exact for counts; a float t (a held milestone) may have been rounded downwards.
            start = milestone(f, T) if whole else (f - 1e-6) * T
            p = jnp.where(t >= start, p * factor, p)
        return p

    return profile


def rex(d: float = 0.5) -> Profile:
    r"""Reflected exponential, slow at first and fast at the end.

    .. math::
      p = \frac{z}{(1 - d) + d z}, \qquad z = 1 - t/T

    Args:
      d: Shape in [0, 1). 0.5 is the paper (:math:`2r/(T+r)` with :math:`r = T - t`), 0 is linear;
        other implementations use 0.9 or 0.1.

    Returns:
      A profile.

    Raises:
      ValueError: If ``d`` is outside [0, 1).

    Example:
      >>> from optim import profiles
      >>> round(float(profiles.rex(0.5)(1, 2)), 6)
      0.666667

    References:
      Chen, Wolfe & Kyrillidis, `REX: Revisiting Budgeted Training with an Improved Schedule
      <https://arxiv.org/abs/2107.04197>`_, 2022
    """
    _check_d(d)
    return lambda t, T=1: rex_multiplier(t, T, d)


def _check_d(d):
    _checks.number("d", d, 0, 1, open_high=True)


def rex_multiplier(t, T, d):
    """The REX profile with a shape that may be traced."""
    rest, total = _float(T - t), _float(T)
    return rest / ((1 - d) * total + d * rest)


def polynomial(power: float = 1.0) -> Profile:
    r"""Polynomial decay, :math:`p = (1 - t/T)^{\mathrm{power}}`.

    Args:
      power: Positive.

    Returns:
      A profile.

    Raises:
      ValueError: If ``power`` is not positive.

    Example:
      >>> from optim import profiles
      >>> float(profiles.polynomial(2.0)(1, 2))
      0.25
    """
    _checks.number("power", power, 0, open_low=True)
    return lambda t, T=1: _rest(t, T) ** power


def delayed_linear(fraction: float = 0.5) -> Profile:
    r"""1 until ``fraction`` of the steps, then linear to 0.

    .. math::
      p = \min\left(1, \frac{1 - t/T}{1 - \mathrm{fraction}}\right)

    Args:
      fraction: In [0, 1).

    Returns:
      A profile.

    Raises:
      ValueError: If ``fraction`` is outside [0, 1).

    Example:
      >>> from optim import profiles
      >>> [float(profiles.delayed_linear(0.5)(t, 4)) for t in range(5)]
      [1.0, 1.0, 1.0, 0.5, 0.0]
    """
    _checks.number("fraction", fraction, 0, 1, open_high=True)
    return lambda t, T=1: jnp.minimum(1.0, _rest(t, T) / (1 - fraction))


def onecycle(t, T=1):
    r"""Triangle 0.1 -> 1 -> 0.1 with its peak at T/2, the REX paper's OneCycle baseline.

    .. math::
      p = 1 - 0.9\, |2t - T| / T

    The momentum in the opposite phase is :func:`optim.onecycle_momentum_schedule`.

    Args:
      t: Steps done, a number or an array.
      T: Number of steps.

    Returns:
      The multiplier of the peak, an array like ``t``.

    Example:
      >>> from optim import profiles
      >>> [round(float(profiles.onecycle(t, 4)), 6) for t in range(5)]
      [0.1, 0.55, 1.0, 0.55, 0.1]

    References:
      Smith, `A disciplined approach to neural network hyper-parameters
      <https://arxiv.org/abs/1803.09820>`_, 2018
    """
    return 1 - 0.9 * triangle(t, T)


def triangle(t, T=1):
    """|2t - T| / T: 1 at both ends, 0 in the middle."""
    return jnp.abs(_float(t) - _float(T - t)) / _float(T)


def inverse_time(t, T=1):
    r""":math:`p = 1/(1 + t)` in steps, whatever T is.

    Args:
      t: Steps done, a number or an array.
      T: Number of steps; not used.

    Returns:
      The multiplier of the peak, an array like ``t``.

    Example:
      >>> from optim import profiles
      >>> float(profiles.inverse_time(3, 10))
      0.25
    """
    del T
    return 1 / (1 + _float(t))


def inverse_sqrt(t, T=1):
    r""":math:`p = 1/\sqrt{1 + t}` in steps, whatever T is.

    Args:
      t: Steps done, a number or an array.
      T: Number of steps; not used.

    Returns:
      The multiplier of the peak, an array like ``t``.

    Example:
      >>> from optim import profiles
      >>> float(profiles.inverse_sqrt(3, 10))
      0.5
    """
    del T
    return 1 / jnp.sqrt(1 + _float(t))


_PLAIN = {
    "constant": constant,
    "cosine": cosine,
    "inverse_sqrt": inverse_sqrt,
    "inverse_time": inverse_time,
    "linear": linear,
    "onecycle": onecycle,
}
_MADE = {
    "delayed_linear": delayed_linear,
    "exponential": exponential,
    "polynomial": polynomial,
    "rex": rex,
    "step": step,
}
NAMES = sorted([*_PLAIN, *_MADE])


def get(profile: str | Profile) -> Profile:
    """Returns the profile of that name (with its defaults), or a user's function as a profile.

    Args:
      profile: A name, a profile ``p(t, T)`` or a function of the progress ``p(x)``.

    Returns:
      A function ``p(t, T)``.

    Raises:
      ValueError: If the name is unknown or the argument is neither a name nor a function.

    Example:
      >>> from optim import profiles
      >>> float(profiles.get("linear")(1, 4)), float(profiles.get(lambda x: 1 - x)(1, 4))
      (0.75, 0.75)
    """
    if isinstance(profile, str):
        _checks.choice("profile", profile, NAMES)
        return _PLAIN[profile] if profile in _PLAIN else _MADE[profile]()
    if not callable(profile):
        raise ValueError(f"profile must be a name or a function p(t, T), got {profile!r}")
    if profile in _MADE.values():
        raise ValueError(
            f"profile must be a function p(t, T), got {profile.__name__} itself: call it, "
            f"as in profiles.{profile.__name__}()"
        )
    if _takes_steps(profile):
        return profile
    return lambda t, T=1: profile(_float(t) / _float(T))


def _takes_steps(profile):
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(profile).parameters.values()
    except (TypeError, ValueError):  # No signature, as for some numpy functions.
        return False
    return sum(p.kind in kinds for p in parameters) >= 2
