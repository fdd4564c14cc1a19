"""Momentum SGD as a direction, with the choices of where its buffer starts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim import _checks

__all__ = ["MomentumState", "scale_by_momentum"]


class MomentumState(NamedTuple):
    """State of :func:`scale_by_momentum`.

    Attributes:
      count: Steps done, an int32 scalar.
      trace: Momentum buffer :math:`b_t`, shaped like the parameters.
    """

    count: jax.typing.ArrayLike
    trace: Any


def scale_by_momentum(
    momentum: float = 0.9,
    dampening: float = 0.0,
    nesterov: bool = False,
    sign: bool = False,
    start: str = "zeros",
) -> optax.GradientTransformation:
    r"""Direction of SGD with momentum.

    .. math::
      b_t = \mu b_{t-1} + (1 - \tau) g_t, \qquad
      u_t = b_t \quad\text{or, with Nesterov,}\quad g_t + \mu b_t

    Args:
      momentum: :math:`\mu` in [0, 1).
      dampening: :math:`\tau` in [0, 1]; without effect if ``momentum`` is 0, as in PyTorch and in
        the authors' FRUGAL-SGD.
      nesterov: Whether to look ahead.
      sign: Whether to return the sign of the direction.
      start: :math:`b_0`: ``"zeros"``; ``"gradient"``, :math:`g_1`; ``"params"``, the parameters.
        The two last ones are how the authors' FRUGAL-SGD starts, by a clone of an example tensor:
        the low-dimensional gradient for subspaces within a tensor, the parameters for whole
        tensors (blocks and those that are not projectable), so that the first steps move along
        the parameters. Use them to reproduce its numbers.

    Returns:
      The transformation.

    Raises:
      ValueError: If an argument is out of its range.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> tx = optim.scale_by_momentum(0.5, start="gradient")
      >>> g = jnp.array([1.0, -2.0])
      >>> tx.update(g, tx.init(g))[0]
      Array([ 1.5, -3. ], dtype=float32)

    References:
      Sutskever et al., On the Importance of Initialization and Momentum in Deep Learning, 2013
    """
    _checks.number("momentum", momentum, 0, 1, open_high=True)
    _checks.number("dampening", dampening, 0, 1)
    _checks.flag("nesterov", nesterov)
    _checks.flag("sign", sign)
    if start not in ("zeros", "gradient", "params"):
        raise ValueError(f"start must be one of zeros, gradient, params, got {start!r}")

    if isinstance(momentum, int | float) and momentum == 0:
        dampening = 0.0

    def init_fn(params):
        begin = jnp.copy if start == "params" else jnp.zeros_like
        return MomentumState(jnp.zeros([], jnp.int32), jax.tree.map(begin, params))

    def update_fn(updates, state, params=None):
        del params
        trace = state.trace
        if start == "gradient":
            first = state.count == 0
            trace = jax.tree.map(lambda b, g: jnp.where(first, g, b), trace, updates)
        trace = jax.tree.map(lambda b, g: momentum * b + (1 - dampening) * g, trace, updates)
        out = trace
        if nesterov:
            out = jax.tree.map(lambda b, g: g + momentum * b, trace, updates)
        if sign:
            out = jax.tree.map(jnp.sign, out)
        return out, MomentumState(jnp.asarray(optax.safe_increment(state.count)), trace)

    return optax.GradientTransformation(init_fn, update_fn)
