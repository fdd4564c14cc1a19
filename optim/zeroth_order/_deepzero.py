"""Random gradient estimation as the program of DeepZero has it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optim import _checks
from optim.zeroth_order._directions import draw
from optim.zeroth_order._estimator import Estimator, check_mu, moved, warn_if_lost

__all__ = ["deepzero_rge", "drifted", "unit_directions"]


def deepzero_rge(
    mu: float = 5e-3,
    samples: int = 192,
    distribution: str | Callable[..., Any] = "normal",
    *,
    drift: bool = False,
) -> Estimator:
    r"""One-sided :func:`rge` with unit directions for each leaf, and a factor ``mu``.

    .. math::
      u_j = \frac{z_j}{\|z_j\| + 10^{-8}} \text{ leaf by leaf}, \qquad
      \hat g = \frac1q \sum_{j=1}^q \mu u_j\, \frac{f(\theta + \mu u_j) - f(\theta)}\mu

    The mean of the estimate of a leaf with d entries is about :math:`\mu / d` of its gradient, so
    leaves of different sizes are weighed differently. For estimates of the gradient itself take
    :func:`rge`.

    Args:
      mu: Length of a perturbation, > 0.
      samples: Number q of directions, at least 1.
      distribution: Of the directions before they are normalized; as for :func:`rge`.
      drift: Where the program is handed the network's own tensors it does not undo a perturbation:
        direction j is then measured at :math:`\theta + \mu \sum_{i \le j} u_i` against
        :math:`f(\theta)`. ``True`` repeats that.

    Returns:
      The estimator; its value is that at the parameters.

    Raises:
      ValueError: If an argument is out of its range.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> estimator = optim.zeroth_order.deepzero_rge(samples=4)
      >>> vg = optim.zeroth_order.value_and_grad(lambda w, batch: w @ w, estimator)
      >>> vg(jnp.array([3.0]), None, jax.random.key(0))[1].round(3)
      Array([0.03], dtype=float32)

    References:
      Chen et al., DeepZero: Scaling up Zeroth-Order Optimization for Deep Model Training, 2024,
      https://arxiv.org/abs/2310.02025
    """
    check_mu(mu)
    _checks.count("samples", samples)
    _checks.flag("drift", drift)
    unit = unit_directions(draw(distribution))

    def estimate(f, params, key, step):
        del step
        warn_if_lost(mu, params)
        base, aux = f(params)

        def probe(j, carry):
            _, gradient, at = carry
            u = unit(key, j, params)
            point = moved(at, u, mu)
            value, aux = f(point)
            gradient = jax.tree.map(
                lambda g, x: g + ((value - base) * x / samples).astype(g.dtype), gradient, u
            )
            return aux, gradient, point if drift else at

        start = (aux, jax.tree.map(jnp.zeros_like, params), params)
        aux, gradient, _ = jax.lax.fori_loop(0, samples, probe, start)
        return (base, aux), gradient

    return Estimator(estimate, lambda params: samples + 1)


def drifted(params: Any, key: jax.Array, mu: float, samples: int, distribution: Any) -> Any:
    """Returns where ``deepzero_rge(drift=True)`` leaves the network."""
    unit = unit_directions(draw(distribution))
    return jax.lax.fori_loop(0, samples, lambda j, at: moved(at, unit(key, j, at), mu), params)


def unit_directions(direction: Callable[..., Any]) -> Callable[..., Any]:
    """Returns ``direction`` with each leaf divided by its norm."""

    def unit(key, probe, params):
        z = direction(key, probe, params)
        return jax.tree.map(lambda x: x / (jnp.linalg.norm(x.reshape(-1)) + 1e-8), z)

    return unit
