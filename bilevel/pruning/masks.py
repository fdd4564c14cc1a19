"""Masks: boolean pytrees beside the parameters, ``None`` where a leaf is not pruned."""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec, reshard

from bilevel.pruning._cut import Axes, Cut, axes_in, axes_of, cut_of, groups, path_name
from bilevel.pruning._select import (
    drop_smallest,
    drop_smallest_on_host,
    largest_in_groups,
    on_host,
)
from optim import _checks, _paths, _xla_cpu

__all__ = [
    "Axes",
    "Cut",
    "apply",
    "axes_of",
    "count",
    "cut_of",
    "default_rule",
    "density",
    "drop_counts",
    "from_counts",
    "from_scores",
    "groups",
    "iou",
    "map_leaves",
    "ones",
    "path_name",
    "prunable",
]

Rule = Callable[[str, jax.Array], bool]


def _is_none(x: Any) -> bool:
    return x is None


def map_leaves(fun: Callable[..., Any], masks: Any, *trees: Any) -> Any:
    """Maps over the leaves of ``masks``, ``None`` among them, and what lies there in ``trees``."""
    return jax.tree.map(fun, masks, *trees, is_leaf=_is_none)


def default_rule(path: str, leaf: jax.Array) -> bool:
    """The usual choice: floating-point kernels; no biases, norms, embeddings or other tables.

    The names of Flax, Haiku, Equinox, transformers and Mamba decide, for leaves of two axes or
    more; of three axes or more, two must be longer than 1.

    Example:
      >>> import jax.numpy as jnp
      >>> leaf = jnp.ones((4, 2))
      >>> default_rule("head/kernel", leaf), default_rule("norm/scale", leaf)
      (True, False)
    """
    shape, dtype = np.shape(leaf), jnp.result_type(leaf)
    if len(shape) < 2 or (len(shape) > 2 and sum(n != 1 for n in shape) < 2):
        return False
    return _paths.is_prunable(path, jax.ShapeDtypeStruct((2, 2), dtype))


def prunable(params: Any, rule: Rule | None = None, structure: str = "weight") -> Any:
    """Returns ``params`` with ``None`` in place of every leaf that is not pruned.

    Args:
      params: Any pytree of arrays: plain, Linen, an NNX state, with ``None`` leaves or without.
      rule: ``(path, leaf) -> bool``, with paths like ``Dense_0/kernel``; default:
        :func:`default_rule`, and for ``structure`` filter and channel leaves of three axes or more
        only, so that the classifier stays dense, as in the BiP paper. The first convolution
        counts; kernels of attentions and stacked layers do too.
      structure: See :class:`Cut`.

    Returns:
      A pytree like ``params``.

    Raises:
      ValueError: When no leaf is chosen; it lists the leaves there are.

    Warns:
      UserWarning: Where two chosen leaves are one array.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
      >>> jax.tree.map(jnp.shape, bilevel.masks.prunable(params))
      {'dense': {'bias': None, 'kernel': (2, 3)}}
    """
    if rule is None:
        rule = default_rule
        if structure in ("filter", "channel"):

            def rule(path, leaf):
                return default_rule(path, leaf) and np.ndim(leaf) >= 3

    if not callable(rule):
        raise ValueError(f"rule must be a function of a path and a leaf, got {rule!r}")
    named = [(path_name(path), x) for path, x in _paths.with_paths(params)]
    kept = [x if rule(name, x) else None for name, x in named]
    chosen = jax.tree.unflatten(jax.tree.structure(params), kept)
    if not jax.tree.leaves(chosen):
        names = [name for name, _ in named]
        raise ValueError(f"no leaf is prunable by this rule; the leaves are: {', '.join(names)}")
    _warn_of_ties([(name, x) for (name, _), x in zip(named, kept, strict=True) if x is not None])
    return chosen


