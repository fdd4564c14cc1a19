"""Masks: boolean pytrees beside the parameters, ``None`` where a leaf is not pruned."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel.pruning._select import count_true, drop_smallest, drop_smallest_on_host, on_host
from optim import _checks

__all__ = [
    "apply",
    "check_structure",
    "count",
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
_NOT_PRUNED = re.compile(r"bias|scale|norm|\bbn|batch_?stats|embed", re.IGNORECASE)
_STRUCTURES = "'weight', 'filter', 'channel' or 'N:M' (such as '2:4')"


def _is_none(x: Any) -> bool:
    return x is None


def path_name(path: tuple[Any, ...]) -> str:
    """Returns a key path as ``a/b/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def map_leaves(fun: Callable[..., Any], masks: Any, *trees: Any) -> Any:
    """Maps over the leaves of ``masks``, ``None`` among them, and what lies there in ``trees``."""
    return jax.tree.map(fun, masks, *trees, is_leaf=_is_none)


def default_rule(path: str, leaf: jax.Array) -> bool:
    """The usual choice: floating kernels (two or more axes); no biases, norms, embeddings."""
    return (
        np.ndim(leaf) >= 2
        and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        and _NOT_PRUNED.search(path) is None
    )


def prunable(params: Any, rule: Rule | None = None, structure: str = "weight") -> Any:
    """Returns ``params`` with ``None`` in place of every leaf that is not pruned.

    Args:
      params: Any pytree of arrays: plain, Linen, an NNX state, with ``None`` leaves or without.
      rule: ``(path, leaf) -> bool``, with paths like ``Dense_0/kernel``; default:
        :func:`default_rule`, and for ``structure`` filter and channel convolutions only, so that
        the classifier stays dense, as in the BiP paper. The first convolution counts.
      structure: See :func:`from_scores`.

    Raises:
      ValueError: When no leaf is chosen; it lists the leaves there are.

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

    chosen = jax.tree_util.tree_map_with_path(
        lambda path, x: x if rule(path_name(path), x) else None, params
    )
    if not jax.tree.leaves(chosen):
        names = [path_name(p) for p, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
        raise ValueError(f"no leaf is prunable by this rule; the leaves are: {', '.join(names)}")
    return chosen


def _n_of_m(structure: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d+):(\d+)", structure)
    if match is None:
        if structure not in ("weight", "filter", "channel"):
            raise ValueError(f"structure must be {_STRUCTURES}, got {structure!r}")
        return None
    n, m = int(match[1]), int(match[2])
    if not 0 < n <= m:
        raise ValueError(f"structure N:M needs 0 < N <= M, got {structure!r}")
    return n, m


def _drop(n: int, density: Any) -> int:
    # The authors' count, in Python floats: int((1 - 0.9) * 10) is 0.
    _checks.number("density", density, 0, 1, open_low=True)
    return int((1 - float(density)) * n)


def groups(scores: jax.Array, axis: int, p: int = 2) -> jax.Array:
    """The ``p``-norms of the slices of ``scores`` along ``axis``: one number a filter."""
    others = tuple(i for i in range(scores.ndim) if i != axis % scores.ndim)
    x = jnp.abs(scores)
    return x.sum(others) if p == 1 else jnp.sqrt(jnp.square(x).sum(others))


def _check_fit(scores: Any, structure: str, axis: int) -> None:
    nm = _n_of_m(structure)
    for path, x in jax.tree_util.tree_flatten_with_path(scores)[0]:
        name = path_name(path)
        shape = jnp.shape(x)
        if structure != "weight" and len(shape) < 2:
            raise ValueError(f"structure {structure!r} needs two or more axes: {name} is {shape}")
        if nm and shape[axis] % nm[1]:
            raise ValueError(
                f"structure {structure!r} needs an axis of a multiple of {nm[1]}: "
                f"{name} is {shape}, axis {axis}"
            )


def check_structure(structure: str, scope: str | None = None, min_keep: int = 0) -> None:
    """Raises ``ValueError`` unless the three are in their ranges."""
    _n_of_m(structure)
    if scope is not None:
        _checks.choice("scope", scope, ["global", "layer"], "None")
    _checks.count("min_keep", min_keep, 0)


def _defaults(scores: Any, scope: str | None, structure: str, output_axis: int, input_axis: int):
    check_structure(structure, scope)
    axis = output_axis if structure == "filter" else input_axis
    _check_fit(scores, structure, axis)
    return scope or ("global" if structure == "weight" else "layer"), axis


def drop_counts(
    scores: Any,
    density: Any,
    scope: str | None = None,
    structure: str = "weight",
    *,
    output_axis: int = -1,
    input_axis: int = -2,
) -> Any:
    """How many entries (filters, channels) a density drops: ``int((1 - density) * n)``.

    Args:
      scores, density, scope, structure, output_axis, input_axis: See :func:`from_scores`.

    Returns:
      One integer for the scope global, else a tree of one integer a leaf.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.masks.drop_counts({"a": jnp.ones((4, 5))}, 0.25)
      15
    """
    scope, axis = _defaults(scores, scope, structure, output_axis, input_axis)
    nm = _n_of_m(structure)
    sizes = jax.tree.map(
        lambda x: int(np.prod(jnp.shape(x))) if structure == "weight" else jnp.shape(x)[axis],
        scores,
    )
    if nm:
        if density is not None and abs(float(density) - nm[0] / nm[1]) > 1e-9:
            raise ValueError(f"structure {structure!r} has density {nm[0] / nm[1]}, got {density}")
        return jax.tree.map(lambda _: nm[1] - nm[0], sizes)
    one_density = jax.tree_util.treedef_is_leaf(jax.tree.structure(density))
    if scope == "global":
        if not one_density:
            raise ValueError("a density for each leaf needs scope='layer'")
        return _drop(sum(jax.tree.leaves(sizes)), density)
    if one_density:
        return jax.tree.map(lambda n: _drop(n, density), sizes)
    return jax.tree.map(_drop, sizes, density)


def _masks_n_of_m(x, n, m, axis, absolute):
    y = jnp.moveaxis(jnp.abs(x) if absolute else x, axis, -1)
    blocks = y.reshape(-1, m)
    rank = jnp.argsort(jnp.argsort(blocks, axis=-1, stable=True), axis=-1, stable=True)
    return jnp.moveaxis((rank >= m - n).reshape(y.shape), -1, axis)


def _floored(leaves: list[jax.Array], drop: Any, min_keep: int, absolute: bool) -> list[jax.Array]:
    """One cut through all leaves, except that each keeps ``min_keep`` (or all it has)."""
    cap = jnp.array([max(x.size - min_keep, 0) for x in leaves], jnp.int32)

    def cut(capped):
        # Leaves at their floor leave the competition; the others share what is left to drop.
        rest = jnp.clip(drop - jnp.where(capped, cap, 0).sum(), 0)
        rivals = [
            jnp.where(capped[i], jnp.inf, jnp.abs(x) if absolute else x)
            for i, x in enumerate(leaves)
        ]
        kept = drop_smallest(rivals, rest, absolute=False)
        dropped = jnp.stack([m.size - m.sum(dtype=jnp.int32) for m in kept])
        return jnp.where(capped, cap, dropped)

    def lift(carry):
        capped, dropped = carry
        capped = capped | (dropped > cap)
        return capped, cut(capped)

    none = jnp.zeros(len(leaves), bool)
    dropped = lax.while_loop(lambda c: (c[1] > cap).any(), lift, (none, cut(none)))[1]
    return [drop_smallest([x], dropped[i], absolute)[0] for i, x in enumerate(leaves)]


@functools.partial(
    jax.jit,
    static_argnames=(
        "scope",
        "structure",
        "min_keep",
        "absolute",
        "output_axis",
        "input_axis",
        "p",
    ),
)
def from_counts(
    scores: Any,
    counts: Any,
    scope: str | None = None,
    structure: str = "weight",
    min_keep: int = 0,
    *,
    absolute: bool = True,
    output_axis: int = -1,
    input_axis: int = -2,
    p: int = 2,
) -> Any:
    """:func:`from_scores` for the counts of :func:`drop_counts`, which may be traced.

    Iterative methods and populations over densities pass counts, so that one compiled program
    serves every density.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.masks.from_counts(jnp.array([[3.0, -1.0, 2.0, 0.5]]), 2)
      Array([[ True, False,  True, False]], dtype=bool)
    """
    scope, axis = _defaults(scores, scope, structure, output_axis, input_axis)
    nm = _n_of_m(structure)
    if nm:
        return jax.tree.map(lambda x: _masks_n_of_m(x, *nm, axis, absolute), scores)
    ranked = scores
    if structure != "weight":
        ranked = jax.tree.map(lambda x: groups(x, axis, p), scores)
    leaves, treedef = jax.tree.flatten(ranked)
    if scope == "layer":
        drops = jax.tree.leaves(counts)
        if len(drops) != len(leaves):
            raise ValueError(f"{len(drops)} counts for {len(leaves)} leaves")
        if min_keep:
            drops = [
                jnp.minimum(j, max(x.size - min_keep, 0))
                for j, x in zip(drops, leaves, strict=True)
            ]
        masks = [drop_smallest([x], j, absolute)[0] for x, j in zip(leaves, drops, strict=True)]
    else:
        if min_keep:
            masks = _floored(leaves, counts, min_keep, absolute)
        else:
            masks = drop_smallest(leaves, counts, absolute)
    masks = jax.tree.unflatten(treedef, masks)
    if structure == "weight":
        return masks

    def spread(mask, x):
        shape = [1] * x.ndim
        shape[axis] = x.shape[axis]
        return jnp.broadcast_to(mask.reshape(shape), x.shape)

    return jax.tree.map(spread, masks, scores)


def from_scores(
    scores: Any,
    density: Any,
    scope: str | None = None,
    structure: str = "weight",
    min_keep: int = 0,
    *,
    absolute: bool = True,
    output_axis: int = -1,
    input_axis: int = -2,
    p: int = 2,
) -> Any:
    r"""Returns the masks that drop the smallest scores, exactly as many as the density says.

    .. math::
      m_i = 0 \text{ for the } j = \lfloor (1 - k)\, n \rfloor \text{ smallest } |s_i|

    with the floor of Python floats (as the authors count: ``int((1 - 0.9) * 10)`` is 0). Equal
    scores are dropped in the order of their index, as a stable sort would.

    Args:
      scores: Pytree of arrays, ``None`` where nothing is pruned (see :func:`prunable`).
      density: Share to keep, in (0, 1]; with ``scope="layer"`` also a tree of one per leaf (the
        allocators make such trees). A concrete number: traced code uses :func:`from_counts`.
      scope: ``"global"``, one cut through all leaves together, or ``"layer"``, the density in
        each leaf. Default: global for single weights, layer for the structures, as in BiP.
      structure: ``"weight"``; ``"filter"`` or ``"channel"``, whole slices along the output or
        input axis by their norm; or ``"N:M"``, the N largest of each M consecutive entries along
        the input axis.
      min_keep: Least number of entries (filters, channels) that every leaf keeps. With the scope
        global the others make up for it, as far as they can.
      absolute: Whether scores are compared by magnitude; criteria with a sign (GraSP) set False.
      output_axis: The axis of filters: -1 in Flax, 0 in PyTorch.
      input_axis: The axis of channels and of N:M groups: -2 in Flax, 1 in PyTorch.
      p: Norm of the slices, 1 or 2.

    Returns:
      Boolean masks with the structure of ``scores``.

    Raises:
      ValueError: On a density outside (0, 1] or a structure that does not fit a leaf (named).

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.masks.from_scores({"w": jnp.array([[1.0, -4.0], [3.0, 2.0]])}, 0.5)
      {'w': Array([[False,  True],
             [ True, False]], dtype=bool)}

    References:
      Zhang et al., Advancing Model Pruning via Bi-level Optimization, NeurIPS 2022.
    """
    axes = {"output_axis": output_axis, "input_axis": input_axis}
    if not jax.tree.leaves(scores):
        raise ValueError("scores has no leaf: nothing is prunable")
    check_structure(structure, scope, min_keep)
    if p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, got {p}")
    counts = drop_counts(scores, density, scope, structure, **axes)
    leaves, treedef = jax.tree.flatten(scores)
    if structure == "weight" and scope != "layer" and not min_keep and on_host(leaves):
        return jax.tree.unflatten(treedef, drop_smallest_on_host(leaves, counts, absolute))
    return from_counts(scores, counts, scope, structure, min_keep, absolute=absolute, p=p, **axes)


def ones(params: Any, rule: Rule | None = None, structure: str = "weight") -> Any:
    """Masks that keep everything, ``None`` where the rule prunes nothing."""
    chosen = prunable(params, rule, structure)
    return jax.tree.map(lambda x: jnp.ones(jnp.shape(x), bool), chosen)


def apply(masks: Any, params: Any) -> Any:
    """Returns ``params`` with exact zeros where the mask is False.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.masks.apply({"w": jnp.array([True, False])}, {"w": jnp.array([1.0, jnp.inf])})
      {'w': Array([1., 0.], dtype=float32)}
    """

    def one(mask, x):
        return x if mask is None else jnp.where(mask, x, jnp.zeros((), x.dtype))

    return map_leaves(one, masks, params)


def count(masks: Any) -> jax.Array:
    """The number of entries kept."""
    return sum((count_true(jnp.asarray(m)) for m in jax.tree.leaves(masks)), jnp.int32(0))


def density(masks: Any) -> jax.Array:
    """The share of entries kept."""
    return count(masks) / sum(m.size for m in jax.tree.leaves(masks))


def iou(a: Any, b: Any) -> jax.Array:
    """Intersection over union of what two masks keep: 1 when equal, 0 when disjoint."""
    both = count(jax.tree.map(jnp.logical_and, a, b))
    return both / jnp.maximum(count(jax.tree.map(jnp.logical_or, a, b)), 1)
