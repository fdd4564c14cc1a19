"""What pruning is for: zeros that take no space, and models that are smaller.

Single weights leave as CSR (or BCSR, in blocks); filters and channels are cut out of the arrays, so
that an ordinary dense program runs them faster.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.pruning import masks as masks_lib

__all__ = ["CSR", "Chain", "shrink", "tie", "to_bcsr", "to_csr", "to_dense"]


class CSR(NamedTuple):
    """A sparse matrix in rows of blocks, as in ``scipy.sparse``.

    Attributes:
      data: Entries, of shape (nnz,), or blocks, of shape (nnz, rows, columns). Block row ``i`` is
        ``data[indptr[i] : indptr[i + 1]]``.
      indices: Block columns of ``data``, of shape (nnz,).
      indptr: Where each block row begins, of shape (block rows + 1,).
      shape: Shape of the matrix.
      block: Rows and columns of a block; (1, 1) for CSR.
    """

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    shape: tuple[int, int]
    block: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of data and indices."""
        return self.data.nbytes + self.indices.nbytes + self.indptr.nbytes


def _sparse():
    try:
        import scipy.sparse
    except ImportError as error:
        raise ImportError("bilevel.export writes CSR by scipy: pip install scipy") from error
    return scipy.sparse


def _wide(x: np.ndarray) -> np.ndarray:
    """``x`` in a type that scipy knows; float32 holds every 16-bit float exactly."""
    return x.astype(np.float32) if x.dtype.itemsize == 2 else x


def to_csr(w: Any) -> CSR:
    """Returns a matrix, (out, in) or any other, as CSR; what is exactly zero is left out.

    Args:
      w: Matrix.

    Returns:
      A :class:`CSR` with ``data`` of shape (nnz,).

    Raises:
      ValueError: When ``w`` is no matrix.

    Example:
      >>> import numpy as np
      >>> from bilevel.pruning import export
      >>> export.to_csr(np.array([[0.0, 2.0], [0.0, 0.0]])).indptr
      array([0, 1, 1], dtype=int32)
    """
    sparse = to_bcsr(w, (1, 1))
    return sparse._replace(data=sparse.data.reshape(-1))


def to_bcsr(w: Any, block: tuple[int, int]) -> CSR:
    """Returns a matrix as BCSR: blocks that are zero throughout are left out.

    Args:
      w: Matrix whose sides are multiples of the block's.
      block: Rows and columns of a block.

    Returns:
      A :class:`CSR` with ``data`` of shape (nnz, rows, columns).

    Raises:
      ValueError: When the shape does not fit.

    Example:
      >>> import numpy as np
      >>> from bilevel.pruning import export
      >>> export.to_bcsr(np.eye(4), (2, 2)).data.shape
      (2, 2, 2)
    """
    w = np.asarray(w)
    if w.ndim != 2 or w.shape[0] % block[0] or w.shape[1] % block[1]:
        raise ValueError(f"w must be a matrix of blocks {block}, got shape {w.shape}")
    sparse = _sparse().bsr_array(_wide(w), blocksize=block)
    sparse.sort_indices()
    data = sparse.data.astype(w.dtype)
    return CSR(data, sparse.indices, sparse.indptr, w.shape, block)


def to_dense(sparse: CSR) -> np.ndarray:
    """Returns the matrix of :func:`to_csr` or :func:`to_bcsr`.

    Example:
      >>> import numpy as np
      >>> from bilevel.pruning import export
      >>> export.to_dense(export.to_csr(np.array([[0.0, 2.0]])))
      array([[0., 2.]])
    """
    blocks = _wide(sparse.data).reshape(-1, *sparse.block)
    parts = (blocks, sparse.indices, sparse.indptr)
    dense = _sparse().bsr_array(parts, shape=sparse.shape, blocksize=sparse.block).toarray()
    return dense.astype(sparse.data.dtype)


class Chain(NamedTuple):
    """A layer, what acts on each of its outputs alone, and the one layer that reads them.

    Attributes:
      producer: Path of the kernel whose filters are cut, such as ``conv_0/kernel``.
      between: Paths of its bias and of the norm's scale, bias, mean and variance.
      consumer: Path of the next kernel; a dense kernel after flattening has the channel as the
        fastest index of its input axis.
    """

    producer: str
    between: tuple[str, ...]
    consumer: str


def _flat(tree: Any) -> dict[str, Any]:
    pairs = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None)[0]
    return {masks_lib.path_name(p): x for p, x in pairs}


