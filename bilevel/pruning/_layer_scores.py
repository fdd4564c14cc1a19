"""Scores of one matrix that need its inputs: Wanda and GBLM.

A matrix is (outputs, inputs), as in the papers; a kernel of Flax is its transpose.
"""

import jax
import jax.numpy as jnp

from optim import _checks

__all__ = ["gblm", "wanda"]


def wanda(w: jax.Array, norm: jax.Array) -> jax.Array:
    r"""Wanda's scores, :math:`|W_{ij}|\, n_j`, which are compared within a row.

    Args:
      w: Of shape (outputs, inputs).
      norm: Norms of the inputs, of shape (inputs,).

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.calibrated.wanda(jnp.array([[2.0, -1.0]]), jnp.array([1.0, 3.0]))
      Array([[2., 3.]], dtype=float32)

    References:
      Sun et al., A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024.
    """
    return jnp.abs(w) * norm[None]


def gblm(
    w: jax.Array, norm: jax.Array, grad: jax.Array, *, alpha: float = 100.0, inverse: bool = False
) -> jax.Array:
    r"""GBLM's scores, Wanda's with the size of the gradient.

    .. math::
      |W_{ij}| \left(n_j + \alpha\, G_{ij}\right), \qquad
      G = \frac1S \sum_s |g_s| \text{ or } \sqrt{\tfrac1S \textstyle\sum_s g_s^2}

    The authors take the sum over samples of :math:`100\,|g_s|`, so that the weight of the gradient
    grows with their number: that is :math:`\alpha = 100\,S` here (:math:`100 \sqrt S` for the
    second).

    Args:
      w: Of shape (outputs, inputs).
      norm: Norms of the inputs, of shape (inputs,).
      grad: :math:`G`, shaped like ``w``.
      alpha: :math:`\alpha >= 0`.
      inverse: The authors' other score, :math:`|W_{ij}| n_j / (\alpha G_{ij} + 10^{-8})`.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> w, norm, grad = jnp.array([[2.0, -1.0]]), jnp.array([1.0, 3.0]), jnp.array([[0.1, 0.0]])
      >>> bilevel.calibrated.gblm(w, norm, grad, alpha=10.0)
      Array([[4., 3.]], dtype=float32)

    References:
      Das et al., Beyond Size: How Gradients Shape Pruning Decisions in Large Language Models, 2023.
    """
    _checks.number("alpha", alpha, 0)
    if inverse:
        return wanda(w, norm) / (alpha * grad + 1e-8)
    return wanda(w, norm) + jnp.abs(w) * (alpha * grad)
