"""One subspace for all projectable leaves of :func:`optim.frugal`, leaf by leaf or in blocks."""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from optim import _inplace
from optim._frugal import blocks
from optim._frugal.elementwise import Traits
from optim.subspaces import Block, Subspace


class Space(NamedTuple):
    """A subspace of all projectable leaves together, for leaves of known shapes."""

    select: Callable[..., Any]  # (key, interval, step, gradients) -> selection
    shapes: Callable[[Any, Any], Any]  # (leaves, selection) -> shapes of low
    owners: Callable[[Any], Any]  # leaves -> for each low array the leaves it serves
    init: Callable[[Any], Any]  # low -> state of ``inner``
    # (gradients, state, selection, whether the state begins, parameters or None) -> updates, state
    step: Callable[..., Any]


class Leaf(NamedTuple):
    """A projectable leaf: its path, and whether its first axis stacks layers."""

    path: str
    stacked: bool


def _per_tensor(leaf: Leaf, f: Callable[..., Any]) -> Callable[..., Any]:
    # A stacked leaf is a batch of tensors along its first axis.
    return jax.vmap(f) if leaf.stacked else f


def zeros(low: jax.ShapeDtypeStruct, owners: list[Any]) -> jax.Array:
    """Zeros sharded as their owners are, on the last axes, where both have the same size."""
    shardings = {getattr(x, "sharding", None) for x in owners if not isinstance(x, jax.core.Tracer)}
    shape, ndim = owners[0].shape, len(low.shape)
    lead = ndim - len(shape)
    of = shardings.pop() if len(shardings) == 1 else None
    if not isinstance(of, NamedSharding) or lead < 0:
        return jnp.zeros(low.shape, low.dtype)
    spec = (*of.spec, *(None,) * (len(shape) - len(of.spec)))
    spec = [a if n == k else None for a, n, k in zip(spec, shape, low.shape[lead:], strict=True)]
    return jnp.zeros(
        low.shape, low.dtype, device=NamedSharding(of.mesh, PartitionSpec(*(None,) * lead, *spec))
    )


def _through(down, up, inner) -> Callable[..., Any]:
    def step(grads, state, selection, fresh, params, **extra):
        low = down(grads, selection)
        p_low = None if params is None else down(params, selection)
        begun = inner.init(low if p_low is None else p_low)
        state = jax.tree.map(lambda a, b: jnp.where(fresh, a, b), begun, state)
        directions, state = inner.update(low, state, p_low, **extra)
        return up(directions, low, grads, selection), state

    return step


def leafwise(subspace: Subspace, inner, free, leaves: list[Leaf], density: float) -> Space:
    """The space of a subspace that each leaf selects by itself."""

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

    def owners(xs):
        return {leaf.path: [x] for leaf, x in zip(leaves, xs, strict=True)}

    def shapes(xs, selection):
        return jax.eval_shape(down, xs, selection)

    return Space(select, shapes, owners, inner.init, _through(down, up, inner))


def blockwise(
    block: Block, inner, traits: Traits, free, leaves: list[Leaf], xs: list[Any], density: float
) -> Space:
    """The space of whole tensors, selected among all leaves ``xs``."""
    plan = blocks.plan(
        block,
        density,
        [leaf.path for leaf in leaves],
        xs,
        [leaf.stacked for leaf in leaves],
        traits.elementwise,
    )
    # Of a group with slots every slot is a tensor of its own to ``inner``.
    mapped = [bool(g.slots) for g in plan.groups]

    def init(params):
        states = []
        for m, x in zip(mapped, params, strict=True):
            state = (jax.vmap(inner.init) if m else inner.init)(x)
            of = None if isinstance(x, jax.core.Tracer) else getattr(x, "sharding", None)
            if isinstance(of, NamedSharding):  # vmap forgets it.
                state = jax.tree.map(
                    lambda s, x=x, of=of: jax.device_put(s, of) if s.shape == x.shape else s, state
                )
            states.append(state)
        return tuple(states)

    def update(updates, state, params=None, **extra):
        def one(g, s, p=None):
            return inner.update(g, s, p, **extra)

        columns = (updates, state) if params is None else (updates, state, params)
        pairs = [
            (jax.vmap(one) if m else one)(*args) for m, *args in zip(mapped, *columns, strict=True)
        ]
        return tuple(u for u, _ in pairs), tuple(s for _, s in pairs)

    def down(xs, active):
        return blocks.down(plan, xs, active)

    def up(directions, low, grads, active):
        def direction(n, g, pick):
            return pick(directions[n])

        return blocks.up(plan, grads, active, free, direction)

    mapped_inner = optax.GradientTransformationExtraArgs(init, update)
    gathered = _through(down, up, mapped_inner)
    simple = traits.elementwise and not traits.reads_params

    def step(grads, state, active, fresh, params, **extra):
        def in_place(grads, state, active, fresh):
            return _inplace.step(plan, inner, free, grads, state, active, fresh, **extra)

        def default(grads, state, active, fresh):
            return gathered(grads, state, active, fresh, params, **extra)

        args = grads, state, active, fresh
        if not simple or not _inplace.possible(plan, inner, **extra):
            return default(*args)
        return jax.lax.platform_dependent(*args, cpu=in_place, default=default)

    return Space(
        lambda key, interval, step, grads: plan.choose(interval, key),
        lambda xs, active: blocks.shapes(plan),
        lambda xs: tuple([xs[plan.members[i].leaf] for i in g.members] for g in plan.groups),
        init,
        step,
    )
