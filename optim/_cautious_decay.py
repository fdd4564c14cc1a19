"""Cautious weight decay: only where it does not work against the update."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from optim import _checks, _directions, _trees

__all__ = ["CautiousDecayState", "cautious_decay", "cautious_weight_decay"]


class CautiousDecayState(NamedTuple):
    """State of :func:`cautious_decay` and :func:`cautious_weight_decay`.

    Attributes:
      count: Steps done, an int32 scalar, where a rate is a schedule; else ``None``.
      inner_state: State of the wrapped optimizer; of :func:`cautious_weight_decay` ``None``.
    """

    count: Any
    inner_state: Any


def cautious_weight_decay(
    weight_decay: optax.ScalarOrSchedule, *, strict: bool = False, mask: Any = None
) -> optax.GradientTransformation:
    r"""Decoupled decay of the weights that the direction shrinks anyway.

    .. math::
      u_t \leftarrow u_t + \lambda\, \mathbb 1[u_t \odot x_t \ge 0] \odot x_t

    It stands where ``optax.add_decayed_weights`` stands, behind the direction and before the
    learning rate. With plain decay an optimizer ends where loss and decay are in balance; with
    this one it ends in a stationary point of the loss. For an optimizer with its learning rate see
    :func:`cautious_decay`.

    Args:
      weight_decay: Decay :math:`\lambda \ge 0`, or a schedule.
      strict: Whether weights with :math:`u x = 0` do not decay, as in modded-nanogpt's Adam; its
        NorMuon and simply-pytorch decay them. A coordinate whose direction is 0 is what this
        decides.
      mask: Which leaves decay: a tree of bools (a prefix will do), a function of the parameters
        that returns one, or one of (path, leaf), such as :func:`optim.is_hidden_matrix`.

    Returns:
      The transformation; no state but 4 bytes for a schedule. ``update`` needs ``params``.

    Raises:
      ValueError: If an argument is out of its range, a leaf is complex or ``params`` is missing.

    Example:
      >>> import jax.numpy as jnp, optax, optim
      >>> tx = optax.chain(
      ...   optax.scale_by_adam(), optim.cautious_weight_decay(0.5), optax.scale_by_learning_rate(1)
      ... )
      >>> params, grads = jnp.array([1.0, 1.0]), jnp.array([2.0, -2.0])
      >>> updates, _ = tx.update(grads, tx.init(params), params)  # The second weight grows.
      >>> [f"{u:.2f}" for u in updates]
      ['-1.50', '1.00']

    References:
      Chen et al., Cautious Weight Decay, 2025, https://arxiv.org/abs/2510.12402
    """
    _checks.number("weight_decay", weight_decay, 0, schedule=True)
    _checks.flag("strict", strict)

    def init_fn(params):
        _trees.resolve_mask(mask, params)
        count = jnp.zeros([], jnp.int32) if callable(weight_decay) else None
        return CautiousDecayState(count, None)

    def update_fn(updates, state, params=None):
        if params is None:
            raise ValueError(_checks.NO_PARAMS)
        rate, count = _now(weight_decay, state.count), _next(state.count)
        return _decayed(updates, params, rate, strict, mask, 1), CautiousDecayState(count, None)

    return optax.GradientTransformation(init_fn, update_fn)


def cautious_decay(
    inner: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: optax.ScalarOrSchedule,
    *,
    strict: bool = False,
    decay_power: float = 1,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Any optimizer, with cautious decay in the place of its own.

    .. math::
      x_{t+1} = x_t + u_t - \eta_t^p \lambda_t\, \mathbb 1[u_t \odot x_t \le 0] \odot x_t

    where :math:`u_t` is the update of ``inner``, a whole optimizer that is built **without decay**:
    AdamW and Lion with ``weight_decay=0``, Muon, AdamP, FRUGAL, or :func:`optim.cautious` around
    one of them. What decays is what the update shrinks: the same weights as of
    :func:`cautious_weight_decay`, since updates point against directions.

    Args:
      inner: The optimizer.
      learning_rate: Its learning rate :math:`\eta`, >= 0, or its schedule. It scales the decay
        alone.
      weight_decay: Decay :math:`\lambda \ge 0`, or a schedule.
      strict: Whether weights with :math:`u x = 0` do not decay.
      decay_power: :math:`p \ge 0`: 1 is decoupled decay as in optax, 2 that of modded-nanogpt, 0
        decay that does not follow the learning rate.
      mask: Which leaves decay, as for :func:`cautious_weight_decay`.

    Returns:
      The optimizer; its state is a :class:`CautiousDecayState`, that of ``inner`` and 4 bytes for
      schedules. ``update`` needs ``params``.

    Raises:
      ValueError: If an argument is out of its range, ``inner`` is a direction without a learning
        rate, a leaf is complex or ``params`` is missing.

    Example:
      >>> import jax, jax.numpy as jnp, optax, optim
      >>> c = jnp.array([2.0, -1.0])  # The minimizer; plain decay ends in c / 1.3.
      >>> tx = optim.cautious_decay(optax.sgd(0.1), 0.1, weight_decay=0.3)
      >>> x = jnp.zeros(2)
      >>> state = tx.init(x)
      >>> for _ in range(100):
      ...   updates, state = tx.update(x - c, state, x)
      ...   x = optax.apply_updates(x, updates)
      >>> x.round(3)
      Array([ 2., -1.], dtype=float32)

    References:
      Chen et al., Cautious Weight Decay, 2025, https://arxiv.org/abs/2510.12402
    """
    _checks.transform("inner", inner)
    _checks.number("learning_rate", learning_rate, 0, schedule=True)
    _checks.number("weight_decay", weight_decay, 0, schedule=True)
    _checks.number("decay_power", decay_power, 0)
    _checks.flag("strict", strict)
    inner = optax.with_extra_args_support(inner)
    _directions.check_optimizer(
        "inner", inner, "; behind a direction chain cautious_weight_decay instead"
    )
    scheduled = callable(learning_rate) or callable(weight_decay)

    def init_fn(params):
        _trees.resolve_mask(mask, params)
        count = jnp.zeros([], jnp.int32) if scheduled else None
        return CautiousDecayState(count, inner.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError(_checks.NO_PARAMS)
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        rate = _now(learning_rate, state.count) ** decay_power * _now(weight_decay, state.count)
        decayed = _decayed(updates, params, rate, strict, mask, -1)
        return decayed, CautiousDecayState(_next(state.count), inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _now(rate: Any, count: Any) -> Any:
    rate = rate(count) if callable(rate) else rate
    # In 16 bits a product of rates may be zero.
    return rate if isinstance(rate, int | float) else _trees.widen(rate)[0]


def _next(count: Any) -> Any:
    return None if count is None else optax.safe_increment(count)


def _decayed(updates: Any, params: Any, rate: Any, strict: bool, mask: Any, sign: int) -> Any:
    """``updates`` plus ``sign * rate`` times the weights that they shrink."""

    def add(path, u, x, decays):
        _trees.check_gradient(path, u, x)
        if not decays:
            return (u,)
        dtype = jnp.result_type(u)
        u, x = _trees.widen(u, x)
        # By the signs: a product of small numbers may be zero.
        product = sign * jnp.sign(u) * jnp.sign(x)
        shrinks = product > 0 if strict else product >= 0
        step = u + sign * jnp.asarray(rate, u.dtype) * jnp.where(shrinks, x, 0.0)
        return (step.astype(dtype),)

    return _trees.map_unzip(add, 1, updates, params, _trees.resolve_mask(mask, params))[0]
