"""Momentum SGD as a direction, with the choices of where its buffer starts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim import _checks, _trees

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
    accumulator_dtype: Any = None,
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
      accumulator_dtype: dtype of the buffer; ``None`` is that of the parameters. Arithmetic is in
        float32 at least.

    Returns:
      The transformation; its state is a :class:`MomentumState`. Where a gradient is ``None`` the
      buffer stays.

    Raises:
      ValueError: If an argument is out of its range, a leaf is complex or a gradient does not fit.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> tx = optim.scale_by_momentum(0.5, start="gradient")
      >>> g = jnp.array([1.0, -2.0])
      >>> tx.update(g, tx.init(g))[0]
      Array([ 1.5, -3. ], dtype=float32)

    References:
      Sutskever et al., On the Importance of Initialization and Momentum in Deep Learning, 2013
    """
    _trees.check_rate("momentum", momentum)
    _checks.number("dampening", dampening, 0, 1)
    _checks.flag("nesterov", nesterov)
    _checks.flag("sign", sign)
    _checks.choice("start", start, ["zeros", "gradient", "params"])
    _checks.float_dtype("accumulator_dtype", accumulator_dtype)

    if isinstance(momentum, int | float) and momentum == 0:
        dampening = 0.0

    def init_fn(params):
        trace = _trees.zeros(params, accumulator_dtype)
        if start == "params":
            trace = jax.tree.map(lambda b, p: b + jnp.asarray(p, b.dtype), trace, params)
        return MomentumState(jnp.zeros([], jnp.int32), trace)

    def update_fn(updates, state, params=None):
        del params

        def accumulate(path, g, trace):
            _trees.check_gradient(path, g, trace)
            dtype = jnp.result_type(g)
            g, b = _trees.widen(g, trace)
            mu = _trees.decay_rate(momentum, b.dtype)
            tau = _trees.scalar(dampening, b.dtype)
            if start == "gradient":
                b = jnp.where(state.count == 0, g, b)
            b = mu * b + (1 - tau) * g
            u = g + mu * b if nesterov else b
            u = jnp.sign(u) if sign else u
            return u.astype(dtype), b.astype(trace.dtype)

        out, trace = _trees.map_unzip(accumulate, 2, updates, state.trace)
        count: Any = optax.safe_increment(state.count)
        return out, MomentumState(jnp.asarray(count), trace)

    return optax.GradientTransformation(init_fn, update_fn)
