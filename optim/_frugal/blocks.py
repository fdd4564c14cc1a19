"""Block subspaces of :func:`optim.frugal`: whole tensors, static storage, selection as data.

Which tensors are active is a vector of bools; all shapes are decided before the first step, so a
change of the subspace compiles nothing. Tensors of one shape share as many slots as can be active
at once. A stacked leaf is a class of its own, its tensors its layers. Where so few tensors share a
shape that slots would waste memory, all unstacked ones share a flat buffer instead, as long as the
largest active set.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optim import _trees
from optim._frugal import adapters
from optim._frugal.elementwise import is_elementwise
from optim.subspaces import Block, Space, share


class Tensor(NamedTuple):
    """A tensor that is active or not: a leaf, by its number, or one layer of a stacked leaf."""

    leaf: int
    layer: int | None
    shape: tuple[int, ...]
    dtype: Any


class Group(NamedTuple):
    """Storage that some tensors share: slots of their shape, or entries of a flat buffer."""

    tensors: tuple[int, ...]
    slots: int
    entries: int  # 0 with slots.


class Order(NamedTuple):
    """Which of n tensors are active in an interval.

    Attributes:
      choose: ``choose(interval, key, norms)``: bools [n]. ``norms()`` are those of the tensors'
        gradients [n].
      largest: ``largest(weights)``: the largest sum of the weights [n] of an active set.
    """

    choose: Callable[[Any, jax.Array, Callable[[], jax.Array]], jax.Array]
    largest: Callable[[np.ndarray], int]


# Orders.


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


def _at(index: Any, n: int) -> jax.Array:
    return jnp.zeros(n, bool).at[jnp.asarray(index, jnp.int32)].set(True)


def _deterministic(order: str, n: int, k: int) -> Order:
    sets = [np.asarray(positions(order, u, n, k), int) for u in range(n if k else 1)]
    return Order(
        lambda u, key, norms: _at(positions(order, u, n, k), n),
        lambda weights: int(max(weights[s].sum() for s in sets)),
    )


def _heaviest(weights: np.ndarray, k: int) -> int:
    return int(np.sort(weights)[len(weights) - k :].sum())


def _custom(order: Callable[..., jax.Array], n: int, k: int) -> Order:
    return Order(
        lambda u, key, norms: _at(order(u, n, k, key), n),
        lambda weights: _heaviest(weights, k),
    )


def _random(pools: list[tuple[list[int], int]], n: int) -> Order:
    """From each pool of tensors that many, uniformly."""

    def choose(u, key, norms):
        active = jnp.zeros(n, bool)
        for i, (pool, k) in enumerate(pools):
            drawn = jax.random.permutation(jax.random.fold_in(key, i), len(pool)) < k
            active = active.at[np.array(pool, int)].set(drawn)
        return active

    return Order(choose, lambda weights: sum(_heaviest(weights[p], k) for p, k in pools))


def _greedy(constants: np.ndarray, n: int, k: int) -> Order:
    """The largest gradients, in the norm in which a step of 1/L makes most progress."""

    def choose(u, key, norms):
        return _at(jax.lax.top_k(norms() / np.sqrt(constants), k)[1], n)

    return Order(choose, lambda weights: _heaviest(weights, k))


def _proportional(constants: np.ndarray, n: int, k: int) -> Order:
    """Drawn one after another in proportion to the constants: the largest of Gumbel's scores."""

    def choose(u, key, norms):
        scores = np.log(constants) + jax.random.gumbel(key, (n,))
        return _at(jax.lax.top_k(scores, k)[1], n)

    return Order(choose, lambda weights: _heaviest(weights, k))


def _strata(classes: list[list[int]], density: float, k: int) -> list[tuple[list[int], int]]:
    """Classes as pools; those whose share is below one tensor are one pool.

    Shares are by largest remainder: they sum to ``k``, each within one of its exact value; but no
    pool is left out, or its tensors would never be active.
    """
    pools = [c for c in classes if len(c) * density >= 1]
    small = sorted(i for c in classes if len(c) * density < 1 for i in c)
    pools += [small] if small else []
    exact = [len(p) * density for p in pools]
    shares = [math.floor(x) for x in exact]
    by_remainder = sorted(range(len(pools)), key=lambda i: shares[i] - exact[i])
    for i in by_remainder[: k - sum(shares)]:
        shares[i] += 1
    return [(pool, max(s, 1)) for pool, s in zip(pools, shares, strict=True)]


