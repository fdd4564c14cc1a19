"""What the pruning solvers share: the solver, its state, the gradient at masked weights."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import optim
from bilevel.pruning import masks as masks_lib

__all__ = ["PruningSolver", "ScoreState", "Static", "call_loss", "flips", "gradient", "start"]


class PruningSolver(NamedTuple):
    """A pruning method: pure functions of a state.

    Attributes:
      init: ``init(loss, params, stats=None, ...) -> state``.
      step: ``step(state, batch) -> (state, metrics)``; metrics are a flat dict of scalars.
      export: ``export(state) -> (params, masks)``, the pruned parameters with exact zeros.
      axis_name: The mapped axis over which ``step`` averages, or ``None``.
    """

    init: Callable[..., Any]
    step: Callable[[Any, Any], tuple[Any, dict[str, Any]]]
    export: Callable[[Any], tuple[Any, Any]]
    axis_name: str | None = None


@jax.tree_util.register_static
class Static(NamedTuple):
    """A value that is part of a pytree's structure and no leaf of it."""

    value: Any


class ScoreState(NamedTuple):
    """State of the methods that learn scores, :func:`bilevel.bip` and :func:`bilevel.hydra`.

    Attributes:
      loss: The loss, part of the structure.
      count: Steps made, int32 of shape ().
      params: Weights, those under a mask of False too; shapes as given.
      stats: Statistics of the model, or None.
      scores: Scores, shaped like the prunable leaves, ``None`` elsewhere.
      masks: Masks in force, boolean, shaped like the scores.
      drop: How many entries the masks drop: int32 of shape (), or a tree of one per leaf.
      opt: State of the optimizer of the scores; of BiP the pair of ``lower`` and ``upper``.
    """

    loss: Static
    count: jax.Array
    params: Any
    stats: Any
    scores: Any
    masks: Any
    drop: Any
    opt: Any


def start(
    loss: Callable[..., Any],
    params: Any,
    stats: Any,
    scores: Any,
    density: float,
    cut: masks_lib.Cut,
    opt: Callable[[Any, Any], Any],
) -> ScoreState:
    """Returns the first state; ``opt(params, scores)`` makes that of the optimizers."""
    # Buffers of their own: the loop donates the state.
    params, stats, scores = jax.tree.map(jnp.array, (params, stats, scores))
    drop = masks_lib.drop_counts(scores, density, cut)
    drop = jax.tree.map(lambda j: jnp.asarray(j, jnp.int32), drop)
    masks = masks_lib.from_counts(scores, drop, cut)
    return ScoreState(
        loss=Static(loss),
        count=jnp.int32(0),
        params=params,
        stats=stats,
        scores=scores,
        masks=masks,
        drop=drop,
        opt=opt(params, scores),
    )


def call_loss(loss: Callable[..., Any], params: Any, stats: Any, batch: Any) -> tuple[Any, Any]:
    """Returns (value, new statistics) of a loss with statistics or without."""
    value, stats = (loss(params, batch), None) if stats is None else loss(params, stats, batch)
    if jnp.shape(value) != ():
        raise ValueError(f"loss must return a scalar, got shape {jnp.shape(value)}")
    return value, stats


def gradient(
    loss: Static, z: Any, stats: Any, batch: Any, axis_name: str | None
) -> tuple[jax.Array, Any, Any]:
    """Returns loss, new statistics and the gradient at ``z``: one backward pass."""
    fun = functools.partial(call_loss, loss.value)
    vg = optim.parallel.value_and_grad(fun, has_aux=True, axis_name=axis_name)
    (value, stats), g = vg(z, stats, batch)
    return value, stats, g


def flips(before: Any, after: Any) -> jax.Array:
    """Returns how many entries of two masks differ."""
    return masks_lib.count(jax.tree.map(jnp.logical_xor, before, after))
