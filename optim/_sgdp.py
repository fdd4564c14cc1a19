"""SGDP: SGD with momentum without the growth of scale-invariant weights."""

from typing import Any

import jax
import numpy as np
import optax

from optim import _checks, _trees
from optim._scale_invariant import Axis, Stacked, projected

__all__ = ["sgdp"]


def _momentum(momentum, dampening, nesterov, dtype) -> optax.GradientTransformation:
    """``optax.trace`` with dampening; its directions are in float32 at least."""

    def init_fn(params):
        return optax.TraceState(trace=_trees.zeros(params, dtype))

    def update_fn(updates, state, params=None):
        del params

        def accumulate(path, g, trace):
            _trees.check_gradient(path, g, trace)
            g_wide, b = _trees.widen(g, trace)
            mu, tau = _trees.decay_rate(momentum, b.dtype), _trees.scalar(dampening, b.dtype)
            b = mu * b + (1 - tau) * g_wide
            d = g_wide + mu * b if nesterov else b
            return d, b.astype(trace.dtype)

        directions, trace = _trees.map_unzip(accumulate, 2, updates, state.trace)
        return directions, optax.TraceState(trace)

    return optax.GradientTransformation(init_fn, update_fn)


def _keep_projected(state: optax.TraceState, projected: optax.Updates) -> optax.TraceState:
    # A parameter without a gradient has no direction: its momentum stays.
    trace = jax.tree.map(
        lambda d, b: b if d is None else d.astype(b.dtype),
        projected,
        state.trace,
        is_leaf=lambda x: x is None,
    )
    return optax.TraceState(trace)


def sgdp(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.0,
    *,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    eps: float = 1e-8,
    delta: float = 0.1,
    wd_ratio: float = 0.1,
    channel_axis: Axis = -1,
    stacked: Stacked = None,
    mask: Any = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGDP: momentum SGD whose step has no radial part where the weights are scale-invariant.

    .. math::
      b_t &= \mu b_{t-1} + (1-\tau) g_t, \qquad
      d_t = g_t + \mu b_t \text{ with nesterov, else } b_t \\
      (d_t, r_t) &\leftarrow \text{projection of } d_t \text{ along } p_{t-1}
      \text{, by the angle of } g_t \text{ and } p_{t-1} \\
      p_t &= p_{t-1} - \eta_t \left(d_t + \tfrac{\lambda r_t}{1-\mu}\, p_{t-1}\right)

    As in the authors' code, without ``nesterov`` the momentum buffer itself is projected,
    :math:`b_t \leftarrow d_t`; with it the buffer keeps its radial part. Decay is decoupled (that
    of ``optax.sgd`` chains is not) and divided by :math:`1-\mu`; the first step is dampened too
    (that of PyTorch's SGD is not). The projection is :func:`optim.project_scale_invariant`.

    Args:
      learning_rate: Step size :math:`\eta`, or a schedule.
      momentum: Decay :math:`\mu` of the buffer, in [0, 1]; below 1 with weight decay.
      dampening: Dampening :math:`\tau` of the gradient, in [0, 1].
      nesterov: Whether the step looks ahead.
      weight_decay: Decay :math:`\lambda` >= 0, or a schedule, times the learning rate.
      eps: Added to the norms of the projection, >= 0.
      delta: Threshold of the cosine test, >= 0.
      wd_ratio: Factor :math:`r` of the decay where the projection fired, in [0, 1].
      channel_axis: Axis or axes of the output channels, as in
        :func:`optim.project_scale_invariant`: -1 is right for Flax kernels, 0 for embeddings and
        PyTorch layouts. Or a function of (path, array), or a tree.
      stacked: Number of leading axes that stack layers, a function of (path, array) or a tree.
      mask: Which leaves decay: a tree of bools (a prefix will do), a function of the parameters
        that returns one, or one of (path, leaf), such as :func:`optim.is_hidden_matrix`.
      accumulator_dtype: dtype of the buffer; ``None`` is that of the parameters.

    Returns:
      The optimizer; 4 bytes of state per float32 parameter.

    Raises:
      ValueError: If an argument is out of its range or a leaf is complex.

    Example:
      >>> import jax.numpy as jnp, optax, optim
      >>> tx = optim.sgdp(0.1, momentum=0.9)
      >>> params = jnp.array([[3.0], [4.0]])
      >>> grads = jnp.array([[4.0], [-3.0]])  # Orthogonal: the projection fires, nothing to remove.
      >>> tx.update(grads, tx.init(params), params)[0].ravel()
      Array([-0.4,  0.3], dtype=float32)

    References:
      Heo et al., AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant
      Weights, 2020, https://arxiv.org/abs/2006.08217
    """
    _checks.number("learning_rate", learning_rate, schedule=True)
    _checks.number("momentum", momentum, 0, 1)
    _checks.number("dampening", dampening, 0, 1)
    _checks.flag("nesterov", nesterov)
    _checks.float_dtype("accumulator_dtype", accumulator_dtype)
    _checks.number("weight_decay", weight_decay, 0, schedule=True)
    decay: Any = 0.0
    if not _checks.is_zero(weight_decay):
        _trees.check_rate("momentum with weight decay", momentum)
        rest = 1 - _trees.decay_rate(momentum, np.float32)
        fixed = not callable(weight_decay)
        decay = weight_decay / rest if fixed else lambda count: weight_decay(count) / rest
    direction = projected(
        _momentum(momentum, dampening, nesterov, accumulator_dtype),
        decay,
        delta,
        wd_ratio,
        eps,
        channel_axis,
        stacked,
        mask,
        keep=None if nesterov else _keep_projected,
    )
    return optax.chain(direction, optax.scale_by_learning_rate(learning_rate))
