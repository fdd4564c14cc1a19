"""FRUGAL: a state-full optimizer on a small subspace, a state-free rule on the rest."""

import functools
import numbers
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim import _checks, _paths, _trees, subspaces
from optim._frugal import elementwise, leafwise
from optim.subspaces import Block, Subspace

__all__ = ["ScaleByFrugalState", "frugal", "scale_by_frugal"]

_FREE: dict[str, Callable[[jax.Array], jax.Array]] = {
    "sign_sgd": jnp.sign,
    "sgd": lambda g: g,
    "none": jnp.zeros_like,
}


class ScaleByFrugalState(NamedTuple):
    """State of :func:`scale_by_frugal`.

    Attributes:
      count: Steps done, int32.
      selection: Block: which tensors are active, bools in the order of their paths. Otherwise the
        basis of every projectable leaf, by path.
      inner: State of ``inner`` on the low-dimensional gradients.
      regular: State of ``regular`` on the leaves that are not projectable.
    """

    count: jax.Array
    selection: Any
    inner: optax.OptState
    regular: optax.OptState


def scale_by_frugal(
    inner: optax.GradientTransformation = optax.scale_by_adam(),  # noqa: B008
    *,
    density: float = 0.25,
    update_gap: int = 200,
    subspace: str | Subspace | Block = "block",
    state_free: str = "sign_sgd",
    state_free_scale: float = 1.0,
    projectable_scale: float = 1.0,
    projectable: Any = _paths.is_hidden_matrix,
    seed: int = 0,
    reset: bool = True,
    regular: optax.GradientTransformation | None = None,
    stacked: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Direction of :func:`frugal`, free of learning rate and decay, with the same arguments.

    Returns:
      The transformation; its state is a :class:`ScaleByFrugalState`.

    Raises:
      ValueError: If an argument is out of its range or a leaf does not suit the subspace.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> tx = optim.scale_by_frugal(density=0.5, subspace="columns")
      >>> params = {"w": jnp.ones((4, 2))}
      >>> tx.init(params).inner.mu["w"].shape
      (2, 2)
    """
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
    for name, tx in (("inner", inner), ("regular", regular)):
        if not isinstance(tx, optax.GradientTransformation) and (tx, name) != (None, "regular"):
            raise ValueError(f"{name} must be an optax.GradientTransformation, got {tx!r}")
    density = float(density)
    low_inner = optax.with_extra_args_support(inner)
    rest_inner = low_inner if regular is None else optax.with_extra_args_support(regular)

    traits = elementwise.traits(low_inner)

    def free(g):
        return state_free_scale * _FREE[state_free](g)

    def split(tree, warn=False):
        flat, treedef = jax.tree_util.tree_flatten_with_path(tree)
        hidden = _paths.resolve("projectable", projectable, tree)
        layered = _paths.resolve("stacked", stacked, tree)
        if warn and flat and not any(hidden):
            paths = ", ".join(jax.tree_util.keystr(p) for p, _ in flat[:8])
            warnings.warn(
                f"frugal: no leaf is projectable, so all are updated by the state-full optimizer; "
                f"projectable was asked about {paths}{', ...' if len(flat) > 8 else ''}",
                stacklevel=3,
            )
        leaves = [
            leafwise.Leaf(
                jax.tree_util.keystr(_paths.of_variable(path), simple=True, separator="/"), s
            )
            for (path, _), s, h in zip(flat, layered, hidden, strict=True)
            if h
        ]
        xs = [x for (_, x), h in zip(flat, hidden, strict=True) if h]
        others = treedef.unflatten(
            [optax.MaskedNode() if h else x for (_, x), h in zip(flat, hidden, strict=True)]
        )
        return leaves, xs, others, hidden, treedef

    def space(leaves, xs):
        if isinstance(chosen, Block):
            return leafwise.blockwise(chosen, low_inner, traits, free, leaves, xs, density)
        return leafwise.leafwise(chosen, low_inner, free, leaves, density)

    def key_of(interval):
        return jax.random.fold_in(jax.random.key(seed), interval)

    def init_fn(params):
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            _checks.real_leaf(path, leaf)
        leaves, xs, others, _, _ = split(params, warn=True)
        s = space(leaves, xs)
        zero = jnp.zeros([], jnp.int32)
        like = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in xs]
        shapes = jax.eval_shape(lambda xs: s.select(key_of(zero), zero, zero, xs), like)
        selection = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        low = s.shapes(like, selection)
        # Nothing of the low state is used before the first step sets it.
        low = jax.tree.map(leafwise.zeros, low, s.owners(xs))
        return ScaleByFrugalState(zero, selection, s.init(low), rest_inner.init(others))

    def update(updates, state, params, **extra):
        leaves, grads, others, hidden, treedef = split(updates)
        p_hidden = p_others = None
        if params is not None:
            _, p_hidden, p_others, _, _ = split(params)
        s = space(leaves, grads)

        change = state.count % update_gap == 0
        interval = state.count // update_gap
        selection = jax.lax.cond(
            change,
            lambda: s.select(key_of(interval), interval, state.count, grads),
            lambda: state.selection,
        )
        fresh = change if reset else state.count == 0
        p_read = p_hidden if traits.reads_params else None
        full, inner_state = s.step(grads, state.inner, selection, fresh, p_read, **extra)
        full = [projectable_scale * u for u in full]

        others, regular_state = rest_inner.update(others, state.regular, p_others, **extra)
        rest = iter(jax.tree.leaves(others))
        out = treedef.unflatten([full.pop(0) if h else next(rest) for h in hidden])
        count = jnp.asarray(optax.safe_increment(state.count))
        return out, ScaleByFrugalState(count, selection, inner_state, regular_state)

    def update_fn(updates, state, params=None, **extra) -> Any:
        if params is not None:  # The state has the dtypes of the parameters.
            dtypes = jax.tree.map(jnp.result_type, updates)
            updates = jax.tree.map(lambda g, p: g.astype(p.dtype), updates, params)
            updates, state = laid_out(updates, state, params, **extra)
            return jax.tree.map(lambda u, d: u.astype(d), updates, dtypes), state
        return laid_out(updates, state, params, **extra)

    def laid_out(updates, state, params, **extra) -> Any:
        # Where axes are explicit the compiler decides inside; the state stays as it is laid out.
        specs = jax.tree.map(lambda x: jax.typeof(x).sharding.spec, (updates, state))
        if not any(axis for spec in jax.tree.leaves(specs) for axis in spec):
            return update(updates, state, params, **extra)
        auto: Any = jax.sharding.auto_axes(functools.partial(update, **extra), out_sharding=specs)
        return auto(updates, state, params)

    return _trees.checked(optax.GradientTransformationExtraArgs(init_fn, update_fn))


def frugal(
    learning_rate: optax.ScalarOrSchedule,
    inner: optax.GradientTransformation = optax.scale_by_adam(),  # noqa: B008
    *,
    density: float = 0.25,
    update_gap: int = 200,
    subspace: str | Subspace | Block = "block",
    state_free: str = "sign_sgd",
    state_free_scale: float = 1.0,
    projectable_scale: float = 1.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    projectable: Any = _paths.is_hidden_matrix,
    seed: int = 0,
    reset: bool = True,
    regular: optax.GradientTransformation | None = None,
    stacked: Any = None,
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
    so its state has the size of the subspace: for Adam :math:`8 \rho` bytes a float32 parameter
    instead of 8. Leaves that are not projectable are updated by ``regular`` with full state. The
    step is one program: a change of the subspace changes data, it compiles nothing.

    **Block subspaces** (the default) take whole tensors, :func:`optim.subspaces.block`. Tensors of
    equal shape share slots and the assignment is data; with the deterministic orders there are as
    many slots as can be active at once. If slots would cost more bytes than the largest active set
    (models whose tensors all differ) and ``inner`` is elementwise, the active tensors share one
    flat buffer of that size. :func:`optim.state_bytes` says the result for a model.

    On CPU a donated step needs no temporary if ``inner`` is elementwise and its direction follows
    from the gradient and the new state, as those of Adam, momentum and
    :func:`optim.scale_by_lion_k` do (not of ``optax.scale_by_lion``, which reads the old one): 12
    bytes a parameter for gradients and parameters, 8 for the directions at all tensors and
    :math:`20 \rho` for the moments are moved, beside AdamW's 40. Otherwise the gradients of the
    active tensors are gathered first, :math:`4 \rho` temporary bytes a parameter.

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
        state-full. A Python number: it decides shapes.
      update_gap: Steps between changes of the subspace, >= 1.
      subspace: A name or an object of :mod:`optim.subspaces`.
      state_free: ``"sign_sgd"``, ``"sgd"`` or ``"none"``.
      state_free_scale: :math:`s_0` >= 0. The authors take 1 for pre-training, 0.1 for fine-tuning.
      projectable_scale: :math:`s` >= 0 on all of a projectable tensor's update.
      weight_decay: Decay :math:`\lambda` >= 0, or a schedule, times the learning rate; on whole
        tensors, state-full and state-free part alike, before the update, as the authors do.
      projectable: Which leaves are split: a tree of bools or a function of (path, leaf). By default
        the hidden matrices, :func:`optim.is_hidden_matrix`.
      seed: Of the random subspaces, which depend on it, the step and the leaf's path alone: a
        resumed run and every device of a mesh draw the same.
      reset: Whether the state of ``inner`` starts again at a change. If not, it is read in the new
        basis as it is, without projection, as in GaLore; not possible with blocks.
      regular: Direction for the leaves that are not projectable; ``inner`` if ``None``.
      stacked: Which leaves hold the layers of a network along their first axis, as under
        ``nnx.scan``: a tree of bools or a function of (path, leaf). Every layer then is a tensor.
      mask: Which leaves decay: a tree of bools (a prefix will do) or a function of the parameters.

    Returns:
      The optimizer.

    Raises:
      ValueError: If an argument is out of its range, at construction; if a leaf does not suit the
        subspace or the order, at init, with its path.

    Warns:
      UserWarning: At init, if no leaf is projectable.

    Notes:
      The authors' SGD starts its momentum from a clone of a tensor; see
      :func:`optim.scale_by_momentum`. Their random blocks are drawn from all tensors at once; see
      ``stratify``. Their decay default is 0.01 for AdamW. ``optax.inject_hyperparams`` needs
      ``static_args=("density", "projectable")``, and ``optax.tree.map_params`` raises
      ``ValueError``: the state is not shaped like the parameters. Under ``jax.vmap`` over runs the
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
    )
    return optax.chain(
        direction,
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
