"""FRUGAL: a state-full optimizer on a small subspace, a state-free rule on the rest."""

import numbers
import warnings
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim import _blocks, _check, _masks, _traits, subspaces
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


class _Space(NamedTuple):
    """A subspace of all projectable leaves together, for leaves of known shapes."""

    select: Callable[..., Any]  # (key, interval, step, gradients) -> selection
    down: Callable[..., Any]  # (leaves, selection) -> low
    up: Callable[..., list[Any]]  # (low directions, low gradients, gradients, selection) -> updates
    inner: optax.GradientTransformationExtraArgs


class _Leaf(NamedTuple):
    path: str
    stacked: bool


def _per_tensor(leaf: _Leaf, f: Callable[..., Any]) -> Callable[..., Any]:
    # A stacked leaf is a batch of tensors along its first axis.
    return jax.vmap(f) if leaf.stacked else f


def _leafwise(subspace: Subspace, inner, free, leaves: list[_Leaf], density: float) -> _Space:
    def select(key, interval, step, grads):
        out = {}
        for leaf, g in zip(leaves, grads, strict=True):
            # Of the path alone: another tensor in the model changes nothing here.
            k = jax.random.fold_in(key, zlib.crc32(leaf.path.encode()))

            def one(k, g, leaf=leaf):
                return subspace.select(k, g, density=density, step=step, path=leaf.path)

            k = jax.random.split(k, g.shape[0]) if leaf.stacked else k
            out[leaf.path] = _per_tensor(leaf, one)(k, g)
        return out

    def down(xs, selection):
        return {
            leaf.path: _per_tensor(leaf, subspace.down)(x, selection[leaf.path])
            for leaf, x in zip(leaves, xs, strict=True)
        }

    def up(directions, low, grads, selection):
        out = []
        for leaf, g in zip(leaves, grads, strict=True):
            d, basis = directions[leaf.path], selection[leaf.path]
            shape = g.shape[1:] if leaf.stacked else g.shape
            if d.size == 0:
                out.append(free(g))
            elif subspace.merge is not None:
                out.append(_per_tensor(leaf, subspace.merge)(d, basis, free(g)))
            else:
                embed = _per_tensor(leaf, lambda x, b, shape=shape: subspace.up(x, b, shape))
                rest = g - embed(low[leaf.path], basis)
                out.append(embed(d, basis) + free(rest))
        return out

    return _Space(select, down, up, inner)


def _blockwise(
    block: Block, inner, elementwise, free, leaves: list[_Leaf], xs: list[Any], density: float
) -> _Space:
    plan = _blocks.plan(
        block,
        density,
        [leaf.path for leaf in leaves],
        xs,
        [leaf.stacked for leaf in leaves],
        elementwise,
    )
    # Of a group with slots every slot is a tensor of its own to ``inner``.
    mapped = [bool(g.slots) for g in plan.groups]

    def init(params):
        return tuple(
            (jax.vmap(inner.init) if m else inner.init)(x)
            for m, x in zip(mapped, params, strict=True)
        )

    def update(updates, state, params=None, **extra):
        def one(g, s, p=None):
            return inner.update(g, s, p, **extra)

        columns = (updates, state) if params is None else (updates, state, params)
        pairs = [
            (jax.vmap(one) if m else one)(*args) for m, *args in zip(mapped, *columns, strict=True)
        ]
        return tuple(u for u, _ in pairs), tuple(s for _, s in pairs)

    return _Space(
        lambda key, interval, step, grads: plan.choose(interval, key),
        lambda xs, active: _blocks.down(plan, xs, active),
        lambda d, low, grads, active: _blocks.up(plan, d, grads, active, free),
        optax.GradientTransformationExtraArgs(init, update),
    )