def _warn_of_ties(named: list[tuple[str, Any]]) -> None:
    """Warns of leaves that are one array: to a pytree, and so to masks and steps, they are two."""
    first: dict[int, str] = {}
    for name, x in named:
        other = first.setdefault(id(x), name)
        if other != name and not isinstance(x, jax.core.Tracer):
            warnings.warn(
                f"{other} and {name} are one array (tied): each gets a mask of its own, and "
                "training will tell them apart; keep one leaf, and read it twice",
                stacklevel=3,
            )


def _drop(n: int, density: Any) -> int:
    # The authors' count, in Python floats: int((1 - 0.9) * 10) is 0.
    _checks.number("density", density, 0, 1, open_low=True)
    return int((1 - float(density)) * n)


def drop_counts(scores: Any, density: Any, cut: Cut | None = None, **fields: Any) -> Any:
    """How many entries (filters, channels) a density drops: ``int((1 - density) * n)``.

    Args:
      scores: See :func:`from_scores`; shapes are enough.
      density: See :func:`from_scores`.
      cut: See :class:`Cut`.
      **fields: Fields of the cut that differ from ``cut``.

    Returns:
      One integer for the scope global, else a tree of one integer per leaf, which counts for each
      of the layers that a leaf stacks.

    Raises:
      ValueError: On a density outside (0, 1] or a structure that does not fit a leaf (named).

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.masks.drop_counts({"a": jnp.ones((4, 5))}, 0.25)
      15
    """
    cut = cut_of(cut, **fields)

    def entries(x, axes):
        shape = jnp.shape(x)
        if cut.structure != "weight":
            layers = 1 if cut.by_layer else math.prod(shape[: axes.stacked])
            return layers * math.prod(shape[i] for i in cut.units(axes))
        return math.prod(shape[axes.stacked :] if cut.by_layer else shape)

    leaves, treedef = jax.tree.flatten(scores)
    found = axes_in(scores, cut)
    counts = [entries(x, axes) for x, axes in zip(leaves, found, strict=True)]
    sizes = jax.tree.unflatten(treedef, counts)
    if cut.n_of_m:
        n, m = cut.n_of_m
        if density is not None and abs(float(density) - n / m) > 1e-9:
            raise ValueError(f"structure {cut.structure!r} has density {n / m}, got {density}")
        return jax.tree.map(lambda _: m - n, sizes)
    one_density = jax.tree_util.treedef_is_leaf(jax.tree.structure(density))
    if not cut.by_layer:
        if not one_density:
            raise ValueError("a density for each leaf needs scope='layer'")
        return _drop(sum(jax.tree.leaves(sizes)), density)
    if one_density:
        return jax.tree.map(lambda n: _drop(n, density), sizes)
    try:
        return jax.tree.map(_drop, sizes, density)
    except ValueError as error:
        if jax.tree.structure(density) == jax.tree.structure(sizes):
            raise
        raise ValueError(
            f"density must be one number or a tree like the scores, {jax.tree.structure(sizes)}, "
            f"got {jax.tree.structure(density)}"
        ) from error


def _masks_n_of_m(x, axes, cut):
    n, m = cut.n_of_m
    last = tuple(range(x.ndim - len(axes.inputs), x.ndim))
    y = jnp.moveaxis(jnp.abs(x) if cut.absolute else x, axes.inputs, last)
    kept = largest_in_groups(y.reshape(-1, m), n)
    return jnp.moveaxis(kept.reshape(y.shape), last, axes.inputs)


def _floored(leaves: list[jax.Array], drop: Any, cut: Cut) -> list[jax.Array]:
    """One cut through all leaves, except that each keeps ``min_keep`` (or all it has)."""
    cap = jnp.array([max(x.size - cut.min_keep, 0) for x in leaves], jnp.int32)

    def dropped_if(capped):
        # Leaves at their floor leave the competition; the others share what is left to drop.
        rest = jnp.clip(drop - jnp.where(capped, cap, 0).sum(), 0)
        rivals = [
            jnp.where(capped[i], jnp.inf, jnp.abs(x) if cut.absolute else x)
            for i, x in enumerate(leaves)
        ]
        kept = drop_smallest(rivals, rest, absolute=False)
        dropped = jnp.stack([m.size - m.sum(dtype=jnp.int32) for m in kept])
        return jnp.where(capped, cap, dropped)

    def lift(carry):
        capped, dropped = carry
        capped = capped | (dropped > cap)
        return capped, dropped_if(capped)

    none = jnp.zeros(len(leaves), bool)
    dropped = lax.while_loop(lambda c: (c[1] > cap).any(), lift, (none, dropped_if(none)))[1]
    return [drop_smallest([x], dropped[i], cut.absolute)[0] for i, x in enumerate(leaves)]


