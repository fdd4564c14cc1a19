"""Products with stored rows of a sparse kernel: only what is kept is multiplied, also backward.

A kernel (inputs, outputs) is cut into blocks, of one weight each for masks without structure. A row
of blocks makes some outputs; rows are padded to the longest. Activations are (blocks, block,
batch): the batch is contiguous, so that a block of one weight multiplies a whole row of examples.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Rows", "dense", "multiply", "rows_of"]


class Rows(NamedTuple):
    """Where the blocks of a kernel are.

    Attributes:
      index: (longest row, rows) block of inputs that each stored block reads.
      live: (longest row, rows) whether there is one.
      places: (longest column, columns) stored blocks that read each block of inputs, as flat places
        in ``index``.
      used: (longest column, columns) whether there is one.
      block: Side of a block.
    """

    index: jax.Array
    live: jax.Array
    places: jax.Array
    used: jax.Array
    block: int


def _padded(lists: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    table = np.zeros((max(map(len, lists)), len(lists)), np.int32)
    live = np.arange(len(table))[:, None] < np.array([len(found) for found in lists])
    for column, found in enumerate(lists):
        table[: len(found), column] = found
    return table, live


def rows_of(kernel: Any, mask: Any, block: int = 1) -> tuple[Rows, jax.Array]:
    """Returns the rows of a masked kernel (inputs, outputs), and its values.

    Values are (longest row, rows, block of outputs, block of inputs). A block is stored if any of
    its weights is kept; sides that the block does not divide are filled with zeros.
    """
    mask, w = np.asarray(mask), np.asarray(kernel) * np.asarray(mask)
    fill = [(0, -n % block) for n in w.shape]
    mask, w = np.pad(mask, fill), np.pad(w, fill)
    inputs, outputs = (n // block for n in w.shape)
    blocks = w.reshape(inputs, block, outputs, block).transpose(2, 0, 3, 1)
    kept = mask.reshape(inputs, block, outputs, block).any((1, 3)).T
    index, live = _padded([np.flatnonzero(row) for row in kept])
    values = np.where(live[..., None, None], blocks[np.arange(outputs), index], 0)
    flat = np.arange(index.size).reshape(index.shape)
    places, used = _padded([flat[live & (index == i)] for i in range(inputs)])
    found = Rows(*map(jnp.asarray, (index, live, places, used)), block)
    return found, jnp.asarray(values)


def dense(rows: Rows, values: Any, shape: tuple[int, int]) -> np.ndarray:
    """Returns the kernel of shape (inputs, outputs)."""
    block, (_, outputs) = rows.block, rows.index.shape
    whole = np.zeros((outputs, len(rows.places[0]), block, block), np.float32)
    for index, live, value in zip(*map(np.asarray, (rows.index, rows.live, values)), strict=True):
        whole[np.flatnonzero(live), index[live]] = value[live]
    w = whole.transpose(1, 3, 0, 2).reshape(len(rows.places[0]) * block, -1)
    return w[: shape[0], : shape[1]]


def _product(values: jax.Array, x: jax.Array, index: jax.Array) -> jax.Array:
    """Adds a stored block of each row at a time: (rows, outputs of a block, batch)."""

    def add(y, part):
        value, read = part
        if value.shape[-1] == 1:
            return y + value * x[read], None
        return y + jnp.einsum("opq,oqb->opb", value, x[read]), None

    start = jnp.zeros((index.shape[1], values.shape[2], x.shape[-1]), x.dtype)
    return jax.lax.scan(add, start, (values, index))[0]


@jax.custom_vjp
def multiply(values: jax.Array, x: jax.Array, rows: Rows) -> jax.Array:
    """Returns outputs (rows, block, batch) of activations (blocks, block, batch)."""
    return _product(values, x, rows.index)


def _forward(values, x, rows):
    return multiply(values, x, rows), (values, x, rows)


def _backward(saved, dy):
    values, x, rows = saved

    def of_values(index):
        if values.shape[-1] == 1:
            return jnp.einsum("ob,ob->o", dy[:, 0], x[index, 0])[:, None, None]
        return jnp.einsum("opb,oqb->opq", dy, x[index])

    dv = jax.lax.map(of_values, rows.index) * rows.live[..., None, None]
    turned = values.reshape(-1, *values.shape[2:])[rows.places].swapaxes(-1, -2)
    turned *= rows.used[..., None, None]
    dx = _product(turned, dy, rows.places % rows.index.shape[1])
    return dv, dx, None


multiply.defvjp(_forward, _backward)
