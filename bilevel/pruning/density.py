"""Densities over rounds or steps: one-shot, geometric (IMP), exponential, cubic (GMP), N:M."""

import math
from typing import Any

import jax.numpy as jnp

from optim import _checks

__all__ = [
    "cosine_fraction",
    "cubic",
    "cubic_rounds",
    "exponential",
    "geometric",
    "geometric_rounds",
    "linear",
    "n_of_m",
    "one_shot",
    "residue",
]


def one_shot(density: float) -> list[float]:
    """One round, at the target.

    Example:
      >>> import bilevel
      >>> bilevel.density.one_shot(0.1)
      [0.1]
    """
    _checks.number("density", density, 0, 1, open_low=True)
    return [float(density)]


def geometric(rounds: int, fraction: float = 0.2) -> list[float]:
    """Densities of IMP: each of ``rounds`` prunes ``fraction`` of what remains.

    Example:
      >>> import bilevel
      >>> bilevel.density.geometric(2)
      [0.8, 0.64...]
    """
    _checks.count("rounds", rounds)
    _checks.number("fraction", fraction, 0, 1, open_low=True, open_high=True)
    return [(1 - fraction) ** r for r in range(1, rounds + 1)]


def geometric_rounds(density: float, fraction: float = 0.2) -> list[float]:
    """Densities of IMP down to ``density``, which replaces the last power above it.

    Example:
      >>> import bilevel
      >>> bilevel.density.geometric_rounds(0.5)
      [0.8, 0.64..., 0.5]
    """
    _checks.number("density", density, 0, 1, open_low=True)
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
    _checks.number("density", density, 0, 1, open_low=True)
    _checks.count("rounds", rounds)
    return [density ** (r / rounds) for r in range(1, rounds + 1)]


def linear(density: float, rounds: int) -> list[float]:
    r"""Equal steps, the other mode of SynFlow's code: :math:`1 - (1 - \rho) r / R`.

    Example:
      >>> import bilevel
      >>> bilevel.density.linear(0.5, 2)
      [0.75, 0.5]
    """
    _checks.number("density", density, 0, 1, open_low=True)
    _checks.count("rounds", rounds)
    return [1 - (1 - density) * (r / rounds) for r in range(1, rounds + 1)]


def residue(step: Any, rate: float, *, kind: str = "linear") -> Any:
    r"""What is left of pruned weights when a mask fades in (MdGf): their factor :math:`\delta`.

    .. math::
      \delta_t = \max(0, 1 - \beta t) \quad \text{or} \quad e^{-\beta t}, \qquad
      z = \theta \odot (m + (1 - m)\, \delta_t)

    Args:
      step: Step :math:`t`, a number or an array.
      rate: :math:`\beta > 0`.
      kind: ``"linear"`` or ``"exponential"``.

    Example:
      >>> import bilevel
      >>> float(bilevel.density.residue(5, 0.1))
      0.5

    References:
      Kao et al., Training Recipe for N:M Structured Sparsity with Decaying Pruning Mask, 2022.
    """
    _checks.number("rate", rate, 0, open_low=True)
    _checks.choice("kind", kind, ["linear", "exponential"])
    t = rate * jnp.asarray(step)
    return jnp.maximum(0.0, 1 - t) if kind == "linear" else jnp.exp(-t)


def n_of_m(
    n: int, m: int, *, epochs: int, dense: int, finetune: int, kind: str = "sparsify"
) -> list[tuple[int, int, int]]:
    """Stages of N:M masks that grow sparser (SdGf): triples of first epoch, N and M.

    The stages share the epochs after the dense ones and before the fine-tuning evenly.

    Args:
      n, m: The structure at the end.
      epochs: Of the whole run.
      dense: Epochs before the first stage.
      finetune: Epochs at the end that are not shared out; the last stage holds in them.
      kind: ``"sparsify"``, M-1:M, M/2:M, M/4:M, ..., N:M; ``"fine"``, 8N:8M, 4N:4M, 2N:2M, N:M,
        one density in ever finer groups; or ``"densify"``, N:8M, N:4M, N:2M, N:M.

    Example:
      >>> import bilevel
      >>> bilevel.density.n_of_m(1, 4, epochs=12, dense=2, finetune=1)
      [(2, 3, 4), (5, 2, 4), (8, 1, 4)]

    References:
      Kao et al., Training Recipe for N:M Structured Sparsity with Decaying Pruning Mask, 2022.
    """
    if not 0 < n < m:
        raise ValueError(f"n must be in (0, m={m}), got {n}")
    if not dense + finetune < epochs or min(dense, finetune) < 0:
        raise ValueError(f"dense + finetune must be in [0, {epochs}), got {dense} and {finetune}")
    _checks.choice("kind", kind, ["sparsify", "fine", "densify"])
    if kind == "sparsify":
        halves = [m >> i for i in range(1, m.bit_length()) if m >> i > n]
        stages = [(k, m) for k in dict.fromkeys([m - 1, *halves, n])]
    else:
        stages = [(n * k if kind == "fine" else n, m * k) for k in (8, 4, 2, 1)]
    span = epochs - dense - finetune
    return [(dense + i * span // len(stages), *stage) for i, stage in enumerate(stages)]


def cosine_fraction(step: Any, steps: int, first: float = 0.5, last: float = 0.005) -> Any:
    r"""The share of a layer that dynamic sparse training exchanges, from ``first`` to ``last``.

    .. math::
      p_t = p_T + \tfrac12 (p_0 - p_T) \left(1 + \cos \frac{\pi t}{T}\right)

    Args:
      step: Step :math:`t`, a number or an array; after :math:`T` it counts as :math:`T`.
      steps: :math:`T`, >= 1.
      first: :math:`p_0` in [0, 1].
      last: :math:`p_T` in [0, 1].

    Example:
      >>> import bilevel
      >>> [round(float(bilevel.density.cosine_fraction(t, 10)), 4) for t in (0, 5, 10)]
      [0.5, 0.2525, 0.005]
    """
    _checks.count("steps", steps)
    _checks.number("first", first, 0, 1)
    _checks.number("last", last, 0, 1)
    turn = (jnp.pi / steps) * jnp.minimum(jnp.asarray(step), steps)
    return last + 0.5 * (first - last) * (1 + jnp.cos(turn))


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
    _checks.number("final", final, 0, 1, open_low=True)
    _checks.number("initial", initial, 0, 1, open_low=True)
    if initial < final:
        raise ValueError(f"initial must be in [final={final:g}, 1], got {initial:g}")
    _checks.count("updates", updates)
    _checks.count("every", every)
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
    _checks.number("final", final, 0, 1, open_low=True)
    _checks.number("initial", initial, 0, 1, open_low=True)
    _checks.count("updates", updates)
    return [final + (initial - final) * (1 - i / updates) ** 3 for i in range(updates + 1)]
