"""Where a method's result is: not always at the parameters that it trains.

Schedule-free methods, exponential averages and lookahead take gradients at one point and call
another one their result; that one is evaluated.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim import _checks

__all__ = [
    "AverageState",
    "LookaheadState",
    "average",
    "eval_params",
    "is_averaged",
    "lookahead",
]


class AverageState(NamedTuple):
    """State of :func:`average`.

    Attributes:
      average: Of the parameters so far, with their shapes.
    """

    average: Any


class LookaheadState(NamedTuple):
    """State of :func:`lookahead`.

    Attributes:
      count: Number of updates, int32.
      slow: The slow weights, with the parameters' shapes.
      inner: State of the optimizer of the fast weights.
    """

    count: jax.Array
    slow: Any
    inner: Any


def average(decay: float) -> optax.GradientTransformation:
    r"""Keeps an exponential average of the parameters; the last link of a chain.

    .. math::
      \bar x_0 = x_0, \qquad \bar x_{t+1} = \beta \bar x_t + (1 - \beta) x_{t+1}

    Args:
      decay: :math:`\beta` in [0, 1).

    Returns:
      A transformation that leaves the updates as they are.
    """
    _checks.number("optimizer.ema", decay, 0, 1, open_high=True)

    def init(params):
        return AverageState(jax.tree.map(jnp.asarray, params))

    def update(updates, state, params: Any = None):
        new = optax.apply_updates(params, updates)
        mean = jax.tree.map(lambda a, x: decay * a + (1 - decay) * x, state.average, new)
        return updates, AverageState(optax.tree.cast_like(mean, params))

    return optax.GradientTransformation(init, update)


def lookahead(
    inner: optax.GradientTransformation, period: int, share: float
) -> optax.GradientTransformationExtraArgs:
    r"""Lookahead: slow weights that follow the fast ones every k-th step, which restart from them.

    .. math::
      \phi \leftarrow \phi + \alpha (\theta - \phi), \qquad \theta \leftarrow \phi
      \qquad \text{every } k \text{ steps}

    Args:
      inner: Optimizer of the fast weights :math:`\theta`, which are the parameters.
      period: :math:`k`, at least 1.
      share: :math:`\alpha` in (0, 1].

    Returns:
      The optimizer.

    Reference:
      Zhang et al., Lookahead Optimizer: k steps forward, 1 step back, 2019.
    """
    _checks.count("optimizer.lookahead[0], the period,", period)
    _checks.number("optimizer.lookahead[1], the share,", share, 0, 1, open_low=True)
    inner = optax.with_extra_args_support(inner)

    def init(params):
        return LookaheadState(jnp.int32(0), jax.tree.map(jnp.asarray, params), inner.init(params))

    def update(updates, state, params: Any = None, **extra):
        updates, inner_state = inner.update(updates, state.inner, params, **extra)
        fast = optax.apply_updates(params, updates)
        meet = (state.count + 1) % period == 0
        slow = jax.tree.map(
            lambda s, f: jnp.where(meet, s + share * (f - s), s).astype(s.dtype), state.slow, fast
        )
        updates = jax.tree.map(lambda u, s, x: jnp.where(meet, s - x, u), updates, slow, params)
        return updates, LookaheadState(state.count + 1, slow, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


_KINDS = (AverageState, LookaheadState, optax.contrib.ScheduleFreeState)


def eval_params(opt_state: Any, params: Any) -> Any:
    """Returns the point that a method calls its result.

    Args:
      opt_state: State of any optimizer. The outermost average in it counts: of an average around
        lookahead, the average.
      params: The parameters that are trained.

    Returns:
      The average, the slow weights, the point of a schedule-free method, or ``params`` themselves.
    """
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, _KINDS))
    found = sorted(
        (s for s in leaves if isinstance(s, _KINDS)), key=lambda s: _KINDS.index(type(s))
    )
    if not found:
        return params
    state = found[0]
    if isinstance(state, AverageState):
        return state.average
    if isinstance(state, LookaheadState):
        return state.slow
    if jax.tree.structure(state.z) != jax.tree.structure(params):
        raise ValueError("schedule-free methods serve all parameters, not a group of them")
    return optax.contrib.schedule_free_eval_params(state, params)


def is_averaged(opt_state: Any) -> bool:
    """Returns whether :func:`eval_params` gives another point than the parameters."""
    return bool(_averages(opt_state))


def _averages(opt_state: Any) -> list[Any]:
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, _KINDS))
    return [s for s in leaves if isinstance(s, _KINDS)]
