"""Block subspaces of :func:`optim.frugal`: static storage, selection as data.

Everything about shapes is decided before the first step. Tensors of one shape form a class with as
many slots as can be active at once; which tensor fills which slot is data, so a change neither
compiles anything nor moves a shape. A stacked leaf is a class of its own, its members its layers.
Where so few tensors share a shape that slots would waste memory, all unstacked ones share a flat
buffer instead, as long as the largest active set, with a dynamic offset per active tensor.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim.subspaces import Block


class Member(NamedTuple):
    """A tensor that is active or not: a leaf, or one layer of a stacked leaf."""

    leaf: int
    layer: int | None
    shape: tuple[int, ...]
    dtype: Any


class Group(NamedTuple):
    """Storage of some members: slots of one shape, or entries of a flat buffer."""

    members: tuple[int, ...]
    slots: int  # Of the members' shape; 0 for a flat buffer.
    entries: int  # Of a flat buffer.


class Plan(NamedTuple):
    """Static layout."""

    members: tuple[Member, ...]
    groups: tuple[Group, ...]
    choose: Callable[[jax.Array, jax.Array], jax.Array]  # (interval, key) -> active, bool [n]


def natural(path: str) -> list[Any]:
    """Sorting key of a path: numbers in it compare as numbers."""
    return [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", path)]


def positions(order: str, u: Any, n: int, k: int) -> Any:
    """Active positions of a deterministic ``order`` in interval ``u`` (a number or traced)."""
    if order == "mirror":
        half, k = n // 2, k // 2
        if half == 0 or k == 0:
            return np.zeros(0, np.int32)
        i = (u % (half // math.gcd(half, k)) * k + np.arange(k)) % half
        return (jnp if isinstance(i, jax.Array) else np).concatenate([i, n - 1 - i])
    start = u % (n // math.gcd(n, k)) * k if k else 0  # A remainder first: u * k may overflow.
    i = (start + np.arange(k)) % n
    return i if order == "ascending" else n - 1 - i


def _quotas(sizes: list[int], density: float, total: int) -> list[int]:
    # Largest remainder: shares sum to ``total``, each within one of its exact value.
    exact = [s * density for s in sizes]
    share = [math.floor(x) for x in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda c: share[c] - exact[c])
    for c in by_remainder[: total - sum(share)]:
        share[c] += 1
    return share


def _ordered(paths: list[str], leaves: list[Any], stacked: list[bool]) -> list[Member]:
    members: list[Member] = []
    layers: list[Member] = []
    at = None
    for i in sorted(range(len(paths)), key=lambda i: natural(paths[i])):
        leaf = leaves[i]
        if stacked[i]:
            at = len(members) if at is None else at
            layers += [Member(i, j, leaf.shape[1:], leaf.dtype) for j in range(leaf.shape[0])]
        else:
            members.append(Member(i, None, leaf.shape, leaf.dtype))
    layers.sort(key=lambda m: m.layer or 0)  # Layer by layer, as the network is; stable.
    return members if at is None else members[:at] + layers + members[at:]


def plan(
    block: Block,
    density: float,
    paths: list[str],
    leaves: list[Any],
    stacked: list[bool],
    elementwise: bool,
) -> Plan:
    """Decides the layout for the projectable ``leaves``."""
    members = _ordered(paths, leaves, stacked)
    n = len(members)
    k = round(n * density)
    if block.order == "mirror" and k % 2:
        raise ValueError(
            f"order='mirror' takes pairs and needs an even number of active tensors, got {k} "
            f"(round({n} tensors * density {density}))"
        )
    classes: dict[Any, list[int]] = {}
    for i, m in enumerate(members):
        owner = m.leaf if m.layer is not None else None
        classes.setdefault((m.shape, str(m.dtype), owner), []).append(i)
    size = np.array([math.prod(m.shape) for m in members])

    strata = [(list(range(n)), k)]
    if block.order == "random" and block.stratify:
        own = [c for c in classes.values() if len(c) * density >= 1]
        rest = sorted(set(range(n)) - {i for c in own for i in c})
        pools = [*own, rest] if rest else own
        strata = list(zip(pools, _quotas([len(p) for p in pools], density, k), strict=True))
    if block.order in ("random",) or callable(block.order):
        # Any k of a stratum: its k largest, or k of one class, may be active.
        def most(ids, weight):
            ids = set(ids)
            total = 0
            for pool, take in strata:
                inside = sorted((weight[i] for i in pool if i in ids), reverse=True)
                total += sum(inside[:take])
            return int(total)
    else:
        period = 1 if k == 0 else n
        sets = [np.asarray(positions(block.order, u, n, k), int) for u in range(period)]

        def most(ids, weight):
            inside = np.zeros(n)
            inside[ids] = [weight[i] for i in ids]
            return int(max(inside[s].sum() for s in sets))

    ones = np.ones(n, int)
    groups, loose = [], []
    for (_, dtype, owner), ids in classes.items():
        group = Group(tuple(ids), most(ids, ones), 0)
        (groups if owner is not None else loose).append((dtype, group))
    slots = sum(g.slots * int(size[g.members[0]]) for _, g in loose)
    flat = []
    for dtype in {d: None for d, _ in loose}:
        ids = sorted(i for d, g in loose if d == dtype for i in g.members)
        flat.append((dtype, Group(tuple(ids), 0, most(ids, size))))
    if sum(g.entries for _, g in flat) < slots and elementwise:
        loose = flat
    kept = tuple(g for _, g in groups + loose if g.slots or g.entries)

    def choose(u, key):
        if block.order == "random":
            active = jnp.zeros(n, bool)
            for s, (ids, take) in enumerate(strata):
                drawn = jax.random.permutation(jax.random.fold_in(key, s), len(ids)) < take
                active = active.at[np.array(ids, int)].set(drawn)
            return active
        if callable(block.order):
            index = block.order(u, n, k, key)
        else:
            index = positions(block.order, u, n, k)
        return jnp.zeros(n, bool).at[jnp.asarray(index, jnp.int32)].set(True)

    return Plan(tuple(members), kept, choose)


def shapes(p: Plan) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Low-dimensional shapes: (slots, *shape) or (entries,) of each group."""
    low = []
    for g in p.groups:
        first = p.members[g.members[0]]
        shape = (g.slots, *first.shape) if g.slots else (g.entries,)
        low.append(jax.ShapeDtypeStruct(shape, first.dtype))
    return tuple(low)