def scale_by_frugal(
    inner: optax.GradientTransformation = optax.scale_by_adam(),  # noqa: B008
    *,
    density: float = 0.25,
    update_gap: int = 200,
    subspace: str | Subspace | Block = "block",
    state_free: str = "sign_sgd",
    state_free_scale: float = 1.0,
    projectable_scale: float = 1.0,
    projectable: Any = _masks.is_hidden_matrix,
    seed: int = 0,
    reset: bool = True,
    regular: optax.GradientTransformation | None = None,
    stacked: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Direction of FRUGAL; see :func:`frugal`."""
    if isinstance(density, bool) or not isinstance(density, numbers.Real):
        raise ValueError(
            f"density must be a Python number (it decides shapes; with optax.inject_hyperparams "
            f"name it in static_args), got {density!r}"
        )
    _check.number("density", density, 0, 1)
    _check.number("update_gap", update_gap, 1)
    if not isinstance(update_gap, jax.Array) and int(update_gap) != update_gap:
        raise ValueError(f"update_gap must be an integer >= 1, got {update_gap}")
    _check.number("state_free_scale", state_free_scale, 0)
    _check.number("projectable_scale", projectable_scale, 0)
    _check.flag("reset", reset)
    if state_free not in _FREE:
        raise ValueError(f"state_free must be one of {', '.join(_FREE)}, got {state_free!r}")
    chosen = subspaces.by_name(subspace)
    if isinstance(chosen, Block) and not reset:
        raise ValueError(
            "reset must be True with block subspaces: another tensor's state is no use"
        )
    density = float(density)
    low_inner = optax.with_extra_args_support(inner)
    rest_inner = low_inner if regular is None else optax.with_extra_args_support(regular)

    traits = _traits.traits(low_inner)

    def free(g):
        return state_free_scale * _FREE[state_free](g)

    def split(tree):
        flat, treedef = jax.tree_util.tree_flatten_with_path(tree)
        hidden = _masks.resolve("projectable", projectable, tree)
        layered = _masks.resolve("stacked", stacked, tree)
        if flat and not any(hidden):
            paths = ", ".join(jax.tree_util.keystr(p) for p, _ in flat[:8])
            warnings.warn(
                f"frugal: no leaf is projectable, so all are updated by the state-full optimizer; "
                f"projectable was asked about {paths}{', ...' if len(flat) > 8 else ''}",
                stacklevel=3,
            )
        leaves = [
            _Leaf(jax.tree_util.keystr(path, simple=True, separator="/"), s)
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
            return _blockwise(chosen, low_inner, traits.elementwise, free, leaves, xs, density)
        return _leafwise(chosen, low_inner, free, leaves, density)

    def key_of(interval):
        return jax.random.fold_in(jax.random.key(seed), interval)

    def init_fn(params):
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            _check.real_leaf(path, leaf)
        leaves, xs, others, _, _ = split(params)
        s = space(leaves, xs)
        zero = jnp.zeros([], jnp.int32)
        shapes = jax.eval_shape(lambda xs: s.select(key_of(zero), zero, zero, xs), xs)
        selection = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        low = jax.eval_shape(s.down, xs, selection)
        # Nothing of the low state is used before the first step sets it.
        low = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), low)
        return ScaleByFrugalState(zero, selection, s.inner.init(low), rest_inner.init(others))

    def update_fn(updates, state, params=None, **extra):
        leaves, grads, others, hidden, treedef = split(updates)
        p_hidden = p_others = p_low = None
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
        low = s.down(grads, selection)
        if params is not None and traits.reads_params:
            p_low = s.down(p_hidden, selection)
        fresh = change if reset else state.count == 0
        begun = s.inner.init(low if p_low is None else p_low)
        inner_state = jax.tree.map(lambda a, b: jnp.where(fresh, a, b), begun, state.inner)
        directions, inner_state = s.inner.update(low, inner_state, p_low, **extra)
        full = [projectable_scale * u for u in s.up(directions, low, grads, selection)]

        others, regular_state = rest_inner.update(others, state.regular, p_others, **extra)
        rest = iter(jax.tree.leaves(others))
        out = treedef.unflatten([full.pop(0) if h else next(rest) for h in hidden])
        count = jnp.asarray(optax.safe_increment(state.count))
        return out, ScaleByFrugalState(count, selection, inner_state, regular_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


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
    projectable: Any = _masks.is_hidden_matrix,
    seed: int = 0,
    reset: bool = True,
    regular: optax.GradientTransformation | None = None,
    stacked: Any = None,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""FRUGAL: full-rank updates with the optimizer state of a small subspace."""
    _check.number("learning_rate", learning_rate, 0, schedule=True)
    _check.number("weight_decay", weight_decay, 0, schedule=True)
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
