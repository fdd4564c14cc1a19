"""The leaves of a model as FRUGAL sees them: which are split, and how each one is a matrix."""

import dataclasses
import math
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax

from optim import _paths

# Flax keeps the heads of an attention apart: (features, heads, head_dim) in these kernels,
# (heads, head_dim, features) in that of the output.
_INPUT_FIRST = frozenset(("query", "key", "value", "q", "k", "v", "qkv"))


class Split(NamedTuple):
    """A tree like the parameters in two parts; each has ``optax.MaskedNode`` where the other is."""

    hidden: Any
    others: Any


def split(tree: Any, projectable: Any) -> Split:
    """Splits ``tree`` into the leaves that are ``projectable`` and the others."""
    where = _paths.is_hidden_matrix if projectable is None else projectable
    hidden = _paths.resolve("projectable", where, tree)
    leaves, treedef = jax.tree.flatten(tree)
    masked = optax.MaskedNode()
    return Split(
        treedef.unflatten([x if h else masked for x, h in zip(leaves, hidden, strict=True)]),
        treedef.unflatten([masked if h else x for x, h in zip(leaves, hidden, strict=True)]),
    )


def joined(hidden: Any, others: Any) -> Any:
    """The inverse of :func:`split`."""

    def is_masked(x):
        return isinstance(x, optax.MaskedNode)

    return jax.tree.map(lambda h, o: o if is_masked(h) else h, hidden, others, is_leaf=is_masked)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What is known of a projectable leaf before it has values.

    Attributes:
      path: Its path, joined by slashes.
      number: A number that depends on the path alone.
      batch: Axes over which it is a batch of tensors, as the layers of a network.
      rows: Axes that are the rows of a matrix; none if the tensor is taken as it is.
      columns: Axes that are its columns.
    """

    path: str
    number: int
    batch: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def view(self, x: jax.Array) -> jax.Array:
        """The leaf as a tensor, or as a batch of tensors along the first axis."""
        if not self.rows:
            return x
        sizes = [
            math.prod(x.shape[a] for a in axes) for axes in (self.batch, self.rows, self.columns)
        ]
        order = self.batch + self.rows + self.columns
        return x.transpose(order).reshape(sizes if self.batch else sizes[1:])

    def restore(self, y: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """The inverse of :meth:`view`, for a leaf of this shape."""
        if not self.rows:
            return y
        order = self.batch + self.rows + self.columns
        inverse = sorted(range(len(order)), key=lambda i: order[i])
        return y.reshape([shape[a] for a in order]).transpose(inverse)

    def per_tensor(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """A function of a tensor as one of this leaf's view."""
        return jax.vmap(f) if self.batch else f


def describe(hidden: Any, stacked: Any, dimension_numbers: Any, as_matrix: bool) -> Any:
    """A tree like ``hidden`` of a :class:`Leaf` for each leaf.

    Args:
      hidden: The projectable leaves.
      stacked: Which of them stack layers along their first axis.
      dimension_numbers: How each is a matrix.
      as_matrix: Whether the subspace needs matrices; otherwise tensors are taken as they are.
    """
    layered = _paths.resolve("stacked", stacked, hidden)
    numbers = _numbers(dimension_numbers, hidden)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(hidden)
    out = []
    for (path, x), s, d in zip(leaves, layered, numbers, strict=True):
        path = _paths.of_variable(path)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if as_matrix and d is not None:
            axes = _explicit(name, x.ndim, d, s)
        elif as_matrix and x.ndim - s > 2:
            axes = _usual(name, x.ndim, s)
        else:
            axes = (0,) * s, (), ()
        out.append(Leaf(name, zlib.crc32(jax.tree_util.keystr(path).encode()), *axes))
    return treedef.unflatten(out)


def _usual(name: str, ndim: int, stacked: bool) -> tuple[tuple[int, ...], ...]:
    first = int(stacked)
    words = {w for part in name.split("/")[-2:] for w in re.split(r"[^a-z]+", part.lower())}
    rows = first + 1 if ndim - first == 3 and words & _INPUT_FIRST else ndim - 1
    return tuple(range(first)), tuple(range(first, rows)), tuple(range(rows, ndim))


def _is_spec(x: Any) -> bool:
    return hasattr(x, "reduction_axis") and hasattr(x, "output_axis")


def _explicit(name: str, ndim: int, spec: Any, stacked: bool) -> tuple[tuple[int, ...], ...]:
    def axes(given: int | Sequence[int]) -> tuple[int, ...]:
        return tuple(
            a + ndim if a < 0 else a for a in ([given] if isinstance(given, int) else given)
        )

    rows, columns = axes(spec.reduction_axis), axes(spec.output_axis)
    named = [*rows, *columns]
    if (
        not rows
        or not columns
        or len(set(named)) < len(named)
        or not set(named) <= set(range(ndim))
    ):
        raise ValueError(
            f"weight_dimension_numbers must name axes of {name}, which has {ndim}, each at most "
            f"once, got reduction_axis={spec.reduction_axis} and output_axis={spec.output_axis}"
        )
    if stacked and 0 in named:
        raise ValueError(f"the first axis of {name} is stacked, so it is no row and no column")
    return tuple(a for a in range(ndim) if a not in named), rows, columns


@dataclasses.dataclass(frozen=True)
class _Box:
    spec: Any


def _numbers(given: Any, hidden: Any) -> list[Any]:
    """One specification, or ``None``, for each leaf of ``hidden``."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(hidden)

    def is_end(x):
        return x is None or _is_spec(x)

    if is_end(given):
        return [given] * len(leaves)
    if callable(given) and not any(map(_is_spec, jax.tree.leaves(given, is_leaf=is_end))):
        return [given(_paths.of_variable(path), x) for path, x in leaves]
    try:
        boxes = jax.tree.map(
            lambda d, sub: jax.tree.map(lambda _: _Box(d), sub),
            given,
            hidden,
            is_leaf=is_end,
        )
        out = [box.spec for box in treedef.flatten_up_to(boxes)]
    except ValueError as e:
        raise ValueError(f"weight_dimension_numbers must be a tree like the parameters: {e}") from e
    return out
