"""Steps of block subspaces of :func:`optim.frugal` that copy no gradient.

Gathering the gradients of the active tensors costs a temporary of the size of a moment. Here a loop
over pieces of an active tensor reads its gradient and writes the state where it lies; a tensor that
is not active makes no round. Then each tensor's direction is a function of its gradient and the new
state, which fuses into the update of the parameters, so ``inner`` must be elementwise and allow
that: :func:`optim._traits.late_direction`. For CPU: other backends would wait for each loop.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optim._frugal import blocks, elementwise

_PIECE = 2**16  # Entries: they stay in the cache between reading and writing.

_read = functools.partial(jax.lax.dynamic_slice, allow_negative_indices=False)
_write = functools.partial(jax.lax.dynamic_update_slice, allow_negative_indices=False)


def _pieces(shape: tuple[int, ...]) -> tuple[int, int, int]:
    # (axis, length, count): at least two, lest XLA takes arithmetic on the gradient out of the
    # loop, for all tensors; along an axis that leaves the last one contiguous.
    if math.prod(shape) == 0:
        return 0, 0, 0
    axis = max(range(max(len(shape) - 1, 1)), key=lambda a: shape[a])
    count = min(max(2, -(-math.prod(shape) // _PIECE)), shape[axis])
    length = -(-shape[axis] // count)
    return axis, length, -(-shape[axis] // length)


def possible(p: blocks.Plan, inner: optax.GradientTransformationExtraArgs, **extra: Any) -> bool:
    """Whether the directions of an elementwise ``inner`` follow from its new state."""
    update = functools.partial(inner.update, params=None, **extra)
    for g in p.groups:
        m = p.members[g.members[0]]
        like = jax.ShapeDtypeStruct(m.shape, m.dtype)
        state = jax.eval_shape(inner.init, like)
        if not m.shape or elementwise.late_direction(update, like, state) is None:
            return False
    return True


def step(
    p: blocks.Plan,
    inner: optax.GradientTransformationExtraArgs,
    free: Callable[[jax.Array], jax.Array],
    grads: list[jax.Array],
    states: tuple[Any, ...],
    active: jax.Array,
    fresh: jax.Array,
    **extra: Any,
) -> tuple[list[jax.Array], tuple[Any, ...]]:
    """Updates of all tensors, and the new states, which begin again where ``fresh``."""

    update = functools.partial(inner.update, params=None, **extra)

    def begin(g, state):
        return jax.tree.map(lambda a, b: jnp.where(fresh, a, b), inner.init(g), state)

    def piece(i, state, scalar, leaf, layer, place, slots):
        # Round i of a tensor, or of a layer of a leaf, whose state is at ``place``.
        shape = leaf.shape if layer is None else leaf.shape[1:]
        axis, length, _ = _pieces(shape)
        start = jnp.minimum(i * length, shape[axis] - length)
        place = jnp.asarray(place, start.dtype)  # Indices of one slice are of one dtype.
        layer = None if layer is None else jnp.asarray(layer, start.dtype)
        at = [start if a == axis else 0 for a in range(len(shape))]
        size = [length if a == axis else n for a, n in enumerate(shape)]
        at_leaf, of_leaf = (at, size) if layer is None else ([layer, *at], [1, *size])
        at_low, of_low = ([place, *at], [1, *size]) if slots else ([place + start], size)

        def read(s, x):
            if s:
                return x[place] if slots else x
            return _read(x, at_low, of_low).reshape(size)

        g = _read(leaf, at_leaf, of_leaf).reshape(size)
        old = jax.tree.map(read, scalar, state)
        new = update(g, begin(g, old))[1]
        if length and shape[axis] % length:  # The last piece begins in the one before.
            todo = start + jnp.arange(length) >= i * length
            todo = todo.reshape([-1 if a == axis else 1 for a in range(len(shape))])
            new = jax.tree.map(lambda a, b: jnp.where(todo, a, b), new, old)

        def write(s, x, y):
            return x if s else _write(x, y.reshape(of_low), at_low)

        return jax.tree.map(write, scalar, state, new)

    before, after = [], []
    for group, state in zip(p.groups, states, strict=True):
        first = p.members[group.members[0]]
        like = jax.eval_shape(inner.init, jax.ShapeDtypeStruct((2,), first.dtype))
        scalar = jax.tree.map(lambda x: x.shape == (), like)
        # To an elementwise direction a tensor's scalars are those of a single entry.
        entry = jnp.zeros((), first.dtype)
        lead = (group.slots,) if group.slots else ()
        entries = jax.tree.map(
            lambda s, x, lead=lead: x if s else jnp.zeros(lead, x.dtype), scalar, state
        )

        def advance(state, entry=entry):
            old = begin(entry, state)
            return old, update(entry, old)[1]

        old, new = (jax.vmap(advance) if group.slots else advance)(entries)
        if first.layer is not None:
            leaf = grads[first.leaf]
            inside, slot = blocks.layers_of(p, group, active)
            count = _pieces(first.shape)[2]

            def body(i, state, scalar=scalar, leaf=leaf, inside=inside, count=count):
                k = i // count
                return piece(i % count, state, scalar, leaf, inside[k], k, True)

            state = jax.lax.fori_loop(0, jnp.sum(slot >= 0) * count, body, state)
        else:
            for i, here, place in blocks.places(p, group, active):
                leaf = grads[p.members[i].leaf]
                leaf = leaf if group.slots else leaf.reshape(-1)

                def body(i, state, scalar=scalar, leaf=leaf, place=place, slots=group.slots):
                    return piece(i, state, scalar, leaf, None, place, slots)

                state = jax.lax.fori_loop(0, here * _pieces(leaf.shape)[2], body, state)
        before.append(old)
        after.append(jax.tree.map(lambda s, x, a: a if s else x, scalar, state, new))

    @functools.cache
    def late(shape, dtype):
        like = jax.ShapeDtypeStruct(shape, dtype)
        found = elementwise.late_direction(update, like, jax.eval_shape(inner.init, like))
        assert found is not None, "not possible"
        return found

    def direction(n, g, pick):
        old, new = jax.tree.map(pick, (before[n], after[n]))
        if p.members[p.groups[n].members[0]].layer is None:
            return late(g.shape, g.dtype)(g, old, new)
        return jax.vmap(late(g.shape[1:], g.dtype))(g, old, new)

    return blocks.up(p, grads, active, free, direction), tuple(after)
