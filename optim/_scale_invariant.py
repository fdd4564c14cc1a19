"""Projection of directions along scale-invariant weights, around any optax direction."""

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optim import _checks, _paths, _trees

__all__ = ["ProjectScaleInvariantState", "project_scale_invariant", "projection_branches"]

Axis = int | Callable[[tuple, jax.ShapeDtypeStruct], int | None]
Stacked = int | Callable[[tuple, jax.ShapeDtypeStruct], int] | None


class ProjectScaleInvariantState(NamedTuple):
    """State of :func:`project_scale_invariant`.

    Attributes:
      inner_state: State of the wrapped direction.
      decay_count: Steps done, an int32 scalar, for a decay schedule; ``None`` when the decay is a
        number.
    """

    inner_state: Any
    decay_count: Any


def project_scale_invariant(
    inner: optax.GradientTransformation,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    delta: float = 0.1,
    wd_ratio: float = 0.1,
    eps: float = 1e-8,
    channel_axis: Axis = -1,
    stacked: Stacked = None,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Removes the radial part of a direction where the weights look scale-invariant.

    .. math::
      u_i \leftarrow u_i - n_i\langle n_i, u_i\rangle, \quad
      n_i = \frac{p_i}{\|p_i\| + \epsilon} \qquad \text{for all rows } i \text{, if} \quad
      \max_i \frac{|\langle g_i, p_i\rangle|}{\max(\|g_i\|,\epsilon)\max(\|p_i\|,\epsilon)}
      < \frac{\delta}{\sqrt{\dim p_i}}

    and then :math:`u + \lambda r p`, with :math:`r` = ``wd_ratio`` where the projection fired and 1
    elsewhere. Rows are the slices of ``channel_axis`` first; if the test fails for one of them, the
    whole tensor is the one row of a second test. The test uses the raw gradient g and p before
    decay. Tensors with fewer than two axes are not projected and decay fully.

    A gradient of zero passes the test (cosine 0), as in the authors' code. Nothing recompiles when
    a tensor changes its branch.

    Args:
      inner: Direction without learning rate, such as ``optax.scale_by_adam()``.
      weight_decay: Decay :math:`\lambda` >= 0, or a schedule, times the learning rate to come.
      delta: Threshold :math:`\delta` >= 0 of the cosine test.
      wd_ratio: Factor of the decay where the projection fired, in [0, 1].
      eps: Added to the norms, >= 0.
      channel_axis: Axis of the output channels: -1 for Flax kernels (…, in, out), 0 for PyTorch
        weights (out, in, …) and for embeddings (vocabulary, features). Or a function of (path,
        array), as for ``jax.tree_util.tree_map_with_path`` (the array as a ShapeDtypeStruct), that
        returns the axis of each leaf, or ``None`` for a leaf that is never projected.
      stacked: Number of leading axes that stack separate tensors (layers under ``scan``), or a
        function of (path, array) that returns it for each leaf; 0 by default. Every tensor of the
        stack has its own test; ``channel_axis`` counts, and sees, the axes of one tensor.
      mask: Which leaves decay: a tree of bools (a prefix will do) or a function of the parameters.

    Returns:
      The transformation. ``update`` needs ``params``.

    Raises:
      ValueError: If an argument is out of its range, ``channel_axis`` is no axis of a leaf (named
        by its path), or ``params`` is missing.

    Example:
      >>> import jax.numpy as jnp, optim, optax
      >>> tx = optax.chain(  # A projected Lion.
      ...   optim.project_scale_invariant(optim.scale_by_lion_k(), channel_axis=0),
      ...   optax.scale_by_learning_rate(1e-3))
      >>> params = jnp.array([[1.0, 0.0], [0.0, 2.0]])
      >>> grads = jnp.array([[0.0, 1.0], [3.0, 0.0]])  # Orthogonal to every row.
      >>> tx.update(grads, tx.init(params), params)[0] + 0.0
      Array([[ 0.   , -0.001],
             [-0.001,  0.   ]], dtype=float32)

    References:
      Heo et al., AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant
      Weights, 2020, https://arxiv.org/abs/2006.08217
    """
    return projected(inner, weight_decay, delta, wd_ratio, eps, channel_axis, stacked, mask)


def projected(
    inner: optax.GradientTransformation,
    weight_decay: optax.ScalarOrSchedule,
    delta: float,
    wd_ratio: float,
    eps: float,
    channel_axis: Axis,
    stacked: Stacked,
    mask: Any,
    keep: Callable[[Any, Any], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """:func:`project_scale_invariant`; ``keep(inner_state, projected)`` is the state to keep."""
    _checks.number("weight_decay", weight_decay, 0, schedule=True)
    _checks.number("delta", delta, 0)
    _checks.number("wd_ratio", wd_ratio, 0, 1)
    _checks.number("eps", eps, 0)
    if not callable(channel_axis) and not _is_int(channel_axis):
        raise ValueError(
            f"channel_axis must be an integer or a function of (path, array), got {channel_axis!r}"
        )
    if stacked is not None and not callable(stacked) and not (_is_int(stacked) and stacked >= 0):
        raise ValueError(
            f"stacked must be an integer >= 0 or a function of (path, array), got {stacked!r}"
        )
    inner = optax.with_extra_args_support(inner)
    no_decay = isinstance(weight_decay, int | float) and weight_decay == 0

    def init_fn(params):
        jax.tree_util.tree_map_with_path(partial(_layout, channel_axis, stacked), params)
        count = jnp.zeros([], jnp.int32) if callable(weight_decay) else None
        return ProjectScaleInvariantState(inner.init(params), count)

    def update_fn(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError(_checks.NO_PARAMS)
        directions, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        count = state.decay_count
        if callable(weight_decay):
            decay, count = weight_decay(count), optax.safe_increment(count)
        else:
            decay = weight_decay

        def step(path, g, decays, p, u):
            _trees.check_gradient(path, g, p, u)
            axis, lead = _layout(channel_axis, stacked, path, p)
            dtype = jnp.result_type(u)
            g, p, u = _trees.widen(g, p, u)
            u, view = _project(g, p, u, axis, lead, delta, eps)
            ratio = jnp.where(view > 0, wd_ratio, 1.0)
            decayed = u + (decay * ratio).astype(p.dtype) * p if decays and not no_decay else u
            return decayed.astype(dtype), u.astype(dtype)

        decays = _broadcast(True if mask is None else mask, params)
        result, kept = _trees.map_unzip(step, 2, updates, decays, params, directions)
        inner_state = inner_state if keep is None else keep(inner_state, kept)
        return result, ProjectScaleInvariantState(inner_state, count)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def projection_branches(
    grads: optax.Updates,
    params: optax.Params,
    *,
    delta: float = 0.1,
    eps: float = 1e-8,
    channel_axis: Axis = -1,
    stacked: Stacked = None,
) -> Any:
    """Returns which view of :func:`project_scale_invariant` each leaf passes, for monitoring.

    Args:
      grads: Raw gradients.
      params: Parameters before the step.
      delta: As in the optimizer.
      eps: As in the optimizer.
      channel_axis: As in the optimizer.
      stacked: As in the optimizer.

    Returns:
      A tree of int32 arrays, one number for each stacked tensor (a scalar for a leaf that is not
      stacked): 0 no projection, 1 by channel, 2 the whole tensor.

    Raises:
      ValueError: If a gradient does not fit its parameter or ``channel_axis`` is no axis of a leaf
        (named by its path).

    Example:
      >>> import jax.numpy as jnp, optim
      >>> params = {"bias": jnp.ones(2), "kernel": jnp.array([[1.0, 1.0], [1.0, -1.0]])}
      >>> grads = {"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}
      >>> branches = optim.projection_branches(grads, params, delta=0.9)
      >>> int(branches["bias"]), int(branches["kernel"])  # One of the two columns is orthogonal.
      (0, 0)
    """

    def branch(path, g, p):
        _trees.check_gradient(path, g, p)
        axis, lead = _layout(channel_axis, stacked, path, p)
        g, p = _trees.widen(g, p)
        _, view = _project(g, p, p, axis, lead, delta, eps)
        return (jnp.broadcast_to(view.ravel(), math.prod(p.shape[:lead])).reshape(p.shape[:lead]),)

    return _trees.map_unzip(branch, 1, grads, params)[0]


def _project(g, p, u, axis, lead, delta, eps):
    """Returns the projected u, and which view of each stacked tensor passed: 0 none, 1, 2."""
    if axis is None or p.size == 0:
        return u, jnp.zeros((), jnp.int32)
    if not isinstance(axis, int):  # Traced, as under optax.inject_hyperparams.
        views = [partial(_project, g, p, u, a, lead, delta, eps) for a in range(lead, p.ndim)]
        return jax.lax.switch(axis % len(views), views)

    def view(sums, length):
        """Whether all rows pass, and what multiplies p in the radial part of u."""
        gp, gg, pp, pu = sums
        cosine = jnp.abs(gp) / (jnp.maximum(jnp.sqrt(gg), eps) * jnp.maximum(jnp.sqrt(pp), eps))
        passes = jnp.max(cosine, axis, keepdims=True) < delta / math.sqrt(length)
        norm = jnp.sqrt(pp) + eps
        return passes, pu / norm / norm

    rows = tuple(a for a in range(lead, p.ndim) if a != axis)
    length = math.prod(p.shape[a] for a in rows)
    pairs = (g, p), (g, g), (p, p), (p, u)
    by_row = [jnp.sum(x * y, rows, keepdims=True) for x, y in pairs]
    by_tensor = [jnp.sum(x, axis, keepdims=True) for x in by_row]
    channel, radial = view(by_row, length)
    layer, whole_radial = view(by_tensor, length * p.shape[axis])
    radial = jnp.where(channel, radial, jnp.where(layer, whole_radial, 0.0))
    return u - radial * p, jnp.where(channel, 1, jnp.where(layer, 2, 0))


def _layout(channel_axis, stacked, path, leaf):
    """Returns the channel axis of a leaf (``None``: not projected) and its stacked axes."""
    shape, path = jnp.shape(leaf), _paths.of_variable(path)
    name = jax.tree_util.keystr(path)
    array = jax.ShapeDtypeStruct(shape, jnp.result_type(leaf))
    lead = stacked(path, array) if callable(stacked) else stacked or 0
    if not 0 <= lead <= len(shape):
        if callable(stacked):
            raise ValueError(
                f"stacked of leaf {name} of shape {shape} must be an axis count, got {lead}"
            )
        lead = len(shape)
    lead = int(lead)
    array = jax.ShapeDtypeStruct(shape[lead:], array.dtype)
    axis = channel_axis(path, array) if callable(channel_axis) else channel_axis
    if array.ndim < 2 or axis is None:
        return None, lead
    try:
        axis = operator.index(axis)
    except jax.errors.TracerIntegerConversionError:
        return axis, lead
    except TypeError:
        raise ValueError(f"channel_axis of leaf {name} must be an integer, got {axis!r}") from None
    if not -array.ndim <= axis < array.ndim:
        raise ValueError(
            f"channel_axis of leaf {name} must be in [{-array.ndim}, {array.ndim}), got {axis}"
        )
    return lead + axis % array.ndim, lead


def _broadcast(mask: Any, params: optax.Params) -> Any:
    mask = mask(params) if callable(mask) else mask
    return jax.tree.map(lambda m, p: jax.tree.map(lambda _: m, p), mask, params)


def _is_int(x: Any) -> bool:
    if isinstance(x, jax.Array):
        return x.ndim == 0 and jnp.issubdtype(x.dtype, jnp.integer)
    return isinstance(x, int | np.integer) and not isinstance(x, bool)
