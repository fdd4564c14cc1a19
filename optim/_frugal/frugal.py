"""FRUGAL: a state-full optimizer on a small subspace, a state-free rule on the rest."""

import functools
import numbers
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from optim import _checks, _directions, _trees, subspaces
from optim._frugal import adapters, blocks
from optim._frugal.leaves import Split, describe, joined, split
from optim.subspaces import Block, Space, Subspace

__all__ = ["ScaleByFrugalState", "frugal", "scale_by_frugal"]

_FREE: dict[str, Callable[[jax.Array], jax.Array]] = {
    "sign_sgd": jnp.sign,
    "sgd": lambda g: g,
    "none": jnp.zeros_like,
}


class ScaleByFrugalState(NamedTuple):
    """State of :func:`scale_by_frugal`.

    Attributes:
      count: Steps done, int32 scalar.
      selection: The subspace of the present interval. Block: which tensors are active, bools [n]
        in the order of their paths. Otherwise the basis of every projectable leaf, in the tree of
        the parameters.
      inner: State of ``inner`` on the low-dimensional gradients. Block: a tuple of states, one for
        each set of tensors of one shape, whose arrays have a leading axis of slots, or for a flat
        buffer. Otherwise one state, whose trees are like the parameters.
      regular: State of ``regular`` on the leaves that are not projectable.
    """

    count: jax.Array
    selection: Any
    inner: optax.OptState
    regular: optax.OptState


def _leafwise(
    subspace: Subspace,
    inner: optax.GradientTransformationExtraArgs,
    free: Callable[[jax.Array], jax.Array],
    density: float,
    leaves: Any,
) -> Space:
    """A subspace of one tensor, on every tensor of a tree."""

    def select(key, interval, step, grads):
        def one(leaf, g):
            # Of the path alone: another tensor in the model changes nothing here.
            k = jax.random.fold_in(key, leaf.number)

            def draw(k, g):
                return subspace.select(k, g, density=density, step=step, path=leaf.path)

            g = leaf.view(g)
            basis = leaf.per_tensor(draw)(jax.random.split(k, len(g)) if leaf.batch else k, g)
            return _vary_as(g, basis)

        return jax.tree.map(one, leaves, grads)

    def down(xs, bases):
        def one(leaf, x, b):
            return leaf.per_tensor(subspace.down)(leaf.view(x), b)

        return jax.tree.map(one, leaves, xs, bases)

    def update(directions, low, bases, grads):
        def one(leaf, u, d, b, grad):
            g = leaf.view(grad)
            if subspace.merge is not None:
                full = leaf.per_tensor(subspace.merge)(u, b, free(g))
            else:
                shape = g.shape[1:] if leaf.batch else g.shape
                up = leaf.per_tensor(lambda x, b: subspace.up(x, b, shape))
                full = up(u, b) + free(g - up(d, b))
            return leaf.restore(full, grad.shape)

        return jax.tree.map(one, leaves, directions, low, bases, grads)

    def owners(xs):
        return jax.tree.map(lambda leaf, x: [x], leaves, xs)

    def idle(xs, low):
        trees = (jax.tree.leaves(tree) for tree in (leaves, xs, low))
        return [leaf.path for leaf, x, d in zip(*trees, strict=True) if x.size and not d.size]

    return Space(select, down, update, owners, idle, inner)


