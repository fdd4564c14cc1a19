r"""Compressed gradients for :func:`optim.error_feedback`: fewer numbers, or fewer bits.

A compressor :math:`C` is contractive: :math:`\mathbb E\|C(x) - x\|^2 \le (1 - \alpha)\|x\|^2`.

====================  ==========================================  ==============  ==============
compressor            what is sent of d numbers                   :math:`\alpha`  32-bit words
====================  ==========================================  ==============  ==============
``top_k(k)``          the k largest, with their places            k / d           2 k
``rand_k(k)``         k at random, with their places              k / d           2 k
``natural()``         sign and exponent of the nearest power of   8 / 9           9 / 32 d
                      two, or of one at random
====================  ==========================================  ==============  ==============

Each leaf is compressed by itself.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optim import _checks

__all__ = ["Compressor", "communicated_floats", "contraction", "natural", "rand_k", "top_k"]


class Compressor(NamedTuple):
    r"""A compressor of one array.

    Attributes:
      compress: ``compress(key, x) -> array`` like x: what the receiver makes of the message.
      alpha: ``alpha(size)``: :math:`\alpha \in (0, 1]` for so many entries.
      words: ``words(size)``: 32-bit words of the message.
    """

    compress: Callable[[jax.Array, jax.Array], jax.Array]
    alpha: Callable[[int], float]
    words: Callable[[int], float]


def top_k(k: float) -> Compressor:
    """The k entries that are largest in absolute value; of equal ones the first.

    Args:
      k: A number of entries >= 1, an int, of which a smaller leaf has all; or a share in (0, 1) of
        them, a float, rounded, at least one.

    Returns:
      The :class:`Compressor`.

    Raises:
      ValueError: If k is out of its range.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> compressor = optim.compressors.top_k(2)
      >>> compressor.compress(jax.random.key(0), jnp.array([1.0, -3.0, 2.0]))
      Array([ 0., -3.,  2.], dtype=float32)
    """
    _check_k(k)

    def compress(key, x):
        del key
        flat = x.reshape(-1)
        _, places = jax.lax.top_k(jnp.abs(flat), _number(k, x.size))
        return jnp.zeros_like(flat).at[places].set(flat[places]).reshape(x.shape)

    return _sparse(k, compress)


def rand_k(k: float) -> Compressor:
    """k entries at random, as they are: the contractive form, which is not unbiased.

    Args:
      k: As for :func:`top_k`.

    Returns:
      The :class:`Compressor`.

    Raises:
      ValueError: If k is out of its range.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> kept = optim.compressors.rand_k(0.5).compress(jax.random.key(0), jnp.ones(6))
      >>> float(kept.sum())
      3.0
    """
    _check_k(k)

    def compress(key, x):
        chosen = jax.random.permutation(key, x.size) < _number(k, x.size)
        return jnp.where(chosen.reshape(x.shape), x, jnp.zeros_like(x))

    return _sparse(k, compress)


def natural(stochastic: bool = False) -> Compressor:
    r"""Natural compression: every number becomes a power of two, of which 9 bits say all.

    Args:
      stochastic: Whether :math:`x = \pm 2^e (1 + p)` goes up to :math:`\pm 2^{e+1}` with
        probability p, so that the expectation is x, and all is multiplied by 8/9, which makes it
        contractive. Otherwise it goes to the nearest one, up from the middle :math:`1.5 \cdot 2^e`.

    Returns:
      The :class:`Compressor`.

    Raises:
      ValueError: If ``stochastic`` is no bool.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> optim.compressors.natural().compress(jax.random.key(0), jnp.array([2.9, -3.0, 0.0]))
      Array([ 2., -4.,  0.], dtype=float32)

    References:
      Horváth et al., Natural Compression for Distributed Deep Learning, 2019,
      https://arxiv.org/abs/1905.10988
    """
    _checks.flag("stochastic", stochastic)

    def compress(key, x):
        mantissa, exponent = jnp.frexp(x)  # |mantissa| in [1/2, 1).
        p = 2 * jnp.abs(mantissa) - 1
        up = jax.random.uniform(key, x.shape, x.dtype) < p if stochastic else p >= 0.5
        power = jnp.sign(x) * jnp.ldexp(jnp.ones_like(x), exponent - 1 + up)
        return (8 / 9 * power if stochastic else power).astype(x.dtype)

    return Compressor(compress, lambda size: 8 / 9, lambda size: 9 / 32 * size)


def contraction(compressor: Compressor, params: Any) -> float:
    r"""Returns :math:`\alpha` of a compressor on a tree: the smallest one of its leaves.

    Args:
      compressor: The compressor.
      params: Parameters, or anything with their shapes.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> optim.compressors.contraction(optim.compressors.top_k(2), jnp.zeros((4, 2)))
      0.25
    """
    return min((compressor.alpha(n) for n in _sizes(params)), default=1.0)


def communicated_floats(
    compressor: Compressor, params: Any, steps: int = 1, start: str = "gradient"
) -> float:
    """Returns the 32-bit words that each worker sends in the first ``steps`` steps.

    Args:
      compressor: The compressor.
      params: Parameters, or anything with their shapes.
      steps: Number of steps, >= 0.
      start: As for :func:`optim.error_feedback`; with ``"gradient"`` the first message is whole.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> params = {"w": jnp.zeros((100, 100)), "b": jnp.zeros(100)}
      >>> optim.compressors.communicated_floats(optim.compressors.top_k(0.01), params, steps=11)
      12120.0
    """
    _checks.count("steps", steps, 0)
    _checks.choice("start", start, ["gradient", "zeros"])
    sizes = _sizes(params)
    message = sum(compressor.words(n) for n in sizes)
    if start == "zeros" or steps == 0:
        return float(steps * message)
    return float(sum(sizes) + (steps - 1) * message)


def _sizes(params: Any) -> list[int]:
    return [n for n in (math.prod(jnp.shape(x)) for x in jax.tree.leaves(params)) if n]


def _check_k(k: Any) -> None:
    if _is_share(k):
        _checks.number("k", k, 0, 1, open_low=True, open_high=True)
    else:
        _checks.count("k", k)


def _is_share(k: Any) -> bool:
    return jnp.issubdtype(getattr(k, "dtype", type(k)), jnp.floating)


def _number(k: Any, size: int) -> int:
    return min(size, max(1, round(float(k) * size)) if _is_share(k) else int(k))


def _sparse(k: Any, compress: Callable[[jax.Array, jax.Array], jax.Array]) -> Compressor:
    return Compressor(
        compress, lambda size: _number(k, size) / size, lambda size: 2 * _number(k, size)
    )