def _alive(masks: dict[str, Any], chain: Chain) -> np.ndarray:
    """Which channels between the two layers are both made and read."""
    for name in (chain.producer, chain.consumer):
        if name not in masks:
            raise ValueError(f"{name} is no leaf; there are {', '.join(masks)}")
    made, read = masks[chain.producer], masks[chain.consumer]
    if made is None and read is None:
        raise ValueError(f"neither {chain.producer} nor {chain.consumer} is masked")
    alive: Any = None
    if made is not None:
        alive = np.asarray(made).any(tuple(range(made.ndim - 1)))
    if read is not None:
        inputs = np.moveaxis(np.asarray(read), -2, 0).reshape(read.shape[-2], -1).any(1)
        width = inputs.size if alive is None else alive.size
        inputs = inputs.reshape(-1, width).any(0)
        alive = inputs if alive is None else alive & inputs
    return alive


def tie(params: Any, masks: Any, chains: list[Chain]) -> Any:
    """Extends filter masks to biases and norms, so that a pruned filter is silent.

    A filter of zeros still has the bias and the norm's offset as output, which the next layer
    reads. Masks that also drop those define the model that :func:`shrink` makes smaller without
    changing its output. (A channel mask needs none of this: nobody reads the channel.)

    Args:
      params: Parameters.
      masks: Masks by filter.
      chains: The layers that follow each other.

    Returns:
      Masks in which the leaves between, where they are parameters, follow the producer.

    Raises:
      ValueError: On a path that is not there, or a chain without masks.

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel.pruning import export
      >>> params = {"a": jnp.ones((2, 2)), "b": jnp.ones(2), "c": jnp.ones((2, 1))}
      >>> masks = {"a": jnp.array([[True, False]] * 2), "b": None, "c": None}
      >>> export.tie(params, masks, [export.Chain("a", ("b",), "c")])["b"]
      Array([ True, False], dtype=bool)
    """
    flat = _flat(masks)
    extra = {}
    for chain in chains:
        alive = _alive(flat, chain)
        for name in chain.between:
            if name in flat:
                extra[name] = jnp.asarray(alive)
    return jax.tree_util.tree_map_with_path(
        lambda path, m, _: extra.get(masks_lib.path_name(path), m),
        masks, params, is_leaf=lambda x: x is None,
    )  # fmt: skip


def shrink(params: Any, stats: Any, masks: Any, chains: list[Chain]) -> tuple[Any, Any]:
    """Cuts the filters and channels that nobody makes or reads out of the arrays.

    The same functional model runs on the smaller arrays, with the outputs of the masked model (for
    filter masks: under the masks of :func:`tie`). Channels that a skip connection shares with
    other layers stay; name chains inside of blocks only.

    Args:
      params: Parameters.
      stats: Statistics of norms, or ``{}``.
      masks: Masks by filter or by channel.
      chains: The layers that follow each other.

    Returns:
      ``(params, stats)``, smaller.

    Raises:
      ValueError: On a path that is not there, a chain without masks, or a chain left without a
        channel.

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel.pruning import export
      >>> params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
      >>> masks = {"a": jnp.array([[True, False, False, True]] * 3), "b": None}
      >>> small, _ = export.shrink(params, {}, masks, [export.Chain("a", (), "b")])
      >>> small["a"].shape, small["b"].shape
      ((3, 2), (2, 2))
    """
    flat_masks = _flat(masks)
    params = masks_lib.apply(masks, params)
    cuts: dict[str, list[tuple[int, np.ndarray]]] = {}
    for chain in chains:
        alive = _alive(flat_masks, chain)
        if not alive.any():
            raise ValueError(f"no channel is left between {chain.producer} and {chain.consumer}")
        kept = np.flatnonzero(alive)
        for name in (chain.producer, *chain.between):
            cuts.setdefault(name, []).append((-1, kept))
        read = flat_masks[chain.consumer]
        width = _flat(params)[chain.consumer].shape[-2] if read is None else read.shape[-2]
        places = np.arange(width).reshape(-1, len(alive))[:, kept].ravel()
        cuts.setdefault(chain.consumer, []).append((-2, places))
    known = {**_flat(params), **_flat(stats)}
    for name in cuts:
        if name not in known:
            raise ValueError(f"{name} is no leaf; there are {', '.join(known)}")

    def cut(path, x):
        for axis, kept in cuts.get(masks_lib.path_name(path), ()):
            x = jnp.take(x, kept, axis=axis)
        return x

    return (
        jax.tree_util.tree_map_with_path(cut, params),
        jax.tree_util.tree_map_with_path(cut, stats),
    )
