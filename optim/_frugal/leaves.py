"""The leaves of a model as FRUGAL sees them: which are split, and how each one is a matrix."""

import dataclasses
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax

from optim import _paths


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
    numbers = "weight_dimension_numbers"
    rule = "None, an object with reduction_axis and output_axis"
    _paths.check_choice(numbers, dimension_numbers, _is_spec_or_none, rule)
    given = _paths.choose(numbers, dimension_numbers, hidden, _is_spec_or_none)
    leaves = []
    for (path, x), s, d in zip(_paths.with_paths(hidden), layered, given, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if as_matrix and d is not None:
            axes = _explicit(name, x.ndim, d, s)
        elif as_matrix and x.ndim - s > 2:
            axes = _usual(path, x.shape, s)
        else:
            axes = (0,) * s, (), ()
        leaves.append(Leaf(name, zlib.crc32(jax.tree_util.keystr(path).encode()), *axes))
    return jax.tree.unflatten(jax.tree.structure(hidden), leaves)


def _usual(
    path: tuple[Any, ...], shape: tuple[int, ...], stacked: bool
) -> tuple[tuple[int, ...], ...]:
    first = int(stacked)
    columns = tuple(first + a for a in _paths.output_axes(path, shape[first:]))
    rows = tuple(a for a in range(first, len(shape)) if a not in columns)
    return tuple(range(first)), rows, columns


def _is_spec_or_none(x: Any) -> bool:
    return x is None or (hasattr(x, "reduction_axis") and hasattr(x, "output_axis"))


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
