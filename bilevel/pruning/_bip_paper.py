"""BiP as its paper has it; :func:`bilevel.bip` documents it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel._common import no_examples_as_levels
from bilevel.problem import Gradients, Problem, Solver
from bilevel.pruning import _common
from bilevel.pruning import masks as masks_lib

__all__ = [
    "Levels",
    "check_batches",
    "hypergradient",
    "initial",
    "metrics_of",
    "of_weights",
    "paper",
    "pick",
    "solver",
]


class Levels(NamedTuple):
    """What each level has of its own: optimizers, or their states."""

    lower: Any
    upper: Any


def initial(
    levels: Callable[[Any, Any], Levels],
    density: float,
    cut: masks_lib.Cut,
    rule: masks_lib.Rule | None,
    first: Callable[[Any], Any],
) -> Callable[..., _common.ScoreState]:
    """Returns ``init`` of BiP.

    Args:
      levels: ``levels(params, scores)`` makes the states of the optimizers.
      density, cut, rule: See :func:`bilevel.bip`.
      first: Makes the first scores from the prunable weights.
    """
    usual = density

    def init(
        problem: Problem, x0: Any, y0: Any, *, stats: Any = None, density: float | None = None
    ) -> _common.ScoreState:
        chosen = masks_lib.prunable(y0, rule, cut.structure)
        if x0 is None:
            x0 = first(chosen)
        elif jax.tree.map(jnp.shape, x0) != jax.tree.map(jnp.shape, chosen):
            raise ValueError(
                f"scores (x0) do not fit the prunable leaves: {jax.tree.map(jnp.shape, x0)} "
                f"for {jax.tree.map(jnp.shape, chosen)}"
            )
        density = usual if density is None else density
        return _common.start(problem, x0, y0, stats, density, cut, levels)

    return init


def of_weights(weights: Any) -> Any:
    """Returns the weights as scores, those that are 0 as random numbers smaller than all others.

    Equal scores are dropped in their order: of a model that is pruned already, zeros would fill
    the last layers and empty the first. The random numbers are the same in every run.
    """
    leaves, treedef = jax.tree.flatten(weights)
    known = not any(isinstance(x, jax.core.Tracer) for x in leaves)
    with jax.ensure_compile_time_eval():  # Under jit too, of weights closed over.
        if known and not any(bool((x == 0).any()) for x in map(jnp.asarray, leaves)):
            return weights
    least = jnp.stack([jnp.min(jnp.abs(x), initial=jnp.inf, where=x != 0) for x in leaves]).min()
    least = jnp.where(jnp.isfinite(least), least, 1)
    keys = jax.random.split(jax.random.key(0), len(leaves))

    def fill(key, x):
        draw = least * jax.random.uniform(key, jnp.shape(x), least.dtype, minval=0.25, maxval=0.75)
        return jnp.where(x == 0, draw.astype(x.dtype), x)

    return jax.tree.unflatten(treedef, list(map(fill, keys, leaves)))


def check_batches(batch: Any, lower_steps: int) -> None:
    """Raises unless ``batch`` is a pair of batches of one structure."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(f"batch must be (upper_batch, lower_batch), got {type(batch).__name__}")
    no_examples_as_levels(batch)
    upper, lower = (jax.tree.structure(b) for b in batch)
    if lower != upper:
        raise ValueError(f"upper_batch and lower_batch differ in structure: {upper}, {lower}")
    if lower_steps > 1:
        shapes = [jnp.shape(x) for x in jax.tree.leaves(batch[1])]
        if any(s[:1] != (lower_steps,) for s in shapes):
            raise ValueError(f"lower_batch needs a leading axis of {lower_steps}, got {shapes}")


def pick(scores: Any, tree: Any) -> Any:
    """Returns the leaves of ``tree`` that have scores."""
    return masks_lib.map_leaves(lambda s, x: None if s is None else x, scores, tree)


def hypergradient(state: _common.ScoreState, g: Any, curvature: float, second_order: bool) -> Any:
    """Returns the gradient of the scores; ``g`` is that of the loss at the masked weights."""

    def one(s, theta, m, g):
        # At a score of 0, that of a weight which is 0, |s| grows to the right.
        sign = jnp.where(s < 0, -1, 1).astype(s.dtype)
        implicit = jnp.where(m, g, 0) / curvature if second_order else 0
        return sign * (theta - implicit) * g

    return jax.tree.map(one, state.x, pick(state.x, state.y), state.masks, pick(state.x, g))


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


def solver(
    name: str, init: Any, step: Any, export: Any, axis_name: str | None, lower_steps: int
) -> Solver:
    """Returns BiP, of either program, with what its callers must know."""
    return Solver(
        init,
        step,
        axis_name,
        name=name,
        gradients=Gradients(upper=1, lower=lower_steps),
        inner_steps=lower_steps if lower_steps > 1 else 0,
        step_names=("lower_step", "upper_step"),
        residuals=(),
        export=export,
        doubts=lambda state: masks_lib.doubts(state.masks),
    )


def paper(
    tx: Levels,
    density: float,
    curvature: float,
    second_order: bool,
    lower_steps: int,
    cut: masks_lib.Cut,
    rule: masks_lib.Rule | None,
    axis_name: str | None,
    hypergradient: Callable[..., Any] = hypergradient,
) -> Solver:
    """Returns the solver; the arguments are checked by :func:`bilevel.bip`."""

    def levels(params, scores):
        return Levels(tx.lower.init(params), tx.upper.init(scores))

    def gradient(state, batch):
        z = masks_lib.apply(state.masks, state.y)
        return _common.gradient(state, z, batch, axis_name)

    def lower(state, batch):
        value, stats, g = gradient(state, batch)
        g = masks_lib.apply(state.masks, g)
        updates, opt = tx.lower.update(g, state.opt.lower, state.y)
        y = optax.apply_updates(state.y, updates)
        return state._replace(y=y, stats=stats, opt=state.opt._replace(lower=opt)), value

    def upper(state, batch):
        value, _, g = gradient(state, batch)
        h = hypergradient(state, g, curvature, second_order)
        updates, opt = tx.upper.update(h, state.opt.upper, state.x)
        x = optax.apply_updates(state.x, updates)
        masks = masks_lib.from_counts(x, state.drop, cut)
        return state._replace(x=x, masks=masks, opt=state.opt._replace(upper=opt)), value

    def step(state, batch):
        check_batches(batch, lower_steps)
        upper_batch, lower_batch = batch
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
        masks_lib.warn(state.masks)
        return _common.copy((masks_lib.apply(state.masks, state.y), state.masks))

    return solver(
        "bip", initial(levels, density, cut, rule, of_weights), step, export, axis_name, lower_steps
    )