def _by_layer(leaves: list[jax.Array], drops: list[Any], cut: Cut) -> list[jax.Array]:
    if cut.min_keep:
        most = [max(x.size - cut.min_keep, 0) for x in leaves]
        drops = [jnp.minimum(j, n) for j, n in zip(drops, most, strict=True)]
    pairs = zip(leaves, drops, strict=True)
    return [drop_smallest([x], j, cut.absolute)[0] for x, j in pairs]


def from_counts(scores: Any, counts: Any, cut: Cut | None = None, **fields: Any) -> Any:
    """:func:`from_scores` for the counts of :func:`drop_counts`, which may be traced.

    Iterative methods and populations over densities pass counts, so that one compiled program
    serves every density.

    Args:
      scores: See :func:`from_scores`.
      counts: How many entries (filters, channels) are dropped: one integer for the scope global,
        else a tree of one per leaf.
      cut: See :class:`Cut`.
      **fields: Fields of the cut that differ from ``cut``.

    Returns:
      Boolean masks with the structure of ``scores``.

    Raises:
      ValueError: On a structure that does not fit a leaf, or another number of counts than leaves.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.masks.from_counts(jnp.array([[3.0, -1.0, 2.0, 0.5]]), 2)
      Array([[ True, False,  True, False]], dtype=bool)
    """
    return _from_counts(scores, counts, cut_of(cut, **fields))


@functools.partial(jax.jit, static_argnames="cut")
def _from_counts(scores: Any, counts: Any, cut: Cut) -> Any:
    leaves, treedef = jax.tree.flatten(scores)
    found = axes_in(scores, cut)
    shardings = [_explicit(x) for x in leaves]
    leaves = [
        x if s is None else reshard(x, PartitionSpec())
        for x, s in zip(leaves, shardings, strict=True)
    ]
    if cut.n_of_m:
        masks = [_masks_n_of_m(x, axes, cut) for x, axes in zip(leaves, found, strict=True)]
    else:
        masks = _ranked(leaves, found, counts, cut)
    masks = [_reshard(m, s) for m, s in zip(masks, shardings, strict=True)]
    return jax.tree.unflatten(treedef, masks)


def _explicit(x: jax.Array) -> Any:
    """The layout of an array over explicit axes of a mesh, which cannot be cut where it lies."""
    sharding = jax.typeof(x).sharding
    return sharding if any(part is not None for part in sharding.spec) else None


def _reshard(x: jax.Array, sharding: Any) -> jax.Array:
    return x if sharding is None else reshard(x, sharding)


