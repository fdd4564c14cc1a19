"""Cautious updates: only where the step and the gradient agree."""

import jax.numpy as jnp
import optax

from optim import _checks, _trees

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
      ValueError: If a flag is not a bool or a leaf is complex.

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
    _checks.flag("direction", direction)
    _checks.flag("rescale", rescale)
    inner = optax.with_extra_args_support(inner)

    def update_fn(updates, state, params=None, **extra_args):
        inner_updates, state = inner.update(updates, state, params, **extra_args)

        def keep(path, g, u):
            _trees.check_gradient(path, g, u)
            agrees = (u * g > 0) if direction else (u * g < 0)
            kept = jnp.where(agrees, u, jnp.zeros_like(u))
            if rescale:
                wide = jnp.promote_types(u.dtype, jnp.float32)
                alpha = u.size / (jnp.sum(agrees, dtype=wide) + 1)
                kept = (alpha * kept).astype(u.dtype)
            return (kept,)

        (kept,) = _trees.map_unzip(keep, 1, updates, inner_updates)
        return kept, state

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)
