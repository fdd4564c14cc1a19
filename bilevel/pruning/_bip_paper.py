"""BiP as its paper has it; :func:`bilevel.bip` documents it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.pruning import _common
from bilevel.pruning import masks as masks_lib

__all__ = ["Levels", "check_batches", "hypergradient", "initial", "metrics_of", "paper"]


class Levels(NamedTuple):
    """What each level has of its own: optimizers, or their states."""

    lower: Any
    upper: Any


def initial(
    levels: Callable[[Any, Any], Levels],
    density: float,
    cut: masks_lib.Cut,
    rule: masks_lib.Rule | None,
) -> Callable[..., _common.ScoreState]:
    """Returns ``init`` of BiP; ``levels(params, scores)`` makes the states of the optimizers."""
    usual = density

    def init(
        loss: Callable[..., Any],
        params: Any,
        stats: Any = None,
        *,
        scores: Any = None,
        density: float | None = None,
    ) -> _common.ScoreState:
        chosen = masks_lib.prunable(params, rule, cut.structure)
        if scores is None:
            scores = chosen
        elif jax.tree.map(jnp.shape, scores) != jax.tree.map(jnp.shape, chosen):
            raise ValueError(
                f"scores do not fit the prunable leaves: {jax.tree.map(jnp.shape, scores)} "
                f"for {jax.tree.map(jnp.shape, chosen)}"
            )
        density = usual if density is None else density
        return _common.start(loss, params, stats, scores, density, cut, levels)

    return init


def check_batches(batch: Any, lower_steps: int) -> None:
    """Raises unless ``batch`` is a pair of batches of one structure."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(f"batch must be (batch_lower, batch_upper), got {type(batch).__name__}")
    lower, upper = (jax.tree.structure(b) for b in batch)
    if lower != upper:
        raise ValueError(f"batch_lower and batch_upper differ in structure: {lower}, {upper}")
    if lower_steps > 1:
        shapes = [jnp.shape(x) for x in jax.tree.leaves(batch[0])]
        if any(s[:1] != (lower_steps,) for s in shapes):
            raise ValueError(f"batch_lower needs a leading axis of {lower_steps}, got {shapes}")


def hypergradient(
    state: _common.ScoreState, g: Any, gamma: float, second_order: bool, implicit: str
) -> Any:
    """Returns the scores' gradient; ``g`` is the loss's at the masked weights."""

    def one(s, theta, m, g):
        direct = jnp.sign(s) * theta * g
        if not second_order:
            return direct
        if implicit == "official":
            return direct - direct**2 / gamma
        return jnp.sign(s) * (theta - jnp.where(m, g, 0) / gamma) * g

    def pick(tree):
        return masks_lib.map_leaves(lambda s, x: None if s is None else x, state.scores, tree)

    return jax.tree.map(one, state.scores, pick(state.params), state.masks, pick(g))


def metrics_of(
    before: _common.ScoreState, after: _common.ScoreState, low: jax.Array, high: jax.Array
) -> dict[str, jax.Array]:
    """Returns the metrics of a step from one state to the next."""
    return {
        "loss_lower": low,
        "loss_upper": high,
        "density": masks_lib.density(after.masks),
        "flips": _common.flips(before.masks, after.masks),
    }


def paper(
    tx: Levels,
    density: float,
    gamma: float,
    second_order: bool,
    implicit: str,
    lower_steps: int,
    cut: masks_lib.Cut,
    rule: masks_lib.Rule | None,
    axis_name: str | None,
) -> _common.PruningSolver:
    """Returns the solver; the arguments are checked by :func:`bilevel.bip`."""
    gradient = functools.partial(_common.gradient, axis_name=axis_name)

    def levels(params, scores):
        return Levels(tx.lower.init(params), tx.upper.init(scores))

    def lower(state, batch):
        z = masks_lib.apply(state.masks, state.params)
        value, stats, g = gradient(state.loss, z, state.stats, batch)
        g = masks_lib.apply(state.masks, g)
        updates, opt = tx.lower.update(g, state.opt.lower, state.params)
        params = optax.apply_updates(state.params, updates)
        opt = state.opt._replace(lower=opt)
        return state._replace(params=params, stats=stats, opt=opt), value

    def upper(state, batch):
        z = masks_lib.apply(state.masks, state.params)
        value, _, g = gradient(state.loss, z, state.stats, batch)
        h = hypergradient(state, g, gamma, second_order, implicit)
        updates, opt = tx.upper.update(h, state.opt.upper, state.scores)
        scores = optax.apply_updates(state.scores, updates)
        masks = masks_lib.from_counts(scores, state.drop, cut)
        opt = state.opt._replace(upper=opt)
        return state._replace(scores=scores, masks=masks, opt=opt), value

    def step(state, batch):
        check_batches(batch, lower_steps)
        lower_batch, upper_batch = batch
        before, low, high = state, jnp.zeros(()), jnp.zeros(())
        if not second_order:
            state, high = upper(state, upper_batch)
        for i in range(lower_steps):
            one = lower_batch
            if lower_steps > 1:
                one = jax.tree.map(lambda x, i=i: x[i], lower_batch)
            state, low = lower(state, one)
        if second_order:
            state, high = upper(state, upper_batch)
        metrics = metrics_of(before, state, low, high)
        return state._replace(count=state.count + 1), metrics

    def export(state):
        return masks_lib.apply(state.masks, state.params), state.masks

    return _common.PruningSolver(initial(levels, density, cut, rule), step, export, axis_name)
