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

from optim import _checks, _directions, _paths, _trees

__all__ = ["ProjectScaleInvariantState", "project_scale_invariant", "projection_branches"]

# Of each leaf: an axis, several, optax's dimension numbers, or None where nothing is projected.
Axis = Any
Stacked = Any


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
    decay. Vectors are not projected and decay fully: tensors of one axis, those of three or more
    axes of which at most one is longer than 1, such as (C, 1, 1), and, unless ``channel_axis`` says
    so leaf by leaf, biases and norms by their names, such as the (heads, head_dim) biases of an
    attention or norms under ``scan``. A matrix (1, in) is projected, as the authors do.

    A gradient of zero passes the test (cosine 0), as in the authors' code. Nothing recompiles when
    a tensor changes its branch.

    Args:
      inner: Direction without learning rate, such as ``optax.scale_by_adam()``; it runs in float32
        for leaves of 16 bits.
      weight_decay: Decay :math:`\lambda` >= 0, or a schedule, times the learning rate to come.
      delta: Threshold :math:`\delta` >= 0 of the cosine test.
      wd_ratio: Factor of the decay where the projection fired, in [0, 1].
      eps: Added to the norms, >= 0.
      channel_axis: Axis of the output channels: -1 for Flax kernels (..., in, out), 0 for PyTorch
        weights (out, in, ...) and for embeddings (vocabulary, features). A tuple for several:
        (1, 2) for an attention kernel (in, heads, head_dim), which -1 knows by the names query,
        key, value and qkv, or by in = heads * head_dim. Or ``optax.contrib.MuonDimensionNumbers``,
        whose other axes stack separate tensors, or ``None`` for a leaf that is never projected. It
        may differ by leaf: a tree of these (a prefix will do), or a function of (path, array), as
        for ``jax.tree_util.tree_map_with_path`` (the array as a ShapeDtypeStruct).
      stacked: Number of leading axes that stack separate tensors (layers under ``scan``), a tree of
        numbers, or a function of (path, array); 0 by default. Every tensor of the stack has its own
        test; ``channel_axis`` counts, and sees, the axes of one tensor.
      mask: Which leaves decay: a tree of bools (a prefix will do), a function of the parameters
        that returns one, or one of (path, leaf), such as :func:`optim.is_hidden_matrix`.

    Returns:
      The transformation; no state but that of ``inner`` and 4 bytes for a schedule. ``update``
      needs ``params``.

    Raises:
      ValueError: If an argument is out of its range, ``inner`` is a whole optimizer,
        ``channel_axis`` is no axis of a leaf (named by its path), or ``params`` is missing.

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
    _checks.transform("inner", inner)
    inner = optax.with_extra_args_support(inner)
    _directions.check_direction("inner", inner)
    inner = _directions.with_float32(inner)
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
    _paths.check_choice("channel_axis", channel_axis, _is_axis, _AXES)
    _paths.check_choice("stacked", _none_is_zero(stacked), _is_count, _COUNTS)
    layouts = partial(_layouts, channel_axis, stacked)
    inner = optax.with_extra_args_support(inner)
    no_decay = _checks.is_zero(weight_decay)

    def init_fn(params):
        layouts(params)
        _trees.resolve_mask(mask, params)
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

        def step(path, g, decays, layout, p, u):
            _trees.check_gradient(path, g, p, u)
            dtype = jnp.result_type(g)
            g, p, u = _trees.widen(g, p, u)
            u, view = _project(g, p, u, layout, delta, eps)
            if decays and not no_decay:
                ratio = jnp.where(view > 0, _trees.scalar(wd_ratio, p.dtype), 1.0)
                decayed = u + (_trees.scalar(decay, p.dtype) * ratio).astype(p.dtype) * p
            else:
                decayed = u
            return decayed.astype(dtype), u.astype(dtype)

        decays = _trees.resolve_mask(mask, params)
        result, kept = _trees.map_unzip(
            step, 2, updates, decays, layouts(params), params, directions
        )
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

    def branch(path, g, p, layout):
        _trees.check_gradient(path, g, p)
        g, p = _trees.widen(g, p)
        _, view = _project(g, p, p, layout, delta, eps)
        shape = [p.shape[a] for a in layout.stacked]
        return (view.reshape(shape) if view.ndim else jnp.broadcast_to(view, shape),)

    layouts = _layouts(channel_axis, stacked, params)
    return _trees.map_unzip(branch, 1, grads, params, layouts)[0]


class _Layout(NamedTuple):
    """The axes of a leaf: those that stack tensors, those of one row, those that count the rows.

    ``channels`` is empty for a leaf that is not projected. Under ``optax.inject_hyperparams`` it is
    a traced integer that counts the axes of one tensor, and ``rows`` holds the rows and channels
    that -1 stands for.
    """

    stacked: tuple[int, ...]
    rows: tuple[Any, ...] = ()
    channels: Any = ()


