"""What pruning is for: zeros that take no space, and models that are smaller.

Single weights leave as CSR (or BCSR, in blocks), N of each M as values and positions of few bits;
filters and channels are cut out of the arrays, so that an ordinary dense program runs them faster.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.pruning import masks as masks_lib

__all__ = [
    "CSR",
    "NM",
    "Chain",
    "from_nm",
    "shrink",
    "tie",
    "to_bcsr",
    "to_csr",
    "to_dense",
    "to_nm",
]


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


class NM(NamedTuple):
    """Weights of which N of each M may not be zero, packed.

    Attributes:
      values: What is kept, of shape (groups, N).
      positions: Places in their groups, ascending, of the fewest bits that hold M - 1 each (two
        for 2:4), one after another from the lowest bit of the first byte on; uint8.
      shape: Shape of the weights.
      axes: Axes along which groups run, in their order.
      m: M.
    """

    values: np.ndarray
    positions: np.ndarray
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    m: int

    @property
    def nbytes(self) -> int:
        """Bytes of values and positions together."""
        return self.values.nbytes + self.positions.nbytes


def _bits(m: int) -> int:
    return max((m - 1).bit_length(), 1)


def to_nm(w: Any, structure: str = "2:4", axis: int | tuple[int, ...] = -2) -> NM:
    """Returns weights packed as N of each M: what is kept, and where.

    A group that keeps fewer than N holds zeros at the first places that are free.

    Args:
      w: Weights with at most N that are not zero in each M consecutive entries.
      structure: ``"N:M"``, 0 < N <= M.
      axis: The axis, or axes, along which groups run: what a product contracts, -2 of Flax's
        kernels.

    Returns:
      An :class:`NM`; :func:`from_nm` gives the weights back, bit by bit but for negative zeros that
      find no place (``w * mask`` makes some).

    Raises:
      ValueError: On a structure that is none or does not fit, or a group with more than N.

    Example:
      >>> import numpy as np
      >>> from bilevel.pruning import export
      >>> packed = export.to_nm(np.array([[0.0, 5.0, 0.0, 7.0]], np.float32), "2:4", axis=-1)
      >>> packed.values, [int(x) for x in packed.positions], packed.nbytes  # 1 + 4 * 3
      (array([[5., 7.]], dtype=float32), [13], 9)
    """
    pair = masks_lib.Cut(structure=structure).n_of_m
    if pair is None:
        raise ValueError(f"structure must be 'N:M' (such as '2:4'), got {structure!r}")
    (n, m), w = pair, np.asarray(w)
    given = (axis,) if isinstance(axis, int) else tuple(axis)
    if not given or any(not -w.ndim <= i < w.ndim for i in given):
        raise ValueError(f"axis must be axes of w, got {axis} for shape {w.shape}")
    axes = tuple(i % w.ndim for i in given)
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis names one axis twice, got {axis} for shape {w.shape}")
    length = int(np.prod([w.shape[i] for i in axes]))
    if length % m:
        raise ValueError(
            f"structure {structure!r} needs a multiple of {m} entries: {length} along axis {axis} "
            f"of {w.shape}"
        )
    groups = np.moveaxis(w, axes, range(w.ndim - len(axes), w.ndim)).reshape(-1, m)
    kept = groups != 0
    if (kept.sum(1) > n).any():
        at = int(np.argmax(kept.sum(1) > n))
        raise ValueError(
            f"w has {kept[at].sum()} of {m} weights in group {at} of {len(groups)}: not {structure}"
        )
    # A negative zero comes back with its sign where there is a place left for it.
    order = np.where(kept, 0, np.where(np.signbit(groups), 1, 2))
    places = np.sort(np.argsort(order, axis=1, kind="stable")[:, :n], axis=1)
    values = np.take_along_axis(groups, places, axis=1)
    bits = (places.reshape(-1, 1) >> np.arange(_bits(m))) & 1
    positions = np.packbits(bits.astype(np.uint8), bitorder="little")
    return NM(values, positions, w.shape, axes, m)


def from_nm(packed: NM) -> np.ndarray:
    """Returns the weights of :func:`to_nm`.

    Raises:
      ValueError: When values and positions do not fit each other and the shape.

    Example:
      >>> import numpy as np
      >>> from bilevel.pruning import export
      >>> export.from_nm(export.to_nm(np.array([[0.0, 5.0]]), "1:2", axis=-1))
      array([[0., 5.]])
    """
    values, positions, shape, axes, m = packed
    n, size = values.shape[-1], _bits(m)
    if values.shape != (int(np.prod(shape)) // m, n) or positions.size != -(
        -values.size * size // 8
    ):
        raise ValueError(
            f"{n}:{m} weights of shape {tuple(shape)} do not fit values of {values.shape} and "
            f"{positions.size} bytes of positions"
        )
    bits = np.unpackbits(positions, count=values.size * size, bitorder="little")
    places = (bits.reshape(-1, size).astype(np.int64) << np.arange(size)).sum(1).reshape(-1, n)
    if places.max(initial=0) >= m:
        raise ValueError(f"positions must be in [0, {m}), got {places.max()}")
    groups = np.zeros((len(values), m), values.dtype)
    np.put_along_axis(groups, places, values, axis=1)
    rest = [i for i in range(len(shape)) if i not in axes]
    moved = groups.reshape([shape[i] for i in (*rest, *axes)])
    return np.moveaxis(moved, range(len(rest), len(shape)), axes)


class Chain(NamedTuple):
    """A layer, what acts on each of its outputs alone, and the one layer that reads them.

    Attributes:
      producer: Path of the kernel whose filters are cut, such as ``conv_0/kernel``.
      between: Paths of its bias and of the norm's scale, bias, mean and variance.
      consumer: Path of the next kernel; a dense kernel after flattening has the channel as the
        fastest index of its input axis.
      at: Where a consumer that reads a concatenation has the producer's first channel; None where
        it reads the producer alone.
    """

    producer: str
    between: tuple[str, ...]
    consumer: str
    at: int | None = None


def _flat(tree: Any) -> dict[str, Any]:
    pairs = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None)[0]
    return {masks_lib.path_name(p): x for p, x in pairs}


def _places(chain: Chain, channels: int, width: int, convolution: bool) -> np.ndarray:
    """Returns the inputs of the consumer that read each channel, shape (positions, channels)."""
    if chain.at is not None:
        if not 0 <= chain.at <= width - channels:
            raise ValueError(
                f"at must be in [0, {width - channels}] for the {channels} channels of "
                f"{chain.producer} among the {width} inputs of {chain.consumer}, got {chain.at}"
            )
        return chain.at + np.arange(channels)[None]
    # Only what a convolution leaves can be flattened, and only a dense layer reads it so.
    if width != channels and (convolution or width % channels):
        raise ValueError(
            f"{chain.consumer} has {width} inputs for the {channels} channels of {chain.producer}: "
            "of a concatenation say where they begin, Chain(..., at=)"
        )
    return np.arange(width).reshape(-1, channels)


def _alive(
    params: dict[str, Any], masks: dict[str, Any], chains: list[Chain]
) -> dict[str, np.ndarray]:
    """Which channels of each producer are both made and read, by the producer's path."""
    made: dict[str, Any] = {}
    read: dict[str, Any] = {}
    for chain in chains:
        for name in (chain.producer, chain.consumer):
            if params.get(name) is None:
                raise ValueError(f"{name} is no leaf; there are {', '.join(params)}")
        makes, reads = masks.get(chain.producer), masks.get(chain.consumer)
        if makes is None and reads is None:
            raise ValueError(f"neither {chain.producer} nor {chain.consumer} is masked")
        producer, consumer = np.shape(params[chain.producer]), np.shape(params[chain.consumer])
        alone = len(producer) == 2 or len(consumer) > 2
        places = _places(chain, producer[-1], consumer[-2], alone)
        if makes is not None:
            made[chain.producer] = np.asarray(makes).any(tuple(range(len(producer) - 1)))
        inputs: Any = np.ones(consumer[-2], bool)
        if reads is not None:
            inputs = np.moveaxis(np.asarray(reads), -2, 0).reshape(consumer[-2], -1).any(1)
        # A channel that several layers read stays while one of them does.
        used = inputs[places].any(0)
        read[chain.producer] = used | read.get(chain.producer, np.zeros_like(used))
    return {name: made.get(name, True) & used for name, used in read.items()}


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
    alive = _alive(_flat(params), flat, chains)
    extra = {}
    for chain in chains:
        for name in chain.between:
            if name in flat:
                extra[name] = jnp.asarray(alive[chain.producer])
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
      ValueError: On a path that is not there, a chain without masks, a layer left without a
        channel, or a consumer with other inputs than the producer has channels.

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel.pruning import export
      >>> params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
      >>> masks = {"a": jnp.array([[True, False, False, True]] * 3), "b": None}
      >>> small, _ = export.shrink(params, {}, masks, [export.Chain("a", (), "b")])
      >>> small["a"].shape, small["b"].shape
      ((3, 2), (2, 2))
    """
    params = masks_lib.apply(masks, params)
    known = {**_flat(params), **_flat(stats)}
    alive = _alive(known, _flat(masks), chains)
    for chain in chains:
        if not alive[chain.producer].any():
            raise ValueError(f"no channel is left between {chain.producer} and {chain.consumer}")
    # What stays, by path and axis. A norm may span a concatenation, and a layer read several.
    cuts: dict[tuple[str, int], np.ndarray] = {}

    def keep(name, axis, places, kept):
        if known.get(name) is None:
            raise ValueError(f"{name} is no leaf; there are {', '.join(known)}")
        size = np.shape(known[name])[axis]
        if places.max() >= size:
            raise ValueError(f"{name} has {size} channels, a chain cuts channel {places.max()}")
        cuts.setdefault((name, axis), np.ones(size, bool))[places] &= kept

    for chain in chains:
        kept = alive[chain.producer]
        for name in (chain.producer, *chain.between):
            keep(name, -1, np.arange(len(kept)), kept)
            if np.shape(known[name])[-1] != len(kept):
                raise ValueError(
                    f"{name} has {np.shape(known[name])[-1]} channels, {chain.producer} "
                    f"{len(kept)}; a norm of a concatenation cannot be cut"
                )
        width = np.shape(known[chain.consumer])[-2]
        keep(chain.consumer, -2, _places(chain, len(kept), width, False), kept)

    def cut(path, x):
        for axis in (-1, -2):
            kept = cuts.get((masks_lib.path_name(path), axis))
            x = x if kept is None else jnp.take(x, np.flatnonzero(kept), axis=axis)
        return x

    return (
        jax.tree_util.tree_map_with_path(cut, params),
        jax.tree_util.tree_map_with_path(cut, stats),
    )
