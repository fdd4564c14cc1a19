"""The inputs of the steps: numbers, all of one shape, that divide over the mesh."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def feed_of(batches, start, mesh) -> Iterator[Any]:
    """Inputs of one run, checked to fit the mesh and to have one shape."""
    if batches is None:
        yield from itertools.repeat(None)
    made = batches(start)
    try:
        inputs = iter(made)
    except TypeError as error:
        raise ValueError(f"batches(t) must return an iterator: {error}") from error
    first = None
    for t, x in enumerate(inputs, start + 1):
        leaves, tree = jax.tree.flatten(x)
        wrong = [leaf for leaf in leaves if not is_numbers(leaf)]
        if wrong:
            raise ValueError(f"the batch of step {t} must hold arrays of numbers, got {wrong[0]!r}")
        kind = tree, [kind_of(leaf) for leaf in leaves]
        if first is None:
            check_divides(x, mesh)
            first = kind
        elif kind != first:
            raise ValueError(
                f"the batch of step {t} is {tree_shown(kind)}, those before {tree_shown(first)}: "
                "leave out or fill up a last batch that is shorter"
            )
        yield x


def check_divides(inputs, mesh) -> None:
    if mesh is None:
        return
    for path, x in jax.tree_util.tree_leaves_with_path(inputs):
        size = np.shape(x)[0] * jax.process_count() if np.ndim(x) else 0
        if size % mesh.shape["data"]:
            name, devices = jax.tree_util.keystr(path), mesh.shape["data"]
            raise ValueError(
                f"a batch of {size} examples does not divide over {devices} devices"
                f" (inputs{name}): make the batch size a multiple of {devices}"
            )


def is_numbers(x) -> bool:
    """Whether ``x`` is a number or an array that a device can hold."""
    if isinstance(x, np.ndarray | np.generic):
        return x.dtype.kind in "biufc" or jnp.issubdtype(x.dtype, jnp.number)
    return isinstance(x, bool | int | float | complex) or hasattr(x, "__array__")


def kind_of(x) -> tuple[Any, Any]:
    """Shape and dtype of an array or a number; of anything else its type."""
    if isinstance(x, jax.Array | np.ndarray | np.generic | int | float | complex):
        return np.shape(x), jnp.result_type(x)
    return type(x).__name__, ""


def shown(x) -> str:
    shape, dtype = kind_of(x)
    return f"{dtype}{shape}"


def tree_shown(kind) -> str:
    tree, leaves = kind
    return str(jax.tree.unflatten(tree, [f"{dtype}{shape}" for shape, dtype in leaves]))


def stack(trees, xp=np):
    return jax.tree.map(lambda *xs: xp.stack(xs), *trees)
