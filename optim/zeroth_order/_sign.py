"""Sign of a random gradient estimate."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optim import _checks
from optim.zeroth_order._estimator import Estimator
from optim.zeroth_order._rge import rge, weighted

__all__ = ["sign"]


def sign(
    mu: float = 1e-3,
    samples: int = 1,
    two_sided: bool = True,
    distribution: str | Callable[..., Any] = "normal",
    *,
    chunk: int = 1,
    of: str = "slope",
) -> Estimator:
    r"""Signs instead of lengths: ZO-signSGD.

    .. math::
      \hat g = \frac1q \sum_j \operatorname{sign}(s_j)\, z_j \quad (\texttt{of="slope"}), \qquad
      \hat g = \operatorname{sign}\Bigl(\frac1q \sum_j s_j z_j\Bigr) \quad (\texttt{of="gradient"})

    The authors' program takes the sign of the slope; the paper that named the method takes that of
    the estimate. Neither depends on the scale of the loss.

    Args:
      mu: As for :func:`rge`, as the next four.
      samples: Number of directions.
      two_sided: Whether differences are taken to both sides.
      distribution: Of the directions.
      chunk: Directions evaluated at once.
      of: ``"slope"`` or ``"gradient"``.

    Returns:
      The estimator.

    Raises:
      ValueError: If an argument is out of its range.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> estimator = optim.zeroth_order.sign(samples=9, of="gradient")
      >>> vg = optim.zeroth_order.value_and_grad(lambda w, batch: w @ w, estimator)
      >>> vg(jnp.array([1.0]), None, jax.random.key(0))[1]
      Array([1.], dtype=float32)

    References:
      Liu et al., signSGD via Zeroth-Order Oracle, 2019, https://openreview.net/forum?id=BJe-DsC5Fm
    """
    _checks.choice("of", of, ("slope", "gradient"))
    if of == "slope":
        return weighted(jnp.sign, mu, samples, two_sided, distribution, chunk)
    inner = rge(mu, samples, two_sided, distribution, chunk=chunk)

    def estimate(f, params, key, step):
        value, gradient = inner.estimate(f, params, key, step)
        return value, jax.tree.map(jnp.sign, gradient)

    return Estimator(estimate, inner.evaluations)
