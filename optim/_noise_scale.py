"""How noisy gradients are: the gradient noise scale, from two batch sizes at once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim import _checks, _trees

__all__ = [
    "GradientNoiseScaleState",
    "MicroGradients",
    "NoiseScale",
    "gradient_noise_scale",
    "micro_gradients",
    "noise_scale",
]


class MicroGradients(NamedTuple):
    """What :func:`gradient_noise_scale` needs to know of the parts of a batch.

    Attributes:
      square_norm: Mean of the squared norms of the parts' gradients, a scalar.
      size: Examples b in a part, a number.
      total: Examples B in the batch.
    """

    square_norm: jax.Array
    size: Any
    total: Any


def micro_gradients(
    gradients: Any, size: Any, *, axis_name: str | None = None
) -> tuple[Any, MicroGradients]:
    """Averages the gradients of equal parts of a batch and measures them.

    Args:
      gradients: Gradients of the parts along a leading axis, as ``jax.vmap(jax.grad(loss), (None,
        0))`` of a batch cut into micro-batches gives them; with the parts sharded over a mesh each
        device computes its own. With ``axis_name``: the gradient of this device.
      size: Examples in each part, >= 1.
      axis_name: Name of the axis of the enclosing ``pmap``, ``shard_map`` or ``vmap``, whose
        devices hold the parts. In a ``shard_map`` differentiate with respect to
        :func:`optim.parallel.vary` of the parameters.

    Returns:
      The mean gradient, and the :class:`MicroGradients`.

    Raises:
      ValueError: If there is no part, or only one.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> optim.micro_gradients(jnp.array([[1.0, 0.0], [3.0, 0.0]]), size=8)
      (Array([2., 0.], dtype=float32),
       MicroGradients(square_norm=Array(5., dtype=float32), size=8, total=16))
    """
    _checks.number("size", size, 1)
    if axis_name is not None:
        parts = jax.lax.axis_size(axis_name)
        mean = jax.lax.pmean(gradients, axis_name)
        square = jax.lax.pmean(_square_norm(gradients), axis_name)
    else:
        counts = {jnp.shape(g)[0] if jnp.ndim(g) else 0 for g in jax.tree.leaves(gradients)}
        if len(counts) != 1:
            raise ValueError(
                f"gradients must all have the same leading axis of parts, got lengths {counts}"
            )
        (parts,) = counts
        mean = jax.tree.map(lambda g: jnp.mean(g, 0), gradients)
        square = _square_norm(gradients) / max(parts, 1)
    if parts < 2:
        raise ValueError(f"gradients must be those of at least 2 parts of the batch, got {parts}")
    return mean, MicroGradients(square, size, size * parts)


class GradientNoiseScaleState(NamedTuple):
    r"""State of :func:`gradient_noise_scale`.

    Attributes:
      count: Steps done, an int32 scalar.
      square_norm: Average of the estimates of :math:`|G|^2`, from 0, a floating-point scalar.
      variance: Average of the estimates of :math:`S`, from 0, a floating-point scalar.
      weight: Sum of the weights of both averages, :math:`1 - \beta^t`, a floating-point scalar.
    """

    count: jax.Array
    square_norm: jax.Array
    variance: jax.Array
    weight: jax.Array


class NoiseScale(NamedTuple):
    """What :func:`noise_scale` reads out of a state; all are scalars.

    Attributes:
      noise_scale: :math:`S / |G|^2`, in examples; NaN where the estimate of :math:`|G|^2` is not
        positive.
      square_norm: :math:`|G|^2`, the squared norm of the true gradient, debiased.
      variance: :math:`S`, the trace of the covariance of one example's gradient, debiased.
    """

    noise_scale: jax.Array
    square_norm: jax.Array
    variance: jax.Array


def gradient_noise_scale(beta: float = 0.99) -> optax.GradientTransformationExtraArgs:
    r"""Leaves gradients as they are, and keeps an estimate of their noise in its state.

    .. math::
      |G|^2 \approx \frac{B |g_B|^2 - b |g_b|^2}{B - b}, \qquad
      S \approx \frac{|g_b|^2 - |g_B|^2}{1/b - 1/B}, \qquad
      \mathcal B = \frac{S}{|G|^2}

    with :math:`g_B` the gradient of a batch of B examples and :math:`|g_b|^2` the mean over its
    parts of b examples. Both are unbiased; their averages over the steps, with decay ``beta``, are
    divided, not their quotients averaged. Batches much smaller than :math:`\mathcal B` train in
    proportion to their size, much larger ones hardly faster.

    It stands first in a chain, and ``update`` takes ``micro=``, the :class:`MicroGradients` of
    :func:`micro_gradients`; :func:`noise_scale` reads the result. Other transformations of a chain
    do not see the argument.

    Args:
      beta: Decay of the averages, in [0, 1).

    Returns:
      The transformation; its state is a :class:`GradientNoiseScaleState`, four scalars
      of 4 bytes.

    Raises:
      ValueError: If ``beta`` is out of its range, or ``micro`` is missing.

    Notes:
      k-diffusion floors both averages at 1e-8 and takes ``beta=0.9998``: see the argument ``floor``
      of :func:`noise_scale`. gpt-neox gives the squared norm of its last part alone as
      :math:`|g_b|^2`, which is noisier: pass that in ``MicroGradients``.

    Example:
      >>> import jax, jax.numpy as jnp, optax, optim
      >>> tx = optax.chain(optim.gradient_noise_scale(), optax.sgd(0.0))
      >>> x = jax.random.normal(jax.random.key(0), (8, 32, 4))  # Noise of variance 1, 4 times.
      >>> loss = lambda w, x: 0.5 * jnp.mean(jnp.sum((w[None] - x) ** 2, -1))
      >>> params = jnp.ones(4)
      >>> gradients = jax.vmap(jax.grad(loss), (None, 0))(params, x)
      >>> mean, micro = optim.micro_gradients(gradients, size=32)
      >>> _, state = tx.update(mean, tx.init(params), params, micro=micro)
      >>> [f"{x:.1f}" for x in optim.noise_scale(state)]
      ['1.4', '4.0', '5.6']

    References:
      McCandlish et al., An Empirical Model of Large-Batch Training, 2018,
      https://arxiv.org/abs/1812.06162
    """
    _trees.check_rate("beta", beta)

    def init_fn(params):
        # Each an array of its own: a buffer cannot be donated twice.
        square, variance = (_trees.scalar_zero(params, jnp.result_type(float)) for _ in range(2))
        return GradientNoiseScaleState(jnp.zeros([], jnp.int32), square, variance, jnp.zeros([]))

    def update_fn(updates, state, params=None, *, micro=None, **extra_args):
        del params, extra_args
        if micro is None:
            raise ValueError(
                "gradient_noise_scale needs micro=: pass the second result of "
                "optim.micro_gradients to update"
            )
        small, b, total = micro
        big = _square_norm(updates)
        square_norm = (total * big - b * small) / (total - b)
        variance = (small - big) / (1 / b - 1 / total)
        averages = (
            jnp.asarray(beta * old + (1 - beta) * new, old.dtype)
            for old, new in zip(state[1:], (square_norm, variance, 1.0), strict=True)
        )
        count: Any = optax.safe_increment(state.count)
        return updates, GradientNoiseScaleState(count, *averages)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def noise_scale(state: Any, *, debias: bool = True, floor: float | None = None) -> NoiseScale:
    r"""Reads the noise scale out of the state of an optimizer.

    Args:
      state: State of :func:`gradient_noise_scale`, or of a chain with it.
      debias: Whether averages are divided by :math:`1 - \beta^t`. The noise scale is the same.
      floor: Divides after both averages are raised to it, so that the quotient is positive;
        ``None``: it is negative where the variance is, and NaN where the gradient is.

    Returns:
      The :class:`NoiseScale`.

    Raises:
      ValueError: If there is not one such state in ``state``.

    Example: see :func:`gradient_noise_scale`.
    """

    def is_ours(x):
        return isinstance(x, GradientNoiseScaleState)

    found = [x for x in jax.tree.leaves(state, is_leaf=is_ours) if is_ours(x)]
    if len(found) != 1:
        raise ValueError(
            f"state must hold one state of gradient_noise_scale, got {len(found)} of them"
        )
    _, square_norm, variance, weight = found[0]
    if floor is None:
        ratio = jnp.where(square_norm > 0, variance / square_norm, jnp.nan)
    else:
        ratio = jnp.maximum(variance, floor) / jnp.maximum(square_norm, floor)
    if debias:
        square_norm, variance = square_norm / weight, variance / weight
    return NoiseScale(ratio, square_norm, variance)


def _square_norm(tree: Any) -> jax.Array:
    squares = (jnp.sum(jnp.square(_trees.widen(x)[0])) for x in jax.tree.leaves(tree))
    return sum(squares, start=jnp.zeros([]))
