"""What the authors' BiP program computes, where it departs from the paper.

PyTorch's optimizers there hold every parameter at both levels. A frozen parameter has a gradient
of zeros (of nothing before its first backward pass, when it is left alone), and so it decays and
its momentum moves it. Scores and weights share storage, so that each update of one is an update
of the other. BatchNorm's weights are frozen at neither level.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.problem import Solver
from bilevel.pruning import _common
from bilevel.pruning import masks as masks_lib
from bilevel.pruning._bip_paper import Levels, check_batches, initial, metrics_of, pick, solver

__all__ = ["hypergradient", "official"]


class _Tensors(NamedTuple):
    """The states of one optimizer, for the two kinds of tensors that it holds."""

    params: Any
    scores: Any


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


def _put(scores: Any, params: Any) -> Any:
    return masks_lib.map_leaves(lambda s, p: p if s is None else s, scores, params)


def hypergradient(state: _common.ScoreState, g: Any, curvature: float, second_order: bool) -> Any:
    """The authors' gradient of the scores: the implicit term is the square of the direct one."""

    def one(s, theta, g):
        direct = jnp.sign(s) * theta * g
        return direct - direct**2 / curvature if second_order else direct

    return jax.tree.map(one, state.x, pick(state.x, state.y), pick(state.x, g))


def official(
    tx: Levels,
    density: float,
    curvature: float,
    second_order: bool,
    alias: bool,
    cut: masks_lib.Cut,
    rule: masks_lib.Rule | None,
    axis_name: str | None,
) -> Solver:
    """Returns the solver; with ``second_order=False`` the authors' accelerated trainer.

    Args:
      tx, density, curvature, cut, rule, axis_name: See :func:`bilevel.bip`.
      second_order: Whether the hypergradient has its implicit term.
      alias: Whether scores and weights are one tensor, as in the program.
    """
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)

    def levels(params, scores):
        return Levels(*(_Tensors(t.init(params), t.init(scores)) for t in tx))

    def gradient(state, batch):
        z = masks_lib.apply(state.masks, state.y)
        return _common.gradient(state, z, batch, axis_name)

    def both(state, tx, opt, g_params, g_scores, skip_params, skip_scores):
        params, of_params = _update(tx, g_params, opt.params, state.y, skip_params)
        scores = pick(state.x, params) if alias else state.x
        scores, of_scores = _update(tx, g_scores, opt.scores, scores, skip_scores)
        params = _put(scores, params) if alias else params
        masks = masks_lib.from_counts(scores, state.drop, cut)
        state = state._replace(x=scores, y=params, masks=masks)
        return state, _Tensors(of_params, of_scores)

    def lower(state, batch):
        value, stats, g = gradient(state, batch)
        g = masks_lib.apply(state.masks, g)
        # The scores have no gradient yet when the lower level goes first.
        skip = jax.tree.map(lambda _: (state.count == 0) & second_order, state.x)
        none = jax.tree.map(lambda _: jnp.bool_(False), state.y)
        state, opt = both(state, tx.lower, state.opt.lower, g, zeros(state.x), none, skip)
        return state._replace(stats=stats, opt=state.opt._replace(lower=opt)), value

    def upper(state, batch):
        before, frozen = state, _frozen(state.y)
        value, stats, g = gradient(state, batch)
        h = hypergradient(state, g, curvature, second_order)

        def outside(still, g):
            if second_order:
                g = g - g**2 / curvature
            return jnp.zeros_like(g) if still else g

        skip = jax.tree.map(lambda still: (state.count == 0) & still & (not second_order), frozen)
        never = jax.tree.map(lambda _: jnp.bool_(False), state.x)
        g = jax.tree.map(outside, frozen, g)
        state, opt = both(state, tx.upper, state.opt.upper, g, h, skip, never)
        if second_order:
            # Two more forward passes move the running statistics: for the implicit term, at the
            # same weights, and for the logged loss, at the new ones.
            old = masks_lib.apply(before.masks, before.y)
            stats = _common.evaluate(state.problem, old, stats, batch)[1]
        new = masks_lib.apply(state.masks, state.y)
        stats = _common.evaluate(state.problem, new, stats, batch)[1]
        return state._replace(stats=stats, opt=state.opt._replace(upper=opt)), value

    def step(state, batch):
        check_batches(batch, 1)
        before, (upper_batch, lower_batch) = state, batch
        if second_order:
            state, low = lower(state, lower_batch)
            state, high = upper(state, upper_batch)
        else:
            state, high = upper(state, upper_batch)
            state, low = lower(state, lower_batch)
        metrics = metrics_of(before, state, low, high)
        return state._replace(count=state.count + 1), metrics

    def export(state):
        masks = state.masks
        if cut.structure == "weight":  # Their exporter cuts layer by layer.
            sizes = sum(m.size for m in jax.tree.leaves(masks))
            kept = density if cut.by_layer else 1 - float(state.drop) / sizes
            masks = masks_lib.from_scores(state.x, kept, scope="layer")
        masks_lib.warn(masks)
        return _common.copy((masks_lib.apply(masks, state.y), masks))

    return solver(
        "bip",
        initial(levels, density, cut, rule, lambda weights: weights),
        step,
        export,
        axis_name,
        1,
    )
