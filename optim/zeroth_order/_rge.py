"""Random gradient estimation: finite differences along random directions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optim import _checks
from optim.zeroth_order._directions import draw, wide
from optim.zeroth_order._estimator import Estimator, check_mu, moved, warn_if_lost

__all__ = ["or_rge", "rge", "weighted"]


def rge(
    mu: float = 1e-3,
    samples: int = 1,
    two_sided: bool = True,
    distribution: str | Callable[..., Any] = "normal",
    *,
    chunk: int = 1,
) -> Estimator:
    r"""Differences of function values along random directions :math:`z_j`.

    .. math::
      \hat g = \frac1q \sum_{j=1}^q s_j z_j, \qquad
      s_j = \frac{f(\theta + \mu z_j) - f(\theta - \mu z_j)}{2\mu}
      \quad\text{or}\quad \frac{f(\theta + \mu z_j) - f(\theta)}{\mu}

    For a quadratic the two-sided estimate has the gradient as its mean, and
    :math:`E\|\hat g\|^2 = (1 + (d+1)/q)\,\|g\|^2` with normal directions in d dimensions.

    Args:
      mu: Length of a perturbation, > 0.
      samples: Number q of directions, at least 1.
      two_sided: Whether differences are taken to both sides (2q forward passes) or to one (q + 1;
        the authors' program evaluates f at the parameters again for each direction).
      distribution: ``"normal"``, ``"rademacher"`` (signs), ``"sphere"`` (of radius
        :math:`\sqrt d`), or a function ``(key, probe, params) -> direction`` of one's own.
      chunk: Directions evaluated at once by ``vmap``, a divisor of ``samples``. It costs that
        many copies of the parameters.

    Returns:
      The estimator.

    Raises:
      ValueError: If an argument is out of its range.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> estimator = optim.zeroth_order.rge(samples=64, distribution="rademacher")
      >>> vg = optim.zeroth_order.value_and_grad(lambda w, batch: w @ w, estimator)
      >>> value, gradient = vg(jnp.array([1.0, -2.0]), None, jax.random.key(0))
      >>> bool(abs(gradient - jnp.array([2.0, -4.0])).max() < 2)
      True

    References:
      Nesterov and Spokoiny, Random Gradient-Free Minimization of Convex Functions, 2017.
      Zhang et al., Revisiting Zeroth-Order Optimization for Memory-Efficient LLM Fine-Tuning,
      2024, https://arxiv.org/abs/2402.11592
    """
    return weighted(lambda slope: slope, mu, samples, two_sided, distribution, chunk)


def weighted(
    weight: Callable[[jax.Array], jax.Array],
    mu: float,
    samples: int,
    two_sided: bool,
    distribution: str | Callable[..., Any],
    chunk: int = 1,
) -> Estimator:
    """Returns :func:`rge` with ``weight(s_j)`` in place of ``s_j``."""
    check_mu(mu)
    _checks.count("samples", samples)
    _checks.count("chunk", chunk)
    _checks.flag("two_sided", two_sided)
    if samples % chunk:
        raise ValueError(f"chunk must divide samples={samples}, got {chunk}")
    direction = draw(distribution)

    def estimate(f, params, key, step):
        del step
        warn_if_lost(mu, params)
        base: Any = None if two_sided else f(params)[0]

        def probe(j):
            z = direction(key, j, params)
            plus, aux = f(moved(params, z, mu))
            if not two_sided:
                return base, aux, weight((plus - base) / mu), z
            minus, aux = f(moved(params, z, -mu))
            return (plus + minus) / 2, aux, weight((plus - minus) / (2 * mu)), z

        def probes(carry, first):
            total, _, gradient = carry
            found: Any
            if chunk > 1:
                found = jax.vmap(probe)(first + jnp.arange(chunk))
            else:  # A batch of one would cost batched products.
                found = jax.tree.map(lambda x: jnp.asarray(x)[None], probe(first))
            value, aux, s, z = found
            gradient = jax.tree.map(
                lambda g, x: g + jnp.tensordot(s.astype(g.dtype), x.astype(g.dtype), 1), gradient, z
            )
            return (total + value.sum(), jax.tree.map(lambda x: x[-1], aux), gradient), None

        value, aux = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(f, params))
        gradient = jax.tree.map(lambda p: jnp.zeros_like(p, wide(p)), params)
        start = (value, aux, gradient)
        (total, aux, gradient), _ = jax.lax.scan(probes, start, jnp.arange(0, samples, chunk))
        gradient = jax.tree.map(lambda g, p: (g / samples).astype(p.dtype), gradient, params)
        return (total / samples, aux), gradient

    return Estimator(estimate, lambda params: 2 * samples if two_sided else samples + 1)


def or_rge(estimator: Estimator | None) -> Estimator:
    """Returns ``estimator``, by default :func:`rge`."""
    if estimator is None:
        return rge()
    if not isinstance(estimator, Estimator):
        raise ValueError(f"estimator must be an Estimator such as rge(), got {estimator!r}")
    return estimator