def places(p: Plan, g: Group, active: jax.Array) -> list[tuple[int, jax.Array, jax.Array]]:
    """(member, whether active, its slot or the offset of its first entry) of those that can fit."""
    here = active[np.array(g.members)].astype(jnp.int32)
    size = [math.prod(p.members[i].shape) for i in g.members]
    weight = np.ones(len(size), np.int32) if g.slots else np.array(size, np.int32)
    start = jnp.cumsum(here * weight) - here * weight
    limit = g.slots - 1 if g.slots else g.entries
    return [
        (i, here[j] > 0, jnp.minimum(start[j], limit))
        for j, i in enumerate(g.members)
        if g.slots or size[j] <= g.entries
    ]


def layers_of(p: Plan, g: Group, active: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of a stacked leaf: the layer in each slot, and the slot of each layer (-1: none)."""
    layer = np.array([p.members[i].layer for i in g.members])
    here = jnp.zeros(len(layer), bool).at[layer].set(active[np.array(g.members)])
    inside = jnp.nonzero(here, size=g.slots, fill_value=0)[0]
    return inside, jnp.where(here, jnp.cumsum(here) - 1, -1)


def _write(low: jax.Array, x: jax.Array, here: jax.Array, start: jax.Array) -> jax.Array:
    # low[start] = x where ``here``. On CPU a loop of one or no round: an inactive tensor costs
    # nothing and the buffer stays where it is (a cond would copy it). Elsewhere a loop would make
    # the host wait for its condition, so there every tensor rewrites its place.
    def put(low, x, start):
        return jax.lax.dynamic_update_slice_in_dim(low, x, start, 0)

    def loop(low, x, here, start):
        rounds = here.astype(jnp.int32)
        body = lambda c: (c[0] + 1, put(c[1], x, start))  # noqa: E731
        return jax.lax.while_loop(lambda c: c[0] < rounds, body, (jnp.int32(0), low))[1]

    return jax.lax.platform_dependent(low, x, here, start, cpu=loop, default=masked_write)


def masked_write(low: jax.Array, x: jax.Array, here: jax.Array, start: jax.Array) -> jax.Array:
    """``low[start : start + len(x)] = x`` where ``here``, without control flow."""
    old = jax.lax.dynamic_slice_in_dim(low, start, x.shape[0], 0)
    return jax.lax.dynamic_update_slice_in_dim(low, jnp.where(here, x, old), start, 0)


def down(p: Plan, leaves: list[Any], active: jax.Array) -> tuple[jax.Array, ...]:
    """The active tensors of ``leaves`` in their places."""
    out = []
    for g, shape in zip(p.groups, shapes(p), strict=True):
        low = jnp.zeros(shape.shape, shape.dtype)
        first = p.members[g.members[0]]
        if first.layer is not None:
            inside, _ = layers_of(p, g, active)
            low = jnp.take(leaves[first.leaf], inside, axis=0, mode="clip")
        else:
            for i, here, start in places(p, g, active):
                x = leaves[p.members[i].leaf]
                low = _write(low, x[None] if g.slots else x.reshape(-1), here, start)
        out.append(low)
    return tuple(out)


def up(
    p: Plan,
    leaves: list[Any],
    active: jax.Array,
    free: Callable[[jax.Array], jax.Array],
    direction: Callable[..., jax.Array],
) -> list[Any]:
    """``direction`` at the active tensors, ``free(gradient)`` at the others.

    ``direction(n, gradient, pick)`` is that of a tensor, or of a stacked leaf, of group ``n``;
    ``pick`` takes its part of an array that the group stores.
    """
    out = [free(x) for x in leaves]
    for n, g in enumerate(p.groups):
        first = p.members[g.members[0]]
        if first.layer is not None:
            _, slot = layers_of(p, g, active)

            def layers(x, slot=slot):
                return jnp.take(x, jnp.maximum(slot, 0), axis=0, mode="clip")

            kept = direction(n, leaves[first.leaf], layers)
            slot = slot.reshape(-1, *(1,) * len(first.shape))
            out[first.leaf] = jnp.where(slot >= 0, kept, out[first.leaf])
            continue
        for i, here, start in places(p, g, active):
            m = p.members[i]

            def tensor(x, here=here, start=start, m=m, slots=g.slots):
                if x.ndim == 0:  # Shared by a flat buffer.
                    return x
                size = 1 if slots else math.prod(m.shape)
                whole = x.shape[0] == size and x.shape != (1,)
                x = jax.lax.dynamic_slice_in_dim(x, start, size, 0)
                x = x[0] if slots else x.reshape(m.shape)
                # Were it equal for all tensors, XLA would keep it instead of computing it twice.
                return jnp.where(here, x, 0) if whole else x

            kept = direction(n, leaves[m.leaf], tensor)
            out[m.leaf] = jnp.where(here, kept, out[m.leaf])
    return out
