"""Cautious updates: only where the step and the gradient agree."""

import jax.numpy as jnp
import optax

from optim import _checks, _directions, _trees

__all__ = ["cautious"]


def cautious(
    inner: optax.GradientTransformation, *, direction: bool = False, rescale: bool = False
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps the entries of an update that go downhill by the current gradient, zeroes the others.

    .. math::
      u_t \leftarrow \alpha\, u_t \odot \mathbb 1(u_t g_t < 0), \qquad
      \alpha = 1 \text{ or } \frac{\dim u_t}{\operatorname{nnz} + 1}

    The state of ``inner`` is untouched. Decay inside ``inner`` is masked with the rest; to keep it
    out, as in the paper, wrap the direction alone and decay after it:
    ``optax.chain(cautious(optax.scale_by_adam(), direction=True), optax.add_decayed_weights(wd),
    optax.scale_by_learning_rate(lr))``.

    Args:
      inner: Any optimizer; with ``direction`` a transformation without learning rate.
      direction: Whether the update of ``inner`` is yet to be multiplied by minus the learning rate,
        so that it agrees with the gradient where :math:`u_t g_t > 0`.
      rescale: Whether to scale what is left of each leaf by :math:`\alpha`, as in the paper, so
        that the size of the step is about kept.

    Returns:
      The optimizer.

    Raises:
      ValueError: If ``inner`` is no transformation, a flag is not a bool, ``direction`` does not
        fit ``inner`` (then no entry would ever move), or a leaf is complex.

    Example:
      >>> import jax.numpy as jnp, optax, optim
      >>> tx = optim.cautious(optax.sgd(0.1, momentum=0.9))
      >>> params = jnp.zeros(2)
      >>> state = tx.init(params)
      >>> for g in ([1.0, 1.0], [1.0, -0.5]):  # The momentum of the second entry is still positive.
      ...   updates, state = tx.update(jnp.array(g), state, params)
      >>> updates + 0.0
      Array([-0.19,  0.  ], dtype=float32)

    References:
      Liang et al., Cautious Optimizers: Improving Training with One Line of Code, 2024,
      https://arxiv.org/abs/2411.16085
    """
    _checks.transform("inner", inner)
    _checks.flag("direction", direction)
    _checks.flag("rescale", rescale)
    inner = optax.with_extra_args_support(inner)
    _check_direction(inner, direction)

    def update_fn(updates, state, params=None, **extra_args):
        inner_updates, state = inner.update(updates, state, params, **extra_args)

        def keep(path, g, u):
            _trees.check_gradient(path, g, u)
            u = _trees.as_array(u)
            # By the signs: a product of small numbers may be zero.
            agrees = ((u > 0) & (g > 0)) | ((u < 0) & (g < 0))
            if not direction:
                agrees = ((u > 0) & (g < 0)) | ((u < 0) & (g > 0))
            # A NaN agrees with nothing, but hidden by a zero it would stop the training in silence.
            kept = jnp.where(agrees | jnp.isnan(u), u, jnp.zeros_like(u))
            if rescale:
                (wide,) = _trees.widen(kept)
                kept = (u.size / (jnp.sum(agrees, dtype=wide.dtype) + 1) * wide).astype(u.dtype)
            return (kept,)

        (kept,) = _trees.map_unzip(keep, 1, updates, inner_updates)
        return kept, state

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def _check_direction(inner, direction):
    sign = _directions.sign_of(inner)
    if sign < 0 and direction:
        raise ValueError(
            "direction must be False for this inner: its updates point against the gradient, as "
            "those of an optimizer with a learning rate do"
        )
    if sign > 0 and not direction:
        raise ValueError(
            "direction must be True for this inner: its updates point along the gradient, as those "
            "of a transformation without learning rate do"
        )