def scale_by_frugal(
    inner: optax.GradientTransformation = optax.scale_by_adam(),  # noqa: B008
    *,
    density: float | None = None,
    update_gap: int = 200,
    subspace: str | Subspace | Block = "block",
    state_free: str = "sign_sgd",
    state_free_scale: float = 1.0,
    projectable_scale: float = 1.0,
    projectable: Any = None,
    seed: int = 0,
    reset: bool = True,
    regular: optax.GradientTransformation | None = None,
    stacked: Any = None,
    weight_dimension_numbers: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Direction of :func:`frugal`, free of learning rate and decay.

    .. math::
      D_t = P_u G_t, \qquad
      U_t = s \left( P_u^\top\, \mathrm{inner}(D_t)
        + s_0\, \mathrm{free}(G_t - P_u^\top D_t) \right)

    Args:
      inner: State-full direction in the subspace, without a learning rate.
      density: :math:`\rho` in [0, 1], the part of each tensor, or of the tensors, that is
        state-full; 0.25 if ``None``. A Python number: it decides shapes. If it is positive, at
        least one tensor, row, column, entry or direction is state-full.
      update_gap: Steps between changes of the subspace, >= 1.
      subspace: A name or an object of :mod:`optim.subspaces`.
      state_free: ``"sign_sgd"``, ``"sgd"`` or ``"none"``.
      state_free_scale: :math:`s_0` >= 0, on the state-free part.
      projectable_scale: :math:`s` >= 0, on the whole update of a projectable tensor.
      projectable: Which leaves are split: a tree of bools or a function of (path, leaf); the hidden
        matrices, :func:`optim.is_hidden_matrix`, if ``None``.
      seed: Seed of the random subspaces, an integer.
      reset: Whether the state of ``inner`` starts again at a change of the subspace.
      regular: Direction for the leaves that are not projectable; ``inner`` if ``None``.
      stacked: Which leaves hold the layers of a network along their first axis: a tree of bools or
        a function of (path, leaf).
      weight_dimension_numbers: How a tensor of more than two axes is a matrix to a subspace that
        needs one (``svd``, ``random_orthogonal``, ``randperm``): an object with the attributes
        ``reduction_axis`` and ``output_axis``, each one axis or several, as
        ``optax.contrib.GaLoreDimensionNumbers``; a tree of them; or a function of (path, leaf).
        Other axes are a batch of matrices. Where it is ``None`` the rows are all axes but the last,
        as in a convolution (height, width, in, out), but only the first one in a query, key or
        value (features, heads, head size), told by name or by features = heads * head size.

    Returns:
      The transformation; its state is a :class:`ScaleByFrugalState`.

    Raises:
      ValueError: If an argument is out of its range, or ``inner`` cannot work on a single array;
        at init, if a leaf does not suit the subspace.

    Warns:
      UserWarning: At init, if no leaf is projectable, or one is never trained: because its part of
        the subspace is empty and ``state_free`` is ``"none"`` or its scale 0, or because
        ``projectable_scale`` is 0.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> tx = optim.scale_by_frugal(density=0.5, subspace="columns")
      >>> params = {"w": jnp.ones((4, 2))}
      >>> tx.init(params).inner.mu["w"].shape
      (2, 2)
    """
    density = 0.25 if density is None else density
    if isinstance(density, bool) or not isinstance(density, numbers.Real):
        raise ValueError(
            f"density must be a Python number in [0, 1] (it decides shapes; with "
            f"optax.inject_hyperparams name it in static_args), got {density!r}"
        )
    _checks.number("density", density, 0, 1)
    _checks.number("update_gap", update_gap, 1)
    if not isinstance(update_gap, jax.Array) and int(update_gap) != update_gap:
        raise ValueError(f"update_gap must be an integer >= 1, got {update_gap}")
    _checks.number("state_free_scale", state_free_scale, 0)
    _checks.number("projectable_scale", projectable_scale, 0)
    _checks.flag("reset", reset)
    _checks.choice("state_free", state_free, _FREE)
    chosen = subspaces.by_name(subspace)
    if isinstance(chosen, Block) and not reset:
        raise ValueError(
            "reset must be True with block subspaces: another tensor's state is no use"
        )
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral | jax.Array):
        raise ValueError(f"seed must be an integer, got {seed!r}")
    density = float(density)
    full_inner = _direction("inner", inner)
    rest_inner = full_inner if regular is None else _direction("regular", regular)
    flat = isinstance(chosen, Block) and blocks.may_share_a_buffer(full_inner)

    def free(g):
        return state_free_scale * _FREE[state_free](g)

    def space_of(hidden) -> Space:
        as_matrix = isinstance(chosen, Subspace) and chosen.matrix
        leaves = describe(hidden, stacked, weight_dimension_numbers, as_matrix)
        if isinstance(chosen, Block):
            return blocks.blockwise(chosen, full_inner, free, density, leaves, hidden, flat)
        return _leafwise(chosen, full_inner, free, density, leaves)

    def key_of(interval):
        return jax.random.fold_in(jax.random.key(seed), interval)

    def init_fn(params):
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            _checks.real_leaf(path, leaf)
        hidden, others = split(params, projectable)
        space = space_of(hidden)
        zero = jnp.zeros([], jnp.int32)

        def first(zero):
            grads = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), hidden)
            basis = space.select(key_of(zero), zero, zero, grads)
            return basis, space.down(grads, basis)

        bases, low = jax.eval_shape(first, zero)
        idle = []
        if _checks.is_zero(projectable_scale):
            idle = [leaf.path for leaf in jax.tree.leaves(describe(hidden, None, None, False))]
        elif state_free == "none" or _checks.is_zero(state_free_scale):
            idle = space.idle(hidden, low)
        _warn(params, hidden, idle)
        # No value of these is used before the first step sets it.
        bases = jax.tree.map(lambda b: jnp.zeros(b.shape, b.dtype), bases)
        if not isinstance(chosen, Block):
            bases = jax.tree.map(_vary_as, hidden, bases)
        low = jax.tree.map(_zeros, low, space.owners(hidden))
        return ScaleByFrugalState(zero, bases, space.inner.init(low), rest_inner.init(others))

    def update_fn(updates, state, params=None, **extra):
        grads = split(updates, projectable)
        weights = Split(None, None) if params is None else split(params, projectable)
        space = space_of(grads.hidden)

        change = state.count % update_gap == 0
        interval = state.count // update_gap
        basis = jax.lax.cond(
            change,
            lambda: space.select(key_of(interval), interval, state.count, grads.hidden),
            lambda: state.selection,
        )
        low = space.down(grads.hidden, basis)
        low_weights: Any = None if params is None else space.down(weights.hidden, basis)

        fresh = change if reset else state.count == 0
        begun = space.inner.init(low if params is None else low_weights)
        inner_state = jax.tree.map(lambda a, b: jnp.where(fresh, a, b), begun, state.inner)
        directions, inner_state = space.inner.update(low, inner_state, low_weights, **extra)
        hidden = space.update(directions, low, basis, grads.hidden)
        hidden = jax.tree.map(lambda u: projectable_scale * u, hidden)

        others, rest_state = rest_inner.update(grads.others, state.regular, weights.others, **extra)
        count = jnp.asarray(optax.safe_increment(state.count))
        return joined(hidden, others), ScaleByFrugalState(count, basis, inner_state, rest_state)

    tx = adapters.on_explicit_axes(optax.GradientTransformationExtraArgs(init_fn, update_fn))
    return _trees.checked(adapters.on_trained_leaves(adapters.in_dtype_of_params(tx)))


def _direction(name: str, tx: Any) -> optax.GradientTransformationExtraArgs:
    _checks.transform(name, tx)
    tx = optax.with_extra_args_support(tx)
    _directions.check_direction(name, tx)
    return _directions.with_float32(tx)


def _vary_as(owner: jax.Array, tree: Any) -> Any:
    """``tree``, under ``jax.shard_map`` as much each device's own as ``owner`` is."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return tree
    zero = jnp.sum(jnp.zeros_like(owner))
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), tree)