def _constants(block: Block, leaves: list[Any], tensors: list[Tensor]) -> np.ndarray:
    """The Lipschitz constants of the tensors, 1 where none are given."""
    given, n = block.lipschitz, len(tensors)
    if given is None:
        return np.ones(n, np.float32)
    if callable(given):
        given = [given(leaves[t.leaf].path, t.shape) for t in tensors]
    constants = np.asarray(given, np.float32)
    if constants.shape != (n,) or not np.all(constants > 0):
        raise ValueError(
            f"lipschitz must be a positive number for each of the {n} projectable tensors, got "
            f"{given}"
        )
    return constants


def _norms(tensors: list[Tensor], xs: list[Any], norm: int) -> jax.Array:
    """Norms of the tensors of ``xs``, in their order."""

    def sums(i):
        x = jnp.abs(xs[i]).astype(_trees.wide_dtype(xs[i]))
        stacked = i in layered
        return jnp.sum(x if norm == 1 else x * x, range(int(stacked), x.ndim))

    layered = {t.leaf for t in tensors if t.layer is not None}
    of_leaf = {i: sums(i) for i in {t.leaf for t in tensors}}
    each = [of_leaf[t.leaf] if t.layer is None else of_leaf[t.leaf][t.layer] for t in tensors]
    total = jnp.stack(each).astype(jnp.float32)
    return total if norm == 1 else jnp.sqrt(total)


def _order(block: Block, density: float, classes: list[list[int]], constants: np.ndarray) -> Order:
    n = sum(len(c) for c in classes)
    k = share(n, density, round, block.authors)
    if k == 0:
        return _deterministic("ascending", n, 0)
    if callable(block.order):
        return _custom(block.order, n, k)
    if block.order == "gauss_southwell":
        return _greedy(constants, n, k)
    if block.order == "lipschitz":
        return _proportional(constants, n, k)
    if block.order == "random":
        strata = _strata(classes, density, k) if block.stratify else [(list(range(n)), k)]
        return _random(strata, n)
    if block.order == "mirror" and not block.authors and n * density < 1:
        if n == 1:
            return _deterministic("ascending", 1, 1)
        k = 2  # The smallest set is a pair.
    if block.order == "mirror" and k % 2:
        raise ValueError(
            f"order='mirror' takes pairs and needs an even number of active tensors, got {k} "
            f"(round({n} tensors * density {density}))"
        )
    return _deterministic(block.order, n, k)


# Storage.


def tensors_of(leaves: list[Any], xs: list[Any]) -> list[Tensor]:
    """The tensors of the leaves ``xs`` in the order of their paths, stacked ones by layer."""
    whole, layers, first = [], [], None
    for i in sorted(range(len(leaves)), key=lambda i: natural(leaves[i].path)):
        x = xs[i]
        if leaves[i].batch:
            first = len(whole) if first is None else first
            layers += [Tensor(i, j, x.shape[1:], x.dtype) for j in range(x.shape[0])]
        else:
            whole.append(Tensor(i, None, x.shape, x.dtype))
    layers.sort(key=lambda t: t.layer)  # Layer by layer, as the network is; stable.
    return whole[:first] + layers + whole[first:] if layers else whole


def _classes(tensors: list[Tensor]) -> list[list[int]]:
    classes: dict[Any, list[int]] = {}
    for i, t in enumerate(tensors):
        owner = None if t.layer is None else t.leaf
        classes.setdefault((t.shape, str(t.dtype), owner), []).append(i)
    return list(classes.values())


