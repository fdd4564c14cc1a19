"""What competes for a place under a mask: single weights, slices or groups, along which axes."""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optim import _checks, _paths

__all__ = ["Axes", "Cut", "axes_in", "axes_of", "cut_of", "groups", "path_name"]

_STRUCTURES = "'weight', 'filter', 'channel' or 'N:M' (such as '2:4')"


def path_name(path: tuple[Any, ...]) -> str:
    """Returns a key path as ``a/b/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


class Axes(NamedTuple):
    """Which axes of a kernel are which; the others are positions of a window.

    Attributes:
      inputs: The axes that are contracted with the input.
      outputs: The axes of the output.
      stacked: How many leading axes stack layers that are scanned over.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    stacked: int = 0


_QUERY = {"query", "key", "value", "q", "k", "v", "qkv", "kv"}
_ATTENTION = {"attention", "attn", "mha"}
_STACKS = {"layers", "blocks", "stack", "stacked", "scan", "scanned", "repeated", "experts"}


def _words(name: str) -> list[str]:
    return [w.lower() for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]


def axes_of(path: str, ndim: int, siblings: Iterable[str] = ()) -> Axes:
    """Returns the axes of a kernel in Flax's layout, by its path.

    A query, key or value is (in, heads, head_dim), fused ones (in, 3, heads, head_dim), the output
    of an attention (heads, head_dim, out); everything else is (window ..., in, out). Below a part
    called layers, blocks, experts, stack or scan that no number follows, a leading axis stacks the
    layers.

    Args:
      path: Path of the leaf, such as ``attention/query/kernel``.
      ndim: Its number of axes.
      siblings: Names of the modules beside its own: an ``out`` beside a query is an attention's.

    Returns:
      The :class:`Axes`.

    Example:
      >>> axes_of("attention/query/kernel", 3)
      Axes(inputs=(0,), outputs=(1, 2), stacked=0)
      >>> axes_of("layers/dense/kernel", 3)
      Axes(inputs=(1,), outputs=(2,), stacked=1)
    """
    parts = [_words(part) for part in path.split("/")]
    stacked = 0
    for part, after in itertools.zip_longest(parts, parts[1:]):
        number = any(word.isdigit() for word in [*part[-1:], *(after or [])[:1]])
        if ndim >= 3 and _STACKS.intersection(part) and not number:
            stacked = 1
    own = {word for part in parts[-2:] for word in part}
    known = {word for part in parts for word in part} | {w for s in siblings for w in _words(s)}
    attention = bool(known & (_ATTENTION | _QUERY)) or any(w.endswith("attention") for w in known)
    first, rest = stacked, ndim - stacked
    if (rest == 3 and own & _QUERY) or (rest == 4 and own & {"qkv", "kv"}):
        return Axes((first,), tuple(range(first + 1, ndim)), stacked)
    if rest == 3 and attention and own & {"out", "o", "output"}:
        return Axes((first, first + 1), (first + 2,), stacked)
    return Axes((ndim - 2,), (ndim - 1,), stacked)


