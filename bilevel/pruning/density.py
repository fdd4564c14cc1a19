"""Densities over rounds or steps: one-shot, geometric (IMP), exponential, cubic (GMP)."""

import math
from typing import Any

import jax.numpy as jnp

__all__ = ["cubic", "cubic_rounds", "exponential", "geometric", "geometric_rounds", "one_shot"]


def _check(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be in (0, 1], got {value}")


def one_shot(density: float) -> list[float]:
    """One round, at the target.

    Example:
      >>> import bilevel
      >>> bilevel.density.one_shot(0.1)
      [0.1]
    """
    _check("density", density)
    return [float(density)]


def geometric(rounds: int, fraction: float = 0.2) -> list[float]:
    """Densities of IMP: each of ``rounds`` prunes ``fraction`` of what remains.

    Example:
      >>> import bilevel
      >>> bilevel.density.geometric(2)
      [0.8, 0.64...]
    """
    if rounds < 1:
        raise ValueError(f"rounds must be >= 1, got {rounds}")
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be in (0, 1), got {fraction}")
    return [(1 - fraction) ** r for r in range(1, rounds + 1)]


def geometric_rounds(density: float, fraction: float = 0.2) -> list[float]:
    """Densities of IMP down to ``density``, which replaces the last power above it.

    Example:
      >>> import bilevel
      >>> bilevel.density.geometric_rounds(0.5)
      [0.8, 0.64..., 0.5]
    """
    _check("density", density)
    if density == 1:
        return [1.0]
    rounds = max(1, math.floor(math.log(density) / math.log(1 - fraction) + 1e-9))
    return [*geometric(rounds, fraction)[:-1], float(density)]


def exponential(density: float, rounds: int) -> list[float]:
    r"""SynFlow's: :math:`\rho^{r/R}` for :math:`r = 1, \dots, R`.

    Example:
      >>> import bilevel
      >>> bilevel.density.exponential(0.01, 2)
      [0.1, 0.01]
    """
    _check("density", density)
    if rounds < 1:
        raise ValueError(f"rounds must be >= 1, got {rounds}")
    return [density ** (r / rounds) for r in range(1, rounds + 1)]


def cubic(
    step: Any,
    final: float,
    *,
    start: int,
    updates: int,
    every: int = 1,
    initial: float = 1.0,
    held: bool = True,
) -> Any:
    r"""GMP's density at a step (Zhu and Gupta), in terms of sparsities :math:`s = 1 - d`.

    .. math::
      s_t = s_f + (s_i - s_f)\left(1 - \frac{t - t_0}{n \Delta t}\right)^3

    Before ``start`` it is ``initial``; the last of the ``updates`` gives ``final`` exactly.

    Args:
      step: Step :math:`t`, a number or an array.
      final: Density at the end, in (0, 1].
      start: First step :math:`t_0` of the ramp.
      updates: Number of changes :math:`n`.
      every: Steps :math:`\Delta t` between changes.
      initial: Density before.
      held: Whether the density is constant between changes.

    Example:
      >>> import bilevel
      >>> ramp = dict(start=0, updates=4, every=5)
      >>> [round(float(bilevel.density.cubic(t, 0.1, **ramp)), 3) for t in (0, 5, 9, 20)]
      [1.0, 0.48, 0.48, 0.1]
    """
    _check("final", final)
    _check("initial", initial)
    if updates < 1 or every < 1:
        raise ValueError(f"updates and every must be >= 1, got {updates} and {every}")
    since = jnp.asarray(step) - start
    if held:
        since = since // every * every
    left = jnp.clip(updates * every - since, 0, updates * every) / (updates * every)
    sparsity = (1 - final) + ((1 - initial) - (1 - final)) * left**3
    return 1 - sparsity


def cubic_rounds(final: float, updates: int, initial: float = 1.0) -> list[float]:
    """The ``updates + 1`` densities that :func:`cubic` takes, ``initial`` and ``final`` exactly.

    Example:
      >>> import bilevel
      >>> [round(d, 4) for d in bilevel.density.cubic_rounds(0.1, 3)]
      [1.0, 0.3667, 0.1333, 0.1]
    """
    _check("final", final)
    _check("initial", initial)
    if updates < 1:
        raise ValueError(f"updates must be >= 1, got {updates}")
    return [final + (initial - final) * (1 - i / updates) ** 3 for i in range(updates + 1)]