def groups_of(tensors: list[Tensor], order: Order, may_be_flat: bool) -> list[Group]:
    """The cheaper of slots and flat buffers for the unstacked tensors; slots for stacked ones."""

    def most(ids, weights):
        inside = np.zeros(len(tensors), int)
        inside[ids] = weights[ids]
        return order.largest(inside)

    one = np.ones(len(tensors), int)
    size = np.array([math.prod(t.shape) for t in tensors])
    slots = [Group(tuple(ids), most(ids, one), 0) for ids in _classes(tensors)]
    stacked = [g for g in slots if tensors[g.tensors[0]].layer is not None]
    loose = [g for g in slots if tensors[g.tensors[0]].layer is None]
    by_dtype: dict[str, list[int]] = {}
    for i in sorted(i for g in loose for i in g.tensors):
        by_dtype.setdefault(str(tensors[i].dtype), []).append(i)
    flat = [Group(tuple(ids), 0, most(ids, size)) for ids in by_dtype.values()]
    in_slots = sum(g.slots * size[g.tensors[0]] for g in loose)
    if may_be_flat and sum(g.entries for g in flat) < in_slots:
        loose = flat
    return [g for g in stacked + loose if g.slots or g.entries]


def may_share_a_buffer(inner: optax.GradientTransformationExtraArgs) -> bool:
    """Whether tensors of several shapes may be one flat array to ``inner``.

    Raises:
      ValueError: If ``inner`` cannot work on a single array, which blocks need.
    """
    try:
        return is_elementwise(inner)
    except Exception as e:
        raise ValueError(
            "inner must work on a single array as a block subspace gives it, but on one it raised "
            f"{type(e).__name__}: {e}"
        ) from e


# The subspace.


def _places(group: Group, tensors: list[Tensor], active: jax.Array) -> list[tuple[Any, ...]]:
    """(tensor, whether it is active, its slot or the offset of its first entry)."""
    here = jnp.asarray(active)[np.array(group.tensors)]
    size = np.ones(len(group.tensors), np.int32)
    if group.entries:
        size = np.array([math.prod(tensors[i].shape) for i in group.tensors], np.int32)
    # Where one is not active any place inside of the array will do. Outside of it, a sharded array
    # would be read and written at different places.
    last = (group.slots or group.entries) - size
    taken = jnp.where(here, size, 0)
    start = jnp.minimum(jnp.cumsum(taken) - taken, last)
    return [
        (tensors[i], here[j], start[j])
        for j, i in enumerate(group.tensors)
        if last[j] >= 0  # A larger one is never active.
    ]


