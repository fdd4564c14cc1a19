"""The directional derivative itself, by forward-mode differentiation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optim import _checks
from optim.zeroth_order._directions import draw
from optim.zeroth_order._estimator import Estimator

__all__ = ["forward_gradient"]


def forward_gradient(
    samples: int = 1, distribution: str | Callable[..., Any] = "normal"
) -> Estimator:
    r"""The forward gradient: :func:`rge` without finite differences.

    .. math::
      \hat g = \frac1q \sum_{j=1}^q (\nabla f(\theta)^\top z_j)\, z_j

    Unbiased for every f. A Jacobian-vector product keeps no activations and costs about two
    forward passes. In the authors' program optimizer, momentum and masks are ignored; here the
    estimate enters any optax chain.

    Args:
      samples: Number q of directions, at least 1.
      distribution: As for :func:`rge`.

    Returns:
      The estimator.

    Raises:
      ValueError: If an argument is out of its range.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> estimator = optim.zeroth_order.forward_gradient(distribution="rademacher")
      >>> vg = optim.zeroth_order.value_and_grad(lambda w, batch: w @ w, estimator)
      >>> vg(jnp.array([3.0]), None, jax.random.key(0))
      (Array(9., dtype=float32), Array([6.], dtype=float32))

    References:
      Baydin et al., Gradients without Backpropagation, 2022, https://arxiv.org/abs/2202.08587
    """
    _checks.count("samples", samples)
    direction = draw(distribution)

    def estimate(f, params, key, step):
        del step

        def probe(j, carry):
            _, gradient = carry
            z = direction(key, j, params)
            tangent = jax.tree.map(lambda x, p: x.astype(p.dtype), z, params)
            value, slope, aux = jax.jvp(f, (params,), (tangent,), has_aux=True)
            return (value, aux), jax.tree.map(
                lambda g, x: g + (slope * x / samples).astype(g.dtype), gradient, z
            )

        shapes = jax.eval_shape(f, params)
        start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return jax.lax.fori_loop(0, samples, probe, (start, jax.tree.map(jnp.zeros_like, params)))

    return Estimator(estimate, lambda params: 2 * samples)
