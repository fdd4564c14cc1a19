"""StableMax: a softmax that does not absorb small logits, and its cross-entropy."""

import jax
import jax.numpy as jnp
import optax

__all__ = ["log_stablemax", "stablemax_cross_entropy"]


def log_stablemax(logits: jax.typing.ArrayLike, axis: int = -1) -> jax.Array:
    r"""Logarithm of StableMax, a softmax that grows linearly and not exponentially.

    .. math::
      p_j = \frac{s(x_j)}{\sum_k s(x_k)}, \qquad
      s(x) = \begin{cases} x + 1 & x \ge 0 \\ 1 / (1 - x) & x < 0 \end{cases}

    It is computed as :math:`\log p = \operatorname{log\,softmax}(\ell)` with
    :math:`\ell = \operatorname{sign}(x) \log(1 + |x|)`, which is finite in float32 for all finite
    logits, and so are its derivatives. The authors divide in float64; in float32 their form gives
    infinities where the quotient underflows, and a derivative of NaN at logits of 1.

    Args:
      logits: Logits of any shape, floating-point.
      axis: That of the classes.

    Returns:
      Log-probabilities, shaped like ``logits``.

    Raises:
      ValueError: If the logits are not floating-point.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> [f"{p:.3f}" for p in jnp.exp(optim.losses.log_stablemax(jnp.array([3.0, 0.0, -1.0])))]
      ['0.727', '0.182', '0.091']

    References:
      Prieto et al., Grokking at the Edge of Numerical Stability, 2025,
      https://arxiv.org/abs/2501.04697
    """
    return jax.nn.log_softmax(_compressed(logits), axis)


def stablemax_cross_entropy(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""Cross-entropy of StableMax, in the place of optax's two of the softmax.

    .. math::
      -\sum_j q_j \log p_j, \qquad
      \frac{\partial}{\partial x_j} = \frac{p_j - q_j}{1 + |x_j|} \quad \text{if } \sum_k q_k = 1

    with :math:`p` of :func:`log_stablemax`. No mean is taken.

    Args:
      logits: Logits, floating-point.
      labels: Integers shaped like the logits without ``axis``, as for
        ``optax.softmax_cross_entropy_with_integer_labels``; or floating-point distributions
        :math:`q` shaped like the logits, as for ``optax.softmax_cross_entropy``.
      axis: That of the classes; several with distributions.
      where: Bools shaped like the logits: classes that take part.

    Returns:
      The loss of each example, shaped like the logits without ``axis``, in their dtype. (The
      authors' is float64.)

    Raises:
      ValueError: If the logits are not floating-point.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> logits = jnp.array([[3.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
      >>> [f"{x:.3f}" for x in optim.losses.stablemax_cross_entropy(logits, jnp.array([0, 1]))]
      ['0.318', '0.693']

    References:
      Prieto et al., Grokking at the Edge of Numerical Stability, 2025,
      https://arxiv.org/abs/2501.04697
    """
    compressed = _compressed(logits)
    if jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        return optax.softmax_cross_entropy_with_integer_labels(compressed, labels, axis, where)
    return optax.softmax_cross_entropy(compressed, labels, axis, where)


def _compressed(x: jax.typing.ArrayLike) -> jax.Array:
    """sign(x) log(1 + |x|), the logarithm of s, with the derivative 1 at 0."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"logits must be floating-point, got {x.dtype}")
    positive = x >= 0
    return jnp.where(
        positive, jnp.log1p(jnp.where(positive, x, 0)), -jnp.log1p(jnp.where(positive, 0, -x))
    )
