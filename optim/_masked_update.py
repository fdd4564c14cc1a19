"""Any optax optimizer on pruned weights: they and their moments stay exactly zero."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

__all__ = ["MaskedUpdateState", "masked_update"]


class MaskedUpdateState(NamedTuple):
    """State of :func:`masked_update`.

    Attributes:
      masks: Masks in force: bool arrays shaped like the parameters, ``None`` where a leaf is not
        pruned.
      inner_state: State of the wrapped optimizer.
    """

    masks: Any
    inner_state: Any


def _where(mask: Any, x: Any) -> Any:
    return x if mask is None or x is None else jnp.where(mask, x, jnp.zeros((), x.dtype))


def _apply(masks: Any, tree: Any) -> Any:
    return jax.tree.map(_where, masks, tree, is_leaf=lambda x: x is None)


def _check(masks: Any, params: Any) -> Any:
    def one(path, mask, x):
        if mask is None:
            return None
        if x is None or jnp.shape(mask) != jnp.shape(x):
            at = jax.tree_util.keystr(path)
            shape = None if x is None else jnp.shape(x)
            raise ValueError(f"mask of shape {jnp.shape(mask)} for params{at} of shape {shape}")
        return jnp.asarray(mask).astype(bool)

    return jax.tree_util.tree_map_with_path(one, masks, params, is_leaf=lambda x: x is None)


def masked_update(
    inner: optax.GradientTransformation, masks: Any = None
) -> optax.GradientTransformationExtraArgs:
    r"""Wraps ``inner`` so that pruned weights, and their moments, stay exactly zero.

    .. math::
      \theta_{t+1} = m \odot (\theta_t + u_t), \qquad
      u_t = \mathrm{inner}(m \odot g_t,\; m \odot \text{state},\; m \odot \theta_t)

    Momentum, weight decay and Adam's moments cannot revive a pruned weight: its update is
    :math:`-\theta`, so that it is zero after the first step whatever it was before. The masks
    live in the state. New ones are given as ``update(..., masks=new)``: the moments of weights
    that they prune are reset, and a weight that comes back starts from zero moments. The masks'
    values may change at every step without recompilation.

    Args:
      inner: Any optax transformation.
      masks: Pytree of boolean arrays like the parameters, ``None`` where a leaf is not pruned; or
        a function ``params -> masks``. Default: nothing is pruned until ``update`` is given masks.

    Returns:
      The transformation; its state is a :class:`MaskedUpdateState`. ``update`` needs ``params``.

    Raises:
      ValueError: At ``init`` or at trace time, when a mask does not fit its leaf (named by its
        path), or when ``params`` is missing.

    Example:
      >>> import jax.numpy as jnp, optax, optim
      >>> tx = optim.masked_update(optax.adamw(0.1), {"w": jnp.array([True, False])})
      >>> params = {"w": jnp.array([1.0, 2.0])}
      >>> updates, state = tx.update({"w": jnp.ones(2)}, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["w"][1], state.inner_state[0].mu["w"][1]
      (Array(0., dtype=float32), Array(0., dtype=float32))
    """
    inner = optax.with_extra_args_support(inner)

    def ones(params):
        return jax.tree.map(lambda x: jnp.ones(jnp.shape(x), bool), params)

    def init(params):
        start: Any = masks
        if start is None:
            start = ones(params)
        elif isinstance(start, Callable):
            start = start(params)
        start = _check(start, params)
        return MaskedUpdateState(start, inner.init(_apply(start, params)))

    def clean(masks, state, params):
        # Masks without None, so that they have the structure of the state's parameter trees.
        def filled(mask, x):
            return x if mask is None and x is None else (True if mask is None else mask)

        whole = jax.tree.map(filled, masks, params, is_leaf=lambda x: x is None)

        def reset(x, mask):
            # Factored moments have another shape; they are sums that no single weight owns.
            fits = mask is True or jnp.shape(mask) == jnp.shape(x)
            return jnp.where(mask, x, jnp.zeros((), x.dtype)) if fits else x

        return optax.tree_utils.tree_map_params(inner.init, reset, state, whole)

    def update(updates, state, params=None, *, masks=None, **extra_args):
        if params is None:
            raise ValueError("masked_update needs params: pass them to update")
        masks = state.masks if masks is None else _check(masks, params)
        inner_state = clean(masks, state.inner_state, params)
        updates, inner_state = inner.update(
            _apply(masks, updates), inner_state, _apply(masks, params), **extra_args
        )
        inner_state = clean(masks, inner_state, params)

        def hold(mask, u, p):
            # -0.0 + 0.0 is 0.0: the sum is an exact zero.
            return u if mask is None or u is None else jnp.where(mask, u, -p.astype(u.dtype))

        updates = jax.tree.map(hold, masks, updates, params, is_leaf=lambda x: x is None)
        return updates, MaskedUpdateState(masks, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)