@dataclasses.dataclass(frozen=True)
class Cut:
    """How masks are cut from scores: what competes, in which units, along which axes.

    Functions that take a ``cut`` take its fields as keyword arguments too.

    Attributes:
      scope: ``"global"``, one cut through all leaves together, or ``"layer"``, one in each layer
        (each leaf, and each of the layers that a leaf stacks).
        Default: global for single weights, layer for the structures, as in BiP.
      structure: ``"weight"``; ``"filter"`` or ``"channel"``, whole slices along the output or
        input axes by their norm; or ``"N:M"``, the N largest of each M consecutive entries along
        the input axes, which are what a product contracts.
      min_keep: Least number of entries (filters, channels) that every layer keeps, >= 0. With the
        scope global the others make up for it, as far as they can.
      absolute: Whether scores are compared by magnitude; criteria with a sign (GraSP) set False.
      output_axis: The axis of filters: 0 in PyTorch and Equinox. Default: by :func:`axes_of`,
        -1 for dense layers and convolutions in Flax.
      input_axis: The axis of channels and of N:M groups: 1 in PyTorch and Equinox. Default: by
        :func:`axes_of`, -2 for dense layers and convolutions in Flax.
      p: Norm of the slices, 1 or 2.
      axes: A function from the path and the leaf to its :class:`Axes`, for other layouts.

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
    output_axis: int | None = None
    input_axis: int | None = None
    p: int = 2
    axes: Callable[[str, Any], Axes] | None = None

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
        """N and M where the structure is one of N of M weights, ``None`` elsewhere."""
        n, colon, m = self.structure.partition(":")
        return (int(n), int(m)) if colon else None

    @property
    def by_layer(self) -> bool:
        """Whether each leaf has a cut of its own."""
        return (self.scope or ("global" if self.structure == "weight" else "layer")) == "layer"

    def of(self, path: str, leaf: Any, siblings: Iterable[str] = ()) -> Axes:
        """Returns the axes of a leaf, none of them negative; see :func:`axes_of`."""
        ndim = jnp.ndim(leaf)
        if self.axes is not None:
            axes = self.axes(path, leaf)
        elif self.output_axis is None and self.input_axis is None:
            axes = axes_of(path, ndim, siblings)
        else:
            out = -1 if self.output_axis is None else self.output_axis
            into = -2 if self.input_axis is None else self.input_axis
            axes = Axes((into,), (out,))
        inputs, outputs = (tuple(i % max(ndim, 1) for i in part) for part in axes[:2])
        return Axes(inputs, outputs, axes.stacked)

    def units(self, axes: Axes) -> tuple[int, ...]:
        """The axes along which slices are counted or groups of M run."""
        return axes.outputs if self.structure == "filter" else axes.inputs


def cut_of(cut: Cut | None, **fields: Any) -> Cut:
    """Returns ``cut`` (default: ``Cut()``) with some fields replaced."""
    if not isinstance(cut, Cut | None):
        raise ValueError(f"cut must be a bilevel.masks.Cut, got {cut!r}")
    return dataclasses.replace(cut or Cut(), **fields)


def groups(scores: jax.Array, axis: int | tuple[int, ...], p: int = 2) -> jax.Array:
    """Returns the norms of the slices of ``scores`` along ``axis``: one number per filter.

    Args:
      scores: An array of two axes or more. Sums of 16-bit floats are made in float32.
      axis: The axis, or axes, that the slices are counted along.
      p: 1 or 2.

    Returns:
      An array of shape ``(scores.shape[axis],)``, or with the several axes in their order.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.masks.groups(jnp.array([[3.0, 0.0], [-4.0, 1.0]]), axis=-1)
      Array([5., 1.], dtype=float32)
    """
    kept = {i % scores.ndim for i in ((axis,) if isinstance(axis, int) else axis)}
    others = tuple(i for i in range(scores.ndim) if i not in kept)
    x = jnp.abs(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)))
    return x.sum(others) if p == 1 else jnp.sqrt(jnp.square(x).sum(others))


def _above(name: str) -> tuple[str, str]:
    """The path of the module above that of a leaf, and the name of the leaf's."""
    *above, module, _ = ["", *name.split("/")]
    return "/".join(above), module


def axes_in(scores: Any, cut: Cut) -> Any:
    """Returns the axes of each leaf, in a list; raises where the structure does not fit one."""
    flat = jax.tree_util.tree_flatten_with_path(scores)[0]
    flat = [(path_name(_paths.of_variable(path)), x) for path, x in flat]
    beside: dict[str, set[str]] = {}
    for name, _ in flat:
        parent, module = _above(name)
        beside.setdefault(parent, set()).add(module)
    found = []
    for name, x in flat:
        shape = jnp.shape(x)
        axes = cut.of(name, x, beside[_above(name)[0]])
        found.append(axes)
        if cut.structure != "weight" and len(shape) < 2:
            raise ValueError(
                f"structure {cut.structure!r} needs two or more axes: {name} is {shape}"
            )
        length = math.prod(shape[i] for i in axes.inputs) if len(shape) > 1 else 1
        if cut.n_of_m and length % cut.n_of_m[1]:
            raise ValueError(
                f"structure {cut.structure!r} needs an axis of a multiple of {cut.n_of_m[1]}: "
                f"{name} is {shape}, with inputs along {axes.inputs}"
            )
    return found