def _project(g, p, u, layout, delta, eps):
    """Returns the projected u, and which view of each stacked tensor passed: 0 none, 1, 2."""
    stacked, rows, channels = layout
    if isinstance(channels, jax.Array):
        axes = [a for a in range(p.ndim) if a not in stacked]
        each = [_Layout(stacked, tuple(b for b in axes if b != a), (a,)) for a in axes]
        each.append(_Layout(stacked, rows[0], rows[1]))  # What -1 stands for.
        views = [partial(_project, g, p, u, one, delta, eps) for one in each]
        return jax.lax.switch(jnp.where(channels == -1, len(axes), channels % len(axes)), views)
    if not channels or p.size == 0:
        return u, jnp.zeros((), jnp.int32)

    def view(sums, length):
        """Whether all rows pass, and what multiplies p in the radial part of u."""
        gp, gg, pp, pu = sums
        norms = jnp.maximum(_trees.root(gg), eps) * jnp.maximum(_trees.root(pp), eps)
        passes = jnp.max(jnp.abs(gp) / norms, channels, keepdims=True) < delta / math.sqrt(length)
        norm = _trees.root(pp) + eps
        return passes, pu / norm / norm

    length = math.prod(p.shape[a] for a in rows)
    pairs = (g, p), (g, g), (p, p), (p, u)
    by_row = [jnp.sum(x * y, rows, keepdims=True) for x, y in pairs]
    by_tensor = [jnp.sum(x, channels, keepdims=True) for x in by_row]
    channel, radial = view(by_row, length)
    layer, whole_radial = view(by_tensor, length * math.prod(p.shape[a] for a in channels))
    radial = jnp.where(channel, radial, jnp.where(layer, whole_radial, 0.0))
    return u - radial * p, jnp.where(channel, 1, jnp.where(layer, 2, 0)).astype(jnp.int32)


def _layouts(channel_axis: Axis, stacked: Stacked, params: optax.Params) -> Any:
    """Returns the tree, like ``params``, of the layout of each leaf."""

    leaves = _paths.with_paths(params)
    shapes = [jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for _, x in leaves]
    tree = jax.tree.unflatten(jax.tree.structure(params), shapes)
    stacked = _none_is_zero(stacked)
    by_leaf = not _is_count(stacked)
    leads = _paths.choose("stacked", stacked, tree, _is_count)
    for i, ((path, x), lead) in enumerate(zip(leaves, leads, strict=True)):
        leads[i] = _check_lead(path, jnp.shape(x), lead, by_leaf)
    tensors = [
        jax.ShapeDtypeStruct(x.shape[lead:], x.dtype) for x, lead in zip(shapes, leads, strict=True)
    ]
    whole = jax.tree.unflatten(jax.tree.structure(params), tensors)
    axes = _paths.choose("channel_axis", channel_axis, whole, _is_axis)
    explicit = not _is_axis(channel_axis)
    out = [
        _layout(path, tensor, lead, axis, explicit)
        for (path, _), tensor, lead, axis in zip(leaves, tensors, leads, axes, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(params), out)


def _check_lead(path, shape, lead, by_leaf):
    if isinstance(lead, jax.core.Tracer):
        raise ValueError(
            "stacked must be a Python integer (it decides shapes; with optax.inject_hyperparams "
            f"name it in static_args), got {lead}"
        )
    if not _is_count(lead) or (by_leaf and lead > len(shape)):
        raise ValueError(
            f"stacked of leaf {jax.tree_util.keystr(path)} of shape {shape} must be a number of "
            f"its axes, got {lead}"
        )
    return min(int(lead), len(shape))


def _layout(path, tensor, lead, axis, explicit):
    ndim, name = tensor.ndim, jax.tree_util.keystr(path)
    stacked = tuple(range(lead))
    vector = ndim < 2 or (ndim > 2 and sum(size != 1 for size in tensor.shape) < 2)
    if vector or axis is None or (not explicit and _paths.is_named_vector(path)):
        return _Layout(stacked)
    if isinstance(axis, jax.Array) and not isinstance(axis, jax.core.Tracer):
        axis = int(axis)
    rows = None
    if isinstance(axis, jax.core.Tracer):
        usual = _layout(path, tensor, lead, -1, explicit)
        return _Layout(stacked, (usual.rows, usual.channels), axis)
    if isinstance(axis, optax.contrib.MuonDimensionNumbers):
        rows, axis = axis.reduction_axis, axis.output_axis
    elif not explicit and isinstance(axis, int) and axis == -1:
        axis = _paths.output_axes(path, tensor.shape)

    def places(given):
        try:
            many = isinstance(given, tuple | list)
            given = [operator.index(a) for a in (given if many else (given,))]
        except TypeError:
            raise ValueError(
                f"channel_axis of leaf {name} must be an integer or a tuple of integers, got "
                f"{given!r}"
            ) from None
        for a in given:
            if not -ndim <= a < ndim:
                raise ValueError(
                    f"channel_axis of leaf {name} must be in [{-ndim}, {ndim}), got {a}"
                )
        return tuple(a % ndim for a in given)

    channels = places(axis)
    rows = tuple(a for a in range(ndim) if a not in channels) if rows is None else places(rows)
    if not rows or not channels or len({*rows, *channels}) < len(rows) + len(channels):
        raise ValueError(
            f"channel_axis of leaf {name} must leave axes for the rows and name each at most once, "
            f"got channels {channels} and rows {rows}"
        )
    rest = tuple(lead + a for a in range(ndim) if a not in (*rows, *channels))

    def shifted(axes):
        return tuple(lead + a for a in axes)

    return _Layout((*stacked, *rest), shifted(rows), shifted(channels))


_AXES = "an integer, a tuple of integers, MuonDimensionNumbers or None"
_COUNTS = "an integer >= 0"


def _none_is_zero(stacked: Stacked) -> Stacked:
    return 0 if stacked is None else stacked


def _is_count(x: Any) -> bool:
    return _is_int(x) and (isinstance(x, jax.core.Tracer) or x >= 0)


def _is_axis(x: Any) -> bool:
    if isinstance(x, tuple) and not isinstance(x, optax.contrib.MuonDimensionNumbers):
        return len(x) > 0 and all(map(_is_int, x))
    return x is None or isinstance(x, optax.contrib.MuonDimensionNumbers) or _is_int(x)


def _is_int(x: Any) -> bool:
    if isinstance(x, jax.Array):
        return x.ndim == 0 and jnp.issubdtype(x.dtype, jnp.integer)
    return isinstance(x, int | np.integer) and not isinstance(x, bool)
