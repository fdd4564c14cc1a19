"""What a mask leaves: per layer and in total, and how compressible a layer still is."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.pruning import masks as masks_lib

__all__ = ["Layer", "Report", "pq_index", "sap_count", "sparsity_report"]


class Layer(NamedTuple):
    """One leaf: sizes in entries and bytes, ``flops`` a multiply-add counted as two."""

    path: str
    shape: tuple[int, ...]
    prunable: bool
    kept: int
    size: int
    density: float
    flops: int
    dense_flops: int
    bytes: int
    dense_bytes: int
    pq_index: float


class Report(NamedTuple):
    """A row per leaf and the totals; ``str(report)`` is a table."""

    layers: tuple[Layer, ...]
    total: Layer
    prunable: Layer

    def __str__(self) -> str:
        names = ("leaf", "shape", "kept", "density", "flops", "bytes", "PQ")
        rows = (*self.layers, self.prunable, self.total)
        labels = [r.path + (" (not prunable)" if not r.prunable else "") for r in rows]
        width = max(map(len, labels))
        head = f"{{:{width}}} {{:>18}} {{:>12}} {{:>8}} {{:>12}} {{:>12}} {{:>6}}".format(*names)
        lines: list[str] = [head]
        for label, row in zip(labels, rows, strict=True):
            shape = "x".join(map(str, row.shape)) or "-"
            lines.append(
                f"{label:{width}} {shape:>18} {row.kept:>12} {row.density:>8.4f} "
                f"{row.flops:>12} {row.bytes:>12} {row.pq_index:>6.3f}"
            )
        return "\n".join(lines)


@functools.partial(jax.jit, static_argnames=("p", "q", "axis"))
def pq_index(
    x: jax.Array, mask: jax.Array | None = None, p: float = 0.5, q: float = 1.0, axis: Any = None
):
    r"""PQ index: 0 when all surviving weights are equal, towards 1 when a few carry all.

    .. math::
      I_{p,q}(w) = 1 - d^{1/q - 1/p} \frac{\|w\|_p}{\|w\|_q}

    with :math:`d` the number of surviving weights. All zeros give 0.

    Args:
      x: Weights.
      mask: What survives; default everything.
      p: Smaller norm, in (0, 1].
      q: Larger norm, above ``p``.
      axis: Axes that one index runs over; default all. A neuron's index in a Flax kernel is over
        all axes but the last.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.pq_index(jnp.array([1.0, 1.0])).round(3), bilevel.pq_index(jnp.array([1.0, 0.0]))
      (Array(0., dtype=float32), Array(0.5, dtype=float32))

    References:
      Diao et al., Pruning Deep Neural Networks from a Sparsity Perspective, ICLR 2023.
    """
    if not 0 < p <= 1 or not q > p:
        raise ValueError(f"p must be in (0, 1] and q above p, got p={p} and q={q}")
    x = jnp.abs(jnp.asarray(x))
    mask = jnp.ones(x.shape, bool) if mask is None else jnp.asarray(mask).astype(bool)
    x = jnp.where(mask, x, 0)
    d = mask.sum(axis).astype(x.dtype)
    small, large = (x**p).sum(axis) ** (1 / p), (x**q).sum(axis) ** (1 / q)
    safe = large > 0
    ratio = jnp.where(safe, d, 1) ** (1 / q - 1 / p) * small / jnp.where(safe, large, 1)
    return jnp.where(safe, 1 - ratio, 0.0)


def sap_count(
    index: Any,
    d: Any,
    p: float = 0.5,
    q: float = 1.0,
    *,
    eta: float = 0.0,
    gamma: float = 1.0,
    beta: float = 0.9,
) -> np.ndarray:
    r"""How many of ``d`` surviving weights sparsity-informed adaptive pruning removes.

    .. math::
      m = \lceil d\,(1+\eta)^{-q/(q-p)} (1-I)^{pq/(q-p)} \rceil, \qquad
      \lfloor d \cdot \mathrm{clip}(\gamma(1 - m/d), 0, \beta) \rfloor

    Args:
      index: PQ index :math:`I`.
      d: Number of surviving weights.
      p, q: The norms of the index.
      eta, gamma, beta: Compression hyperparameters of the method.

    Example:
      >>> import bilevel
      >>> int(bilevel.sap_count(0.5, 100))
      50
    """
    d = np.asarray(d)
    bound = (
        d * (1 + eta) ** (-q / (q - p)) * (1 - np.asarray(index, np.float64)) ** (p * q / (q - p))
    )
    m = np.ceil(bound)
    # The authors hold the share in float32 alone: of 40, floor(40 * (1 - 34 / 40)) is 5.
    share = np.float32(1) - (m / d).astype(np.float32)
    share = np.clip(np.float32(gamma) * share, 0, np.float32(beta))
    return np.floor(d * share.astype(np.float64)).astype(np.int64)


def sparsity_report(params: Any, masks: Any, *, positions: dict[str, int] | None = None) -> Report:
    """Counts what ``masks`` keep of ``params``, per leaf and in total.

    FLOPs are those of one example's forward pass through the kernels: two per kept weight and
    output position. A dense layer has one position; the number for a convolution (height times
    width of its output) is in ``positions``, one where it is not given.

    Bytes count a kept weight once, as a mask packed into the storage would; the CSR and BCSR
    forms of :mod:`bilevel.export` state their own index bytes.

    Args:
      params: Parameters.
      masks: Their masks, ``None`` where a leaf is not prunable.
      positions: Path of a convolution's kernel -> output positions.

    Returns:
      A :class:`Report`; printing it shows which leaves the rule left out.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
      >>> masks = {"kernel": jnp.array([[True, False], [True, True]]), "bias": None}
      >>> report = bilevel.sparsity_report(params, masks)
      >>> report.prunable.density, report.total.kept, report.total.flops
      (0.75, 5, 6)
    """
    positions = positions or {}
    rows = []

    def one(path, mask, x):
        if x is None:
            return
        name = masks_lib.path_name(path)
        size, item = int(np.size(x)), jnp.result_type(x).itemsize
        if mask is not None and mask.shape != x.shape:
            raise ValueError(f"mask of shape {mask.shape} for {name} of shape {x.shape}")
        kept = size if mask is None else int(mask.sum())
        at = positions.get(name, 1) if np.ndim(x) >= 2 else 0
        pq = float(pq_index(x, mask)) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else 0.0
        rows.append(
            Layer(
                name, tuple(np.shape(x)), mask is not None, kept, size, kept / max(size, 1),
                2 * kept * at, 2 * size * at, kept * item, size * item, pq,
            )
        )  # fmt: skip

    jax.tree_util.tree_map_with_path(one, masks, params, is_leaf=lambda x: x is None)

    def add(name, rows):
        sums = [
            sum(getattr(r, k) for r in rows)
            for k in ("kept", "size", "flops", "dense_flops", "bytes", "dense_bytes")
        ]
        kept, size = sums[:2]
        pq = sum(r.pq_index * r.size for r in rows) / max(size, 1)
        flops, dense_flops, item, dense_item = sums[2:]
        share = kept / max(size, 1)
        return Layer(name, (), True, kept, size, share, flops, dense_flops, item, dense_item, pq)

    return Report(tuple(rows), add("total", rows), add("prunable", [r for r in rows if r.prunable]))
