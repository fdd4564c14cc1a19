"""Any optax optimizer on pruned weights: they and their moments stay exactly zero."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optim import _checks, _paths

__all__ = ["MaskedUpdateState", "clean", "masked_update"]


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
    if mask is None or x is None or isinstance(x, optax.MaskedNode):
        return x
    return jnp.where(mask, x, jnp.zeros((), jnp.result_type(x)))


def _is_end(x: Any) -> bool:
    return x is None or isinstance(x, optax.MaskedNode)


def _apply(masks: Any, tree: Any) -> Any:
    return jax.tree.map(_where, masks, tree, is_leaf=_is_end)


def _all_kept(x: Any) -> Any:
    weight = jnp.issubdtype(jnp.result_type(x), jnp.inexact)
    return jnp.ones_like(x, dtype=bool) if weight else None


def _check(masks: Any, params: Any) -> Any:
    """Returns the masks as bool arrays of their own, sharded as the parameters."""

    def one(path, mask, x):
        if mask is None:
            return None
        if x is None or jnp.shape(mask) != jnp.shape(x):
            at = jax.tree_util.keystr(path)
            shape = None if x is None else jnp.shape(x)
            raise ValueError(f"mask of shape {jnp.shape(mask)} for params{at} of shape {shape}")
        _check_bits(path, mask)
        # A copy: the state may be donated, the caller's masks live on.
        mask = jnp.array(mask, dtype=bool, copy=True)
        sharding = jax.typeof(x).sharding
        return jax.sharding.reshard(mask, sharding) if any(sharding.spec) else mask

    try:
        jax.tree.structure(params).flatten_up_to(masks)
    except ValueError as e:
        raise ValueError(f"masks must be a tree like the parameters: {e}") from e
    return jax.tree_util.tree_map_with_path(one, masks, params, is_leaf=lambda x: x is None)


def _check_bits(path: Any, mask: Any) -> None:
    if jnp.result_type(mask).kind == "b" or isinstance(mask, jax.core.Tracer):
        return
    if not getattr(mask, "is_fully_addressable", True):
        return
    numbers = np.asarray(mask)
    wrong = numbers[(numbers != 0) & (numbers != 1)]
    if wrong.size:  # Scores, of which hardly one is zero, would prune nothing.
        at = jax.tree_util.keystr(path)
        raise ValueError(f"mask of params{at} must be bools, got {wrong[0]}")


def _owners(masks: Any, params: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """Returns (path, mask) of every leaf that has a mask, the longest paths first."""
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    marked = zip(flat, treedef.flatten_up_to(masks), strict=True)
    pairs = [(path, mask) for (path, _), mask in marked if mask is not None]
    return sorted(pairs, key=lambda pair: -len(pair[0]))


def clean(masks: Any, params: Any, state: Any) -> Any:
    """Zeroes what belongs to a pruned weight: whatever lies at the end of its path in the state.

    Factored moments and the slots of a subspace have another shape than the weights; they are sums
    that no single weight owns.
    """
    owners = _owners(masks, params)

    def reset(path, x):
        if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            return x
        for end, mask in owners:
            if path[len(path) - len(end) :] == end:
                return _where(mask, x) if jnp.shape(mask) == jnp.shape(x) else x
        return x

    return jax.tree_util.tree_map_with_path(reset, state)


def masked_update(
    inner: optax.GradientTransformation, masks: Any = None
) -> optax.GradientTransformationExtraArgs:
    r"""Wraps ``inner`` so that pruned weights, and their moments, stay exactly zero.

    .. math::
      \theta_{t+1} = m \odot (\theta_t + u_t), \qquad
      u_t = \mathrm{inner}(m \odot g_t,\; m \odot \text{state},\; m \odot \theta_t)

    Momentum, weight decay and Adam's moments cannot revive a pruned weight: its update is
    :math:`-\theta`, in the dtype of the weights if that is wider than the gradients', so that it is
    zero after the first step whatever finite number it was before (no update removes a NaN: apply
    the masks to such parameters). The masks live in the state, as copies. New ones are given as
    ``update(..., masks=new)``: the moments of weights that they prune are reset, and a weight that
    comes back starts from zero moments. Their values may change at every step without
    recompilation.

    Args:
      inner: Any optax transformation.
      masks: Pytree of boolean arrays like the parameters, ``None`` where a leaf is not pruned; or
        a function ``params -> masks``. Default: nothing is pruned until ``update`` is given masks.

    Returns:
      The transformation; its state is a :class:`optim.MaskedUpdateState`. ``update`` needs
      ``params``.

    Raises:
      ValueError: If ``inner`` is no transformation; at ``init`` or at trace time, when a mask does
        not fit its leaf (named by its path) or holds numbers other than 0 and 1, or when ``params``
        is missing.

    Example:
      >>> import jax.numpy as jnp, optax, optim
      >>> tx = optim.masked_update(optax.adamw(0.1), {"w": jnp.array([True, False])})
      >>> params = {"w": jnp.array([1.0, 2.0])}
      >>> updates, state = tx.update({"w": jnp.ones(2)}, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["w"][1], state.inner_state[0].mu["w"][1]
      (Array(0., dtype=float32), Array(0., dtype=float32))
    """
    _checks.transform("inner", inner)
    inner = optax.with_extra_args_support(inner)

    def init(params):
        start: Any = masks
        if start is None:
            start = jax.tree.map(_all_kept, params)
        elif _paths.is_function(start):
            start = start(params)
        start = _check(start, params)
        return MaskedUpdateState(start, inner.init(_apply(start, params)))

    def update(updates, state, params=None, *, masks=None, **extra_args):
        if params is None:
            raise ValueError("masked_update needs params: pass them to update")
        masks = state.masks if masks is None else _check(masks, params)
        inner_state = clean(masks, params, state.inner_state)
        updates, inner_state = inner.update(
            _apply(masks, updates), inner_state, _apply(masks, params), **extra_args
        )
        inner_state = clean(masks, params, inner_state)

        def hold(mask, u, p):
            if mask is None or u is None:
                return u
            # In the wider dtype, so that the sum is an exact zero (-0.0 + 0.0 is 0.0, too).
            p, u = jnp.asarray(p), jnp.asarray(u)
            wide = p.dtype if jnp.finfo(p.dtype).bits > jnp.finfo(u.dtype).bits else u.dtype
            return jnp.where(mask, u.astype(wide), -p.astype(wide))

        updates = jax.tree.map(hold, masks, updates, params, is_leaf=lambda x: x is None)
        return updates, MaskedUpdateState(masks, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)
