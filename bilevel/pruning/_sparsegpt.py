"""SparseGPT: pruning of one matrix, column by column.

A matrix is (outputs, inputs), as in the papers; a kernel of Flax is its transpose.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.pruning._layer_masks import pattern
from optim import _checks

__all__ = ["sparsegpt", "sparsegpt_scores"]


def sparsegpt(
    w: jax.Array,
    gram: jax.Array,
    density: float | None = None,
    structure: str | None = None,
    *,
    block: int = 128,
    damp: float = 0.01,
    strict: bool = True,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""SparseGPT: prunes column by column, and what is left makes up for it.

    .. math::
      U^\top U = (H + \lambda \bar h I)^{-1}, \qquad
      e = \frac{w_j - q_j}{U_{jj}}, \qquad w_{k} \leftarrow w_{k} - e\, U_{jk} \quad (k > j)

    with :math:`q_j` the column under its mask, and :math:`\bar h` the mean of the diagonal. In each
    block of columns the smallest :math:`w^2 / U_{jj}^2` are dropped. An input that is always
    zero loses its column.

    Args:
      w: Of shape (outputs, inputs).
      gram: :math:`H`, the Gram matrix of the inputs.
      density: Share that is kept, in (0, 1].
      structure: ``"N:M"`` instead: N are kept of each M consecutive inputs.
      block: Columns in a block, >= 1.
      damp: :math:`\lambda >= 0`.
      strict: Whether the count is exact. False, as in the authors' code: all up to the n-th,
        counted from 0, which is one more in each block.

    Returns:
      The new weights, their mask, and the error :math:`\tfrac12 \sum e^2`.

    Raises:
      ValueError: On an argument outside its range, a Gram matrix of another size, or one that is
        not positive definite with this damping.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> w, gram = jnp.array([[2.0, 1.0]]), jnp.array([[1.0, 0.5], [0.5, 1.0]])
      >>> new, mask, error = bilevel.calibrated.sparsegpt(w, gram, 0.5, damp=0.0)
      >>> mask, new.round(3)
      (Array([[ True, False]], dtype=bool), Array([[2., 0.]], dtype=float32))

    References:
      Frantar and Alistarh, SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot,
      ICML 2023.
    """
    _checks.count("block", block)
    _checks.number("damp", damp, 0)
    n = w.shape[-1]
    if gram.shape != (n, n):
        raise ValueError(f"gram of shape {gram.shape} for weights of shape {w.shape}")
    m, drop = pattern(n, density, structure)
    if structure is None:
        width = min(block, n)
        ends = [min(b, n) for b in range(width, n + width, width)]
        share = 1 - float(density or 1)
        if strict:  # Exact in all: what rounding leaves goes to the next block.
            counts = [int(share * len(w) * b) for b in ends]
            drops = np.diff([0, *counts])
        else:
            sizes = np.diff([0, *ends]) * len(w)
            drops = np.minimum((share * sizes).astype(int) + 1, sizes)
    else:
        width, drops = m, np.full(n // m, drop)
    found = _sparsegpt(w, gram, jnp.asarray(drops, jnp.int32), damp, width, structure is not None)
    if not isinstance(found[2], jax.core.Tracer) and not bool(jnp.isfinite(found[2])):
        raise ValueError(f"gram is not positive definite with damp={damp}: raise damp")
    return found


def _factor(gram: jax.Array, damp: float) -> jax.Array:
    """The upper Cholesky factor of the inverse of a damped Gram matrix."""
    gram = gram + jnp.diag((jnp.diag(gram) == 0).astype(gram.dtype))
    gram = gram + damp * jnp.diag(gram).mean() * jnp.eye(len(gram), dtype=gram.dtype)
    inverse = jnp.linalg.inv(gram)
    return jnp.linalg.cholesky((inverse + inverse.T) / 2).T


def sparsegpt_scores(w: jax.Array, gram: jax.Array, *, damp: float = 0.01) -> jax.Array:
    r"""SparseGPT's scores before any weight is updated, :math:`w^2 / U_{jj}^2`.

    Of them DSnoT's authors make masks by row to start from.

    Args:
      w: Of shape (outputs, inputs).
      gram: See :func:`sparsegpt`.
      damp: See :func:`sparsegpt`.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.calibrated.sparsegpt_scores(jnp.array([[2.0, 1.0]]), jnp.eye(2), damp=0.0)
      Array([[4., 1.]], dtype=float32)
    """
    _checks.number("damp", damp, 0)
    return (w / jnp.diag(_factor(gram, damp))[None]) ** 2


@functools.partial(jax.jit, static_argnames=("width", "by_row"))
def _sparsegpt(w, gram, drops, damp, width, by_row):
    w = jnp.where((jnp.diag(gram) == 0)[None], 0, w)
    u = _factor(gram, damp)
    # Whole blocks: what is added has no weights, and moves none.
    n, more = w.shape[1], len(drops) * width - w.shape[1]
    w = jnp.pad(w, ((0, 0), (0, more)))
    u = jax.scipy.linalg.block_diag(u, jnp.eye(more, dtype=u.dtype)) if more else u
    diagonal = jnp.diag(u)

    def block(carry, given):
        start, drop = given
        columns = start + jnp.arange(width)
        scores = (carry[0][:, columns] / diagonal[None, columns]) ** 2
        scores = jnp.where(columns[None] < n, scores, jnp.inf)
        flat = scores if by_row else scores.reshape(1, -1)
        rank = jnp.argsort(jnp.argsort(flat, axis=-1, stable=True), axis=-1, stable=True)
        mask = (rank >= drop).reshape(scores.shape)

        def column(carry, given):
            w, error = carry
            j, keep = given
            e = jnp.where(keep, 0, w[:, j]) / diagonal[j]
            row = jnp.where(jnp.arange(len(u)) > j, u[j], 0)
            w = w.at[:, j].multiply(keep) - e[:, None] * row[None]
            return (w, error + 0.5 * (e**2).sum()), None

        carry, _ = jax.lax.scan(column, carry, (columns, mask.T))
        return carry, mask.T

    starts = width * jnp.arange(len(drops))
    carry = (w, jnp.zeros((), w.dtype))
    (w, error), masks = jax.lax.scan(block, carry, (starts, drops))
    w, mask = w[:, :n], masks.reshape(-1, len(w)).T[:, :n]
    return jnp.where(mask, w, 0), mask, error
