"""What the authors' BiP program computes, where it departs from the paper.

PyTorch's optimizers there hold every parameter at both levels. A frozen parameter has a gradient
of zeros (of nothing before its first backward pass, when it is left alone), and so it decays and
its momentum moves it. Scores and weights share storage, so that each update of one is an update
of the other. BatchNorm's weights are frozen at neither level.
"""

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from bilevel.pruning import masks as masks_lib
from bilevel.pruning._loss import call_loss

if TYPE_CHECKING:
    from bilevel.pruning._bip import BiP, BiPState

__all__ = ["step"]


def _frozen(params: Any) -> Any:
    """True for leaves of modules with a kernel, False for those of BatchNorm."""
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    kernels = {path[:-1] for path, x in flat if jnp.ndim(x) >= 2}
    return jax.tree_util.tree_map_with_path(lambda path, _: path[:-1] in kernels, params)


def _update(tx, grads, state, params, untouched):
    """One optimizer step that leaves the leaves marked ``untouched``, and their moments, alone."""
    updates, new = tx.update(grads, state, params)
    # That happens at the first step alone, so that the moments are still zero.
    new = optax.tree_utils.tree_map_params(
        tx, lambda x, skip: jnp.where(skip, 0, x).astype(x.dtype), new, untouched
    )
    updates = jax.tree.map(lambda u, skip: jnp.where(skip, 0, u), updates, untouched)
    return optax.apply_updates(params, updates), new


def _prunable(scores: Any, params: Any) -> Any:
    return masks_lib.map_leaves(lambda s, p: None if s is None else p, scores, params)


def _put(scores: Any, params: Any) -> Any:
    return masks_lib.map_leaves(lambda s, p: p if s is None else s, scores, params)


def step(solver: "BiP", state: "BiPState", lower_batch: Any, upper_batch: Any):
    """One step of the authors' trainer; with ``second_order=False`` of their accelerated one."""
    alias = solver.compatibility == "official"
    frozen = _frozen(state.params)
    never = jax.tree.map(lambda _: jnp.bool_(False), state.scores)
    first = state.count == 0
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)

    def both(state, tx, opt, g_params, g_scores, skip_params, skip_scores):
        params, p_opt = _update(tx, g_params, opt[0], state.params, skip_params)
        scores = _prunable(state.scores, params) if alias else state.scores
        scores, s_opt = _update(tx, g_scores, opt[1], scores, skip_scores)
        params = _put(scores, params) if alias else params
        masks = solver._masks(scores, state.drop)
        return state._replace(params=params, scores=scores, masks=masks), (p_opt, s_opt)

    def lower(state):
        value, stats, g = solver._gradient(state, lower_batch)
        g = masks_lib.apply(state.masks, g)
        # The scores have no gradient yet when the lower level goes first.
        skip = jax.tree.map(lambda _: first & solver.second_order, state.scores)
        none = jax.tree.map(lambda _: jnp.bool_(False), state.params)
        state, opt = both(state, solver.lower, state.lower, g, zeros(state.scores), none, skip)
        return state._replace(stats=stats, lower=opt), value

    def upper(state):
        before = state
        value, stats, g = solver._gradient(state, upper_batch)
        h = solver._hypergradient(state, g)

        def outside(still, g):
            if solver.second_order:
                g = g - g**2 / solver.gamma
            return jnp.zeros_like(g) if still else g

        skip = jax.tree.map(lambda still: first & still & (not solver.second_order), frozen)
        g = jax.tree.map(outside, frozen, g)
        state, opt = both(state, solver.upper, state.upper, g, h, skip, never)
        if solver.second_order:
            # Two more forward passes move the running statistics: for the implicit term, at the
            # same weights, and for the logged loss, at the new ones.
            old = masks_lib.apply(before.masks, before.params)
            stats = call_loss(state.loss.value, old, stats, upper_batch)[1]
        new = masks_lib.apply(state.masks, state.params)
        stats = call_loss(state.loss.value, new, stats, upper_batch)[1]
        return state._replace(stats=stats, upper=opt), value

    if solver.second_order:
        state, low = lower(state)
        state, high = upper(state)
    else:
        state, high = upper(state)
        state, low = lower(state)
    return state, low, high