def _ranked(leaves: list[jax.Array], found: list[Axes], counts: Any, cut: Cut) -> list[jax.Array]:
    """Masks of single weights, or of slices by their norms."""
    ranked, kept = leaves, [tuple(range(x.ndim)) for x in leaves]
    if cut.structure != "weight":
        kept = [tuple(sorted((*range(a.stacked), *cut.units(a)))) for a in found]
        ranked = [groups(x, axes, cut.p) for x, axes in zip(leaves, kept, strict=True)]
    if cut.by_layer or cut.min_keep:
        # Each of the layers that a leaf stacks is one of its own.
        layers = [_split(x, a.stacked) for x, a in zip(ranked, found, strict=True)]
        flat = [x for part in layers for x in part]
        if cut.by_layer:
            drops = jax.tree.leaves(counts)
            if len(drops) != len(leaves):
                raise ValueError(f"{len(drops)} counts for {len(leaves)} leaves")
            drops = [j for j, part in zip(drops, layers, strict=True) for _ in part]
            done = iter(_by_layer(flat, drops, cut))
        else:
            done = iter(_floored(flat, counts, cut))
        parts = [[next(done) for _ in part] for part in layers]
        masks = [
            jnp.stack(part).reshape(x.shape) if a.stacked else part[0]
            for part, x, a in zip(parts, ranked, found, strict=True)
        ]
    else:
        masks = drop_smallest(ranked, counts, cut.absolute)

    def spread(mask, x, axes):
        shape = [n if i in axes else 1 for i, n in enumerate(x.shape)]
        return jnp.broadcast_to(mask.reshape(shape), x.shape)

    if cut.structure == "weight":
        return masks
    return [spread(m, x, axes) for m, x, axes in zip(masks, leaves, kept, strict=True)]


def _split(x: jax.Array, stacked: int) -> list[jax.Array]:
    return list(x.reshape(-1, *x.shape[stacked:])) if stacked else [x]


def from_scores(scores: Any, density: Any = None, cut: Cut | None = None, **fields: Any) -> Any:
    r"""Returns the masks that drop the smallest scores, exactly as many as the density says.

    .. math::
      m_i = 0 \text{ for the } j = \lfloor (1 - k)\, n \rfloor \text{ smallest } |s_i|

    with the floor of Python floats (as the authors count: ``int((1 - 0.9) * 10)`` is 0). Equal
    scores are dropped in the order of their index, as a stable sort would.

    Args:
      scores: Pytree of arrays, ``None`` where nothing is pruned (see :func:`prunable`).
      density: Share to keep, in (0, 1]; with ``scope="layer"`` also a tree of one per leaf (the
        allocators make such trees). A concrete number: traced code uses :func:`from_counts`. The
        structure N:M has a density of its own and needs none.
      cut: How the masks are cut: scope, structure, floor under each leaf, axes.
      **fields: Fields of the cut that differ from ``cut``, such as ``scope="layer"``.

    Returns:
      Boolean masks with the structure of ``scores``.

    Raises:
      ValueError: On a density outside (0, 1], a structure that does not fit a leaf, or scores that
        are NaN (the leaf is named). A layer that is left without a weight is a warning.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.masks.from_scores({"w": jnp.array([[1.0, -4.0], [3.0, 2.0]])}, 0.5)
      {'w': Array([[False,  True],
             [ True, False]], dtype=bool)}

    References:
      Zhang et al., Advancing Model Pruning via Bi-level Optimization, NeurIPS 2022.
    """
    if not jax.tree.leaves(scores):
        raise ValueError("scores has no leaf: nothing is prunable")
    cut = cut_of(cut, **fields)
    refuse_nan("scores", scores)
    counts = drop_counts(scores, density, cut)
    leaves, treedef = jax.tree.flatten(scores)
    if cut.structure == "weight" and not cut.by_layer and not cut.min_keep and on_host(leaves):
        found = drop_smallest_on_host(leaves, counts, cut.absolute)
        masks = jax.tree.unflatten(treedef, found)
    else:
        masks = _from_counts(scores, counts, cut)
    warn(masks)
    return masks


def refuse_nan(name: str, tree: Any) -> None:
    """Raises ``ValueError`` that names a leaf with NaN; traced leaves pass."""
    for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if isinstance(x, jax.core.Tracer):
            continue
        with jax.ensure_compile_time_eval():  # Under jit too, of an array closed over.
            count = int(_nans(x))
        if count:
            raise ValueError(f"{name} must be numbers: {path_name(path)} has {count} NaN")


@jax.jit
def _nans(x: jax.Array) -> jax.Array:
    return jnp.isnan(x).sum()


def warn(masks: Any) -> None:
    """Warns of what :func:`doubts` finds; traced masks pass."""
    for text in doubts(masks):
        warnings.warn(text, stacklevel=3)