def _zeros(low: jax.ShapeDtypeStruct, owners: list[Any]) -> jax.Array:
    """Zeros sharded as their owners are, on the last axes, where both have the same size."""
    shape, lead = owners[0].shape, len(low.shape) - owners[0].ndim
    of = adapters.common_sharding(owners)
    if of is None or lead < 0:
        return functools.reduce(
            lambda x, o: _vary_as(o, x), owners, jnp.zeros(low.shape, low.dtype)
        )
    spec = (*of.spec, *(None,) * (len(shape) - len(of.spec)))
    spec = [a if n == k else None for a, n, k in zip(spec, shape, low.shape[lead:], strict=True)]
    of = NamedSharding(of.mesh, PartitionSpec(*(None,) * lead, *spec))
    return adapters.placed(jnp.zeros(low.shape, low.dtype), of)


def _warn(params: Any, hidden: Any, idle: list[str]) -> None:
    """Warns if nothing is projectable, or if a projectable leaf is never trained."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if leaves and not jax.tree.leaves(hidden):
        message = (
            "frugal: no leaf is projectable, so all are updated by the state-full optimizer; "
            "projectable was asked about "
            + _listed([jax.tree_util.keystr(path) for path, _ in leaves])
        )
    elif idle:
        message = (
            "frugal: without a state-full part and with state_free='none', or with a scale of 0, "
            "these leaves are never trained: " + _listed(idle)
        )
    else:
        return
    warnings.warn(message, stacklevel=5)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def frugal(
    learning_rate: optax.ScalarOrSchedule,
    inner: optax.GradientTransformation = optax.scale_by_adam(),  # noqa: B008
    *,
    density: float | None = None,
    update_gap: int = 200,
    subspace: str | Subspace | Block = "block",
    state_free: str = "sign_sgd",
    state_free_scale: float = 1.0,
    projectable_scale: float = 1.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    projectable: Any = None,
    seed: int = 0,
    reset: bool = True,
    regular: optax.GradientTransformation | None = None,
    stacked: Any = None,
    weight_dimension_numbers: Any = None,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""FRUGAL: full-rank updates with the optimizer state of a small subspace.

    The gradient :math:`G` of a projectable tensor is split by a subspace :math:`P_u`, drawn anew in
    every interval :math:`u` of ``update_gap`` steps:

    .. math::
      D_t &= P_u G_t, \qquad R_t = G_t - P_u^\top D_t \\
      X_{t+1} &= X_t - \eta_t \left( s\, P_u^\top\, \mathrm{inner}(D_t)
        + s\, s_0\, \mathrm{free}(R_t) + \lambda X_t \right)

    with free the sign (signSGD), the identity (SGD) or zero. ``inner`` lives in the subspace alone,
    so its state has the size of the subspace: for Adam :math:`8 \rho` bytes per float32 parameter
    instead of 8. Leaves that are not projectable are updated by ``regular`` with full state. The
    step is one program: a change of the subspace changes data, it compiles nothing.

    **Block subspaces** (the default) take whole tensors, :func:`optim.subspaces.block`. Tensors of
    equal shape share slots and the assignment is data; with the deterministic orders there are as
    many slots as can be active at once. If slots would cost more bytes than the largest active set
    (models whose tensors all differ) and ``inner`` is elementwise, the active tensors share one
    flat buffer of that size. ``inner`` counts as elementwise if its program says so; to any other
    one, each slot is a tensor of its own. :func:`optim.state_bytes` says the result for a model.

    The gradients of the active tensors are gathered, which takes :math:`4 \rho` bytes of temporary
    memory per float32 parameter; ``python -m benchmarks.frugal`` counts what a step moves.

    **Sharding.** State created outside of ``jit`` is sharded as its parameter on the axes that it
    shares with it: all axes of a tensor in a slot, the axis of ``columns`` and ``rows`` that is
    kept whole, the axis a rotation leaves alone. Replicated are ``randk``, flat buffers, indices
    and rotations. Inside ``jit`` the compiler decides unless ``out_shardings`` says so.

    Args:
      learning_rate: Step size :math:`\eta`, or a schedule.
      inner: State-full direction in the subspace, without learning rate: ``optax.scale_by_adam()``,
        ``optax.scale_by_lion()``, ``optax.trace(0.9)``, ... It sees low-dimensional gradients, and
        parameters if it reads them.
      density: :math:`\rho` in [0, 1], the part of each tensor, or of the tensors, that is
        state-full; 0.25 if ``None``. A Python number: it decides shapes. If it is positive, at
        least one tensor, row, column, entry or direction is state-full.
      update_gap: Steps between changes of the subspace, >= 1.
      subspace: A name or an object of :mod:`optim.subspaces`.
      state_free: ``"sign_sgd"``, ``"sgd"`` or ``"none"``.
      state_free_scale: :math:`s_0` >= 0. The authors take 1 for pre-training, 0.1 for fine-tuning.
      projectable_scale: :math:`s` >= 0 on all of a projectable tensor's update.
      weight_decay: Decay :math:`\lambda` >= 0, or a schedule, times the learning rate; on whole
        tensors, state-full and state-free part alike, before the update, as the authors do.
      projectable: Which leaves are split: a tree of bools or a function of (path, leaf); the hidden
        matrices, :func:`optim.is_hidden_matrix`, if ``None``.
      seed: Of the random subspaces, which depend on it, the step and the leaf's path alone: a
        resumed run and every device of a mesh draw the same.
      reset: Whether the state of ``inner`` starts again at a change. If not, it is read in the new
        basis as it is, without projection, as in GaLore; not possible with blocks.
      regular: Direction for the leaves that are not projectable; ``inner`` if ``None``.
      stacked: Which leaves hold the layers of a network along their first axis, as under
        ``nnx.scan``: a tree of bools or a function of (path, leaf). Every layer then is a tensor.
      weight_dimension_numbers: How a tensor of more than two axes is a matrix to a subspace that
        needs one (``svd``, ``random_orthogonal``, ``randperm``): an object with the attributes
        ``reduction_axis`` and ``output_axis``, each one axis or several, as
        ``optax.contrib.GaLoreDimensionNumbers``; a tree of them; or a function of (path, leaf).
        Other axes are a batch of matrices. Where it is ``None`` the rows are all axes but the last,
        as in a convolution (height, width, in, out), but only the first one in a query, key or
        value (features, heads, head size), told by name or by features = heads * head size.
      mask: Which leaves decay: a tree of bools (a prefix will do) or a function of the parameters.

    Returns:
      The optimizer.

    Raises:
      ValueError: If an argument is out of its range or ``inner`` cannot work on a single array, at
        construction; if a leaf does not suit the subspace or the order, at init, with its path.

    Warns:
      UserWarning: At init, if no leaf is projectable, or one is never trained: because its part of
        the subspace is empty and ``state_free`` is ``"none"`` or its scale 0, or because
        ``projectable_scale`` is 0.

    Notes:
      The authors' SGD starts its momentum from a clone of a tensor; see
      :func:`optim.scale_by_momentum`. Their random blocks are drawn from all tensors at once; see
      ``stratify``. Their decay default is 0.01 for AdamW. Where their share of a small tensor
      rounds to nothing, here one row, column, tensor or direction is kept; see ``authors`` in
      :mod:`optim.subspaces`.

      Arithmetic on 16-bit leaves is in float32; the state has the dtype of the parameters, but for
      float16 it is float32, in which alone the square of a small gradient is not zero. A gradient
      of ``None`` counts as zero and gives no update; leaves that are no floating-point arrays are
      left out. With ``optax.inject_hyperparams``, name ``density`` and functions in
      ``static_args`` if you pass them. Under ``jax.vmap`` over runs the
      change becomes a select, so that a costly one (``svd``) is computed at every step.

    Example:
      >>> import jax.numpy as jnp, optax, optim
      >>> tx = optim.frugal(0.1, density=0.5, update_gap=2)
      >>> params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2)), "bias": jnp.ones(2)}
      >>> state = tx.init(params)
      >>> state[0].inner[0].mu.shape  # One slot for the two matrices.
      (1, 2, 2)
      >>> updates, state = tx.update(params, state, params)
      >>> [f"{x:.3f}" for x in optax.apply_updates(params, updates)["bias"]]
      ['0.900', '0.900']

    References:
      Zmushko et al., `FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable
      Training <https://arxiv.org/abs/2411.07837>`_, 2024
    """
    _checks.number("learning_rate", learning_rate, schedule=True)
    _checks.number("weight_decay", weight_decay, 0, schedule=True)
    direction = scale_by_frugal(
        inner,
        density=density,
        update_gap=update_gap,
        subspace=subspace,
        state_free=state_free,
        state_free_scale=state_free_scale,
        projectable_scale=projectable_scale,
        projectable=projectable,
        seed=seed,
        reset=reset,
        regular=regular,
        stacked=stacked,
        weight_dimension_numbers=weight_dimension_numbers,
    )
    return optax.chain(
        direction,
        _trees.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
