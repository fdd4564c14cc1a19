"""Masks: boolean pytrees beside the parameters, ``None`` where a leaf is not pruned."""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel.pruning._select import drop_smallest, drop_smallest_on_host, on_host
from optim import _checks, _paths, _xla_cpu

__all__ = [
    "Cut",
    "apply",
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
    """The usual choice: floating-point matrices; no vectors, norms, embeddings or other tables.

    A leaf with at most one axis longer than 1 is a vector; names decide as for
    :func:`optim.is_hidden_matrix`, but output heads are weights here.

    Args:
      path: The leaf's path, joined by slashes.
      leaf: The parameter.

    Returns:
      True for a weight.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.masks.default_rule("upscale/kernel", jnp.ones((4, 4)))
      True
      >>> bilevel.masks.default_rule("bn/scale", jnp.ones((4, 4)))
      False
    """
    return _paths.is_prunable(path, leaf)


def prunable(params: Any, rule: Rule | None = None, structure: str = "weight") -> Any:
    """Returns ``params`` with ``None`` in place of every leaf that is not pruned.

    Args:
      params: Any pytree of arrays: plain, Linen, an NNX state, with ``None`` leaves or without.
      rule: ``(path, leaf) -> bool``, with paths like ``Dense_0/kernel``; default:
        :func:`default_rule`, and for ``structure`` filter and channel convolutions only, so that
        the classifier stays dense, as in the BiP paper. The first convolution counts.
      structure: See :class:`Cut`.

    Returns:
      A pytree like ``params``.

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


@dataclasses.dataclass(frozen=True)
class Cut:
    """How masks are cut from scores: what competes, in which units, along which axes.

    Functions that take a ``cut`` take its fields as keyword arguments too.

    Attributes:
      scope: ``"global"``, one cut through all leaves together, or ``"layer"``, one in each leaf.
        Default: global for single weights, layer for the structures, as in BiP.
      structure: ``"weight"``; ``"filter"`` or ``"channel"``, whole slices along the output or
        input axis by their norm; or ``"N:M"``, the N largest of each M consecutive entries along
        the input axis.
      min_keep: Least number of entries (filters, channels) that every leaf keeps, >= 0. With the
        scope global the others make up for it, as far as they can.
      absolute: Whether scores are compared by magnitude; criteria with a sign (GraSP) set False.
      output_axis: The axis of filters: -1 in Flax, 0 in PyTorch.
      input_axis: The axis of channels and of N:M groups: -2 in Flax, 1 in PyTorch.
      p: Norm of the slices, 1 or 2.

    Raises:
      ValueError: On a value outside its range.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> by_row = bilevel.masks.Cut(structure="1:2", input_axis=-1)
      >>> bilevel.masks.from_scores(jnp.array([[1.0, -4.0, 3.0, 2.0]]), 0.5, by_row)
      Array([[False,  True,  True, False]], dtype=bool)
    """

    scope: str | None = None
    structure: str = "weight"
    min_keep: int = 0
    absolute: bool = True
    output_axis: int = -1
    input_axis: int = -2
    p: int = 2

    def __post_init__(self):
        if self.scope is not None:
            _checks.choice("scope", self.scope, ["global", "layer"], "None")
        _checks.count("min_keep", self.min_keep, 0)
        if self.p not in (1, 2):
            raise ValueError(f"p must be 1 or 2, got {self.p}")
        if self.structure not in ("weight", "filter", "channel"):
            if not re.fullmatch(r"\d+:\d+", self.structure):
                raise ValueError(f"structure must be {_STRUCTURES}, got {self.structure!r}")
            n, m = map(int, self.structure.split(":"))
            if not 0 < n <= m:
                raise ValueError(f"structure N:M needs 0 < N <= M, got {self.structure!r}")

    @property
    def n_of_m(self) -> tuple[int, int] | None:
        """N and M of the structure N:M, None of the others."""
        n, colon, m = self.structure.partition(":")
        return (int(n), int(m)) if colon else None

    @property
    def by_layer(self) -> bool:
        """Whether each leaf has a cut of its own."""
        return (self.scope or ("global" if self.structure == "weight" else "layer")) == "layer"

    @property
    def axis(self) -> int:
        """The axis along which slices are counted or groups of M run."""
        return self.output_axis if self.structure == "filter" else self.input_axis


def cut_of(cut: Cut | None, **fields: Any) -> Cut:
    """Returns ``cut`` (default: ``Cut()``) with some fields replaced."""
    return dataclasses.replace(cut or Cut(), **fields)


def _drop(n: int, density: Any) -> int:
    # The authors' count, in Python floats: int((1 - 0.9) * 10) is 0.
    _checks.number("density", density, 0, 1, open_low=True)
    return int((1 - float(density)) * n)


def groups(scores: jax.Array, axis: int, p: int = 2) -> jax.Array:
    """Returns the norms of the slices of ``scores`` along ``axis``: one number per filter.

    Args:
      scores: An array of two axes or more.
      axis: The axis that the slices are counted along.
      p: 1 or 2.

    Returns:
      An array of shape ``(scores.shape[axis],)``.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.masks.groups(jnp.array([[3.0, 0.0], [-4.0, 1.0]]), axis=-1)
      Array([5., 1.], dtype=float32)
    """
    others = tuple(i for i in range(scores.ndim) if i != axis % scores.ndim)
    x = jnp.abs(scores)
    return x.sum(others) if p == 1 else jnp.sqrt(jnp.square(x).sum(others))


def _check_fit(scores: Any, cut: Cut) -> None:
    for path, x in jax.tree_util.tree_flatten_with_path(scores)[0]:
        name, shape = path_name(path), jnp.shape(x)
        if cut.structure != "weight" and len(shape) < 2:
            raise ValueError(
                f"structure {cut.structure!r} needs two or more axes: {name} is {shape}"
            )
        if cut.n_of_m and shape[cut.axis] % cut.n_of_m[1]:
            raise ValueError(
                f"structure {cut.structure!r} needs an axis of a multiple of {cut.n_of_m[1]}: "
                f"{name} is {shape}, axis {cut.axis}"
            )


def drop_counts(scores: Any, density: Any, cut: Cut | None = None, **fields: Any) -> Any:
    """How many entries (filters, channels) a density drops: ``int((1 - density) * n)``.

    Args:
      scores: See :func:`from_scores`; shapes are enough.
      density: See :func:`from_scores`.
      cut: See :class:`Cut`.
      **fields: Fields of the cut that differ from ``cut``.

    Returns:
      One integer for the scope global, else a tree of one integer per leaf.

    Raises:
      ValueError: On a density outside (0, 1] or a structure that does not fit a leaf (named).

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.masks.drop_counts({"a": jnp.ones((4, 5))}, 0.25)
      15
    """
    cut = cut_of(cut, **fields)
    _check_fit(scores, cut)

    def entries(x):
        shape = jnp.shape(x)
        return int(np.prod(shape)) if cut.structure == "weight" else shape[cut.axis]

    sizes = jax.tree.map(entries, scores)
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
    return jax.tree.map(_drop, sizes, density)


def _masks_n_of_m(x, cut):
    n, m = cut.n_of_m
    y = jnp.moveaxis(jnp.abs(x) if cut.absolute else x, cut.axis, -1)
    blocks = y.reshape(-1, m)
    rank = jnp.argsort(jnp.argsort(blocks, axis=-1, stable=True), axis=-1, stable=True)
    return jnp.moveaxis((rank >= m - n).reshape(y.shape), -1, cut.axis)


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
    if len(drops) != len(leaves):
        raise ValueError(f"{len(drops)} counts for {len(leaves)} leaves")
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
    _check_fit(scores, cut)
    if cut.n_of_m:
        return jax.tree.map(lambda x: _masks_n_of_m(x, cut), scores)
    whole = cut.structure == "weight"
    ranked = scores if whole else jax.tree.map(lambda x: groups(x, cut.axis, cut.p), scores)
    leaves, treedef = jax.tree.flatten(ranked)
    if cut.by_layer:
        masks = _by_layer(leaves, jax.tree.leaves(counts), cut)
    elif cut.min_keep:
        masks = _floored(leaves, counts, cut)
    else:
        masks = drop_smallest(leaves, counts, cut.absolute)
    masks = jax.tree.unflatten(treedef, masks)

    def spread(mask, x):
        shape = [1] * x.ndim
        shape[cut.axis] = x.shape[cut.axis]
        return jnp.broadcast_to(mask.reshape(shape), x.shape)

    return masks if whole else jax.tree.map(spread, masks, scores)


def from_scores(scores: Any, density: Any, cut: Cut | None = None, **fields: Any) -> Any:
    r"""Returns the masks that drop the smallest scores, exactly as many as the density says.

    .. math::
      m_i = 0 \text{ for the } j = \lfloor (1 - k)\, n \rfloor \text{ smallest } |s_i|

    with the floor of Python floats (as the authors count: ``int((1 - 0.9) * 10)`` is 0). Equal
    scores are dropped in the order of their index, as a stable sort would.

    Args:
      scores: Pytree of arrays, ``None`` where nothing is pruned (see :func:`prunable`).
      density: Share to keep, in (0, 1]; with ``scope="layer"`` also a tree of one per leaf (the
        allocators make such trees). A concrete number: traced code uses :func:`from_counts`.
      cut: How the masks are cut: scope, structure, floor under each leaf, axes.
      **fields: Fields of the cut that differ from ``cut``, such as ``scope="layer"``.

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
    if not jax.tree.leaves(scores):
        raise ValueError("scores has no leaf: nothing is prunable")
    cut = cut_of(cut, **fields)
    counts = drop_counts(scores, density, cut)
    leaves, treedef = jax.tree.flatten(scores)
    if cut.structure == "weight" and not cut.by_layer and not cut.min_keep and on_host(leaves):
        return jax.tree.unflatten(treedef, drop_smallest_on_host(leaves, counts, cut.absolute))
    return _from_counts(scores, counts, cut)


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

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.masks.apply({"w": jnp.array([True, False])}, {"w": jnp.array([1.0, jnp.inf])})
      {'w': Array([1., 0.], dtype=float32)}
    """

    def one(mask, x):
        return x if mask is None else jnp.where(mask, x, jnp.zeros((), x.dtype))

    return map_leaves(one, masks, params)


def count(masks: Any) -> jax.Array:
    """Returns the number of entries kept, an int32.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> int(bilevel.masks.count({"w": jnp.array([True, False, True]), "bias": None}))
      2
    """
    return sum((_xla_cpu.count_true(jnp.asarray(m)) for m in jax.tree.leaves(masks)), jnp.int32(0))


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