def doubts(masks: Any, density: float | None = None, slack: int = 1) -> tuple[str, ...]:
    """Returns sentences on layers without a weight, and on a density that was missed.

    Args:
      masks: The masks; none is looked at while they are traced.
      density: What was asked for, or None.
      slack: By how many entries the masks may differ from that.
    """
    flat = jax.tree_util.tree_flatten_with_path(masks)[0]
    if any(isinstance(m, jax.core.Tracer) for _, m in flat):
        return ()
    found = []
    with jax.ensure_compile_time_eval():  # Under jit too, of masks closed over.
        kept = {path_name(path): int(_count(jnp.asarray(m))) for path, m in flat}
    empty = [name for name, n in kept.items() if not n]
    if empty:
        found.append(f"no weight is left in {', '.join(empty)}; min_keep= sets a least number")
    total = sum(m.size for _, m in flat)
    if density is not None and abs(sum(kept.values()) - density * total) > slack:
        share = sum(kept.values()) / total
        found.append(f"density {density:g} was missed: {share:.4g} of the weights are kept")
    return tuple(found)


def ones(params: Any, rule: Rule | None = None, structure: str = "weight") -> Any:
    """Returns masks that keep everything.

    Args:
      params: Parameters.
      rule: Which leaves are prunable; see :func:`prunable`.
      structure: See :class:`Cut`.

    Returns:
      Boolean masks, all True, ``None`` where the rule prunes nothing.

    Raises:
      ValueError: When no leaf is prunable.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.masks.ones({"w": jnp.zeros((1, 2)), "bias": jnp.zeros(2)})
      {'bias': None, 'w': Array([[ True,  True]], dtype=bool)}
    """
    chosen = prunable(params, rule, structure)
    return jax.tree.map(lambda x: jnp.ones(jnp.shape(x), bool), chosen)


def apply(masks: Any, params: Any) -> Any:
    """Returns ``params`` with exact zeros where the mask is False.

    Args:
      masks: Boolean masks, ``None`` where a leaf is not pruned.
      params: Arrays of the same shapes.

    Returns:
      A pytree like ``params``.

    Raises:
      ValueError: On masks of another structure or shape.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.masks.apply({"w": jnp.array([True, False])}, {"w": jnp.array([1.0, jnp.inf])})
      {'w': Array([1., 0.], dtype=float32)}
    """

    def one(mask, x):
        return x if mask is None else jnp.where(mask, x, jnp.zeros((), jnp.result_type(x)))

    try:
        return map_leaves(one, masks, params)
    except ValueError as error:
        raise ValueError(f"masks do not fit the parameters: {error}") from error


def count(masks: Any) -> jax.Array:
    """Returns the number of entries kept, an int32.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> int(bilevel.masks.count({"w": jnp.array([True, False, True]), "bias": None}))
      2
    """
    return sum((_count(jnp.asarray(m)) for m in jax.tree.leaves(masks)), jnp.int32(0))


def _count(mask: jax.Array) -> jax.Array:
    if _explicit(mask) is not None:  # What is split over explicit axes cannot be reshaped.
        return mask.sum(dtype=jnp.int32)
    return _xla_cpu.count_true(mask)


def density(masks: Any) -> jax.Array:
    """Returns the share of entries kept, in [0, 1]; leaves without a mask do not count.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> float(bilevel.masks.density({"w": jnp.array([True, False]), "bias": None}))
      0.5
    """
    return count(masks) / sum(m.size for m in jax.tree.leaves(masks))


def iou(a: Any, b: Any) -> jax.Array:
    """Returns intersection over union of what two masks keep: 1 when equal, 0 when disjoint.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> float(bilevel.masks.iou(jnp.array([True, True, False]), jnp.array([True, False, False])))
      0.5
    """
    both = count(jax.tree.map(jnp.logical_and, a, b))
    return both / jnp.maximum(count(jax.tree.map(jnp.logical_or, a, b)), 1)