def _layers(group: Group, tensors: list[Tensor], active: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of a stacked leaf: the layer in each slot, and the slot of each layer (-1: none)."""
    layer = np.array([tensors[i].layer for i in group.tensors])
    here = jnp.zeros(len(layer), bool).at[layer].set(active[np.array(group.tensors)])
    inside = jnp.nonzero(here, size=group.slots, fill_value=0)[0]
    return inside, jnp.where(here, jnp.cumsum(here) - 1, -1)


def _write(low: jax.Array, x: jax.Array, here: jax.Array, start: jax.Array) -> jax.Array:
    # low[start : start + len(x)] = x where ``here``.
    old = jax.lax.dynamic_slice_in_dim(low, start, len(x))
    return jax.lax.dynamic_update_slice_in_dim(low, jnp.where(here, x, old), start, 0)


def _down(groups: list[Group], tensors: list[Tensor], xs: list[Any], active: jax.Array) -> Any:
    """The active tensors of ``xs`` in their places: an array for each group."""
    out = []
    for group in groups:
        first = tensors[group.tensors[0]]
        if first.layer is not None:
            inside, _ = _layers(group, tensors, active)
            out.append(jnp.take(xs[first.leaf], inside, axis=0, mode="clip"))
            continue
        shape = (group.slots, *first.shape) if group.slots else (group.entries,)
        low = jnp.zeros(shape, first.dtype)
        for t, here, start in _places(group, tensors, active):
            x = xs[t.leaf]
            low = _write(low, x[None] if group.slots else x.reshape(-1), here, start)
        out.append(low)
    return tuple(out)


def _up(
    groups: list[Group], tensors: list[Tensor], low: Any, active: jax.Array, xs: list[Any]
) -> list[Any]:
    """``xs`` with the active tensors replaced by ``low``."""
    out = list(xs)
    for group, x in zip(groups, low, strict=True):
        first = tensors[group.tensors[0]]
        if first.layer is not None:
            _, slot = _layers(group, tensors, active)
            kept = jnp.take(x, jnp.maximum(slot, 0), axis=0, mode="clip")
            slot = slot.reshape(-1, *(1,) * len(first.shape))
            out[first.leaf] = jnp.where(slot >= 0, kept, out[first.leaf])
            continue
        for t, here, start in _places(group, tensors, active):
            size = 1 if group.slots else math.prod(t.shape)
            kept = jax.lax.dynamic_slice_in_dim(x, start, size).reshape(t.shape)
            out[t.leaf] = jnp.where(here, kept, out[t.leaf])
    return out


def _per_tensor(
    inner: optax.GradientTransformationExtraArgs, groups: list[Group]
) -> optax.GradientTransformationExtraArgs:
    """``inner`` on the arrays of all groups; each slot is a tensor of its own to it."""
    # With no group the state is an array, not an empty tuple: optax.tree.map_params compares a
    # state with that of a model without leaves, and so passes over what is not like a parameter.

    def init_fn(params):
        if not groups:
            return jnp.zeros(0)
        states = []
        for group, x in zip(groups, params, strict=True):
            state = (jax.vmap(inner.init) if group.slots else inner.init)(x)
            of = adapters.common_sharding([x])
            if group.slots and of is not None:  # vmap forgets it.
                state = jax.tree.map(
                    lambda s, x=x, of=of: adapters.placed(s, of) if s.shape == x.shape else s, state
                )
            states.append(state)
        return tuple(states)

    def update_fn(updates, state, params=None, **extra):
        if not groups:
            return (), state

        def one(g, s, p=None):
            return inner.update(g, s, p, **extra)

        columns = (updates, state) if params is None else (updates, state, params)
        pairs = [
            (jax.vmap(one) if group.slots else one)(*args)
            for group, *args in zip(groups, *columns, strict=True)
        ]
        return tuple(u for u, _ in pairs), tuple(s for _, s in pairs)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def blockwise(
    block: Block,
    inner: optax.GradientTransformationExtraArgs,
    free: Callable[[jax.Array], jax.Array],
    density: float,
    leaves: Any,
    like: Any,
    may_be_flat: bool,
) -> Space:
    """The space of whole tensors, selected among all ``leaves``, which are shaped ``like``."""
    treedef = jax.tree.structure(leaves)
    tensors = tensors_of(jax.tree.leaves(leaves), jax.tree.leaves(like))
    constants = _constants(block, jax.tree.leaves(leaves), tensors)
    order = _order(block, density, _classes(tensors), constants)
    groups = groups_of(tensors, order, may_be_flat)

    def select(key, interval, step, grads):
        del step
        return order.choose(
            interval, key, lambda: _norms(tensors, jax.tree.leaves(grads), block.norm)
        )

    def down(xs, active):
        return _down(groups, tensors, jax.tree.leaves(xs), active)

    def update(directions, low, active, grads):
        rest = [free(g) for g in jax.tree.leaves(grads)]
        return treedef.unflatten(_up(groups, tensors, directions, active, rest))

    def owners(xs):
        xs = jax.tree.leaves(xs)
        return tuple([xs[tensors[i].leaf] for i in g.tensors] for g in groups)

    def idle(xs, low):
        del xs, low
        alone = np.eye(len(tensors), dtype=int)
        names = [leaf.path for leaf in jax.tree.leaves(leaves)]
        sizes = [math.prod(t.shape) for t in tensors]
        never = [i for i, size in enumerate(sizes) if size and not order.largest(alone[i])]
        return [names[i] for i in dict.fromkeys(tensors[i].leaf for i in never)]

    return Space(
        select,
        down,
        update,
        owners,
        idle,
        _per_tensor(inner, groups),
    )
