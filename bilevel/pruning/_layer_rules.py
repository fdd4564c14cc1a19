"""Calibrated pruning of one matrix: Wanda, GBLM, SparseGPT, DSnoT and FLAP.

A matrix is (outputs, inputs), as in the papers; a kernel of Flax is its transpose.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.pruning import masks as masks_lib
from optim import _checks

__all__ = [
    "Stats",
    "dsnot",
    "flap",
    "flap_masks",
    "gblm",
    "row_masks",
    "share_masks",
    "sparsegpt",
    "sparsegpt_scores",
    "stats_of",
    "wanda",
]


class Stats(NamedTuple):
    r"""What a layer was fed: sums over S examples of T tokens each.

    Attributes:
      norm: :math:`\sqrt{\sum x^2 / S}` of each input, of shape (inputs,).
      mean: Mean over examples and tokens, of shape (inputs,).
      var: Variance over examples and tokens, of shape (inputs,).
      tokens: T, which is 1 without a sequence.
      gram: :math:`\tfrac{2}{S} \sum x x^\top`, of shape (inputs, inputs), or None.
    """

    norm: jax.Array
    mean: jax.Array
    var: jax.Array
    tokens: jax.Array
    gram: jax.Array | None = None


def stats_of(x: jax.Array, *, gram: bool = True) -> Stats:
    """Returns the statistics of inputs given by hand.

    Args:
      x: Inputs of a layer, of shape (examples, ..., inputs).
      gram: Whether the Gram matrix is made, for SparseGPT.

    Raises:
      ValueError: On fewer than two axes.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.calibrated.stats_of(jnp.array([[3.0, 1.0], [4.0, 1.0]])).mean
      Array([3.5, 1. ], dtype=float32)
    """
    if jnp.ndim(x) < 2:
        raise ValueError(f"x must be (examples, ..., inputs), got shape {jnp.shape(x)}")
    flat = jnp.asarray(x).reshape(-1, x.shape[-1])
    gram_sum = flat.T @ flat if gram else None
    sums = (flat.sum(0), (flat**2).sum(0), gram_sum)
    return of_sums(sums, len(x), len(flat))


def of_sums(sums: Any, examples: int, count: int) -> Stats:
    """Returns the statistics of the sums of x, of its squares and of its outer products."""
    first, second, gram = sums
    mean = first / count
    var = jnp.maximum(second / count - mean**2, 0)
    norm = jnp.sqrt(second / examples)
    gram = None if gram is None else 2 / examples * gram
    return Stats(norm, mean, var, jnp.asarray(count / examples), gram)


def row_masks(
    scores: jax.Array, density: float | None = None, structure: str | None = None
) -> jax.Array:
    """Returns masks of the largest scores of each row, or of each M consecutive ones of a row.

    Args:
      scores: Of shape (outputs, inputs).
      density: Share that each row keeps, in (0, 1].
      structure: ``"N:M"``: N are kept of each M. (The authors' programs count the zeros: their
        1:4 is 3:4 here.)

    Raises:
      ValueError: Unless exactly one of density and structure is given and fits.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.calibrated.row_masks(jnp.array([[1.0, 4.0, 2.0, 3.0]]), structure="1:2")
      Array([[False,  True, False,  True]], dtype=bool)
    """
    m, drop = _pattern(scores.shape[-1], density, structure)
    groups = scores.reshape(*scores.shape[:-1], -1, m)
    rank = jnp.argsort(jnp.argsort(groups, axis=-1, stable=True), axis=-1, stable=True)
    return (rank >= drop).reshape(scores.shape)


def share_masks(scores: jax.Array, density: float, *, tolerance: float = 1e-3) -> jax.Array:
    r"""Returns masks in which each row drops one share of its scores: Wanda's variant.

    .. math::
      \text{row } i \text{ drops its smallest scores, as many as add up to at most }
      \alpha \textstyle\sum_j s_{ij}

    with the share :math:`\alpha` found by bisection on [0, 0.8] from 0.4, until the density of all
    rows together is met to ``tolerance`` or the interval is narrower than 0.001, as the authors do:
    the density is not exact.

    Args:
      scores: Of shape (outputs, inputs), >= 0.
      density: Share that is kept, in (0, 1].
      tolerance: >= 0.

    Raises:
      ValueError: On an argument outside its range.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> scores = jnp.array([[1.0, 2.0, 3.0, 90.0], [5.0, 6.0, 7.0, 8.0]])
      >>> bilevel.calibrated.share_masks(scores, 0.5).sum(1)
      Array([1, 3], dtype=int32)

    References:
      Sun et al., A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024.
    """
    _checks.number("density", density, 0, 1, open_low=True)
    _checks.number("tolerance", tolerance, 0)
    ascending = jnp.sort(scores, axis=-1)
    running, total = jnp.cumsum(ascending, axis=-1), scores.sum(-1, keepdims=True)

    def dropped(alpha: float) -> jax.Array:
        count = (running <= total * alpha).sum(-1, keepdims=True)
        most = jnp.take_along_axis(ascending, jnp.maximum(count - 1, 0), axis=-1)
        return (scores <= most) & (count > 0)

    alpha, low, high = 0.4, 0.0, 0.8
    drop = dropped(alpha)
    while abs(float(drop.mean()) - (1 - density)) > tolerance and high - low >= 0.001:
        if float(drop.mean()) > 1 - density:
            alpha, high = (alpha + low) / 2, alpha
        else:
            alpha, low = (alpha + high) / 2, alpha
        drop = dropped(alpha)
    return ~drop


def _pattern(inputs: int, density: float | None, structure: str | None) -> tuple[int, int]:
    """Returns the size of a group and how many of it are dropped."""
    if (density is None) == (structure is None):
        raise ValueError(f"one of density and structure is needed, got {density} and {structure!r}")
    if structure is None:
        _checks.number("density", density, 0, 1, open_low=True)
        return inputs, int((1 - float(density or 1)) * inputs)
    pair = masks_lib.Cut(structure=structure).n_of_m
    if pair is None:
        raise ValueError(f"structure must be 'N:M' (such as '2:4'), got {structure!r}")
    if inputs % pair[1]:
        raise ValueError(f"structure {structure!r} needs a multiple of {pair[1]} inputs: {inputs}")
    return pair[1], pair[1] - pair[0]


def wanda(w: jax.Array, norm: jax.Array) -> jax.Array:
    r"""Wanda's scores, :math:`|W_{ij}|\, n_j`, which are compared within a row.

    Args:
      w: Of shape (outputs, inputs).
      norm: Norms of the inputs, of shape (inputs,).

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.calibrated.wanda(jnp.array([[2.0, -1.0]]), jnp.array([1.0, 3.0]))
      Array([[2., 3.]], dtype=float32)

    References:
      Sun et al., A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024.
    """
    return jnp.abs(w) * norm[None]


def gblm(
    w: jax.Array, norm: jax.Array, grad: jax.Array, *, alpha: float = 100.0, inverse: bool = False
) -> jax.Array:
    r"""GBLM's scores, Wanda's with the size of the gradient.

    .. math::
      |W_{ij}| \left(n_j + \alpha\, G_{ij}\right), \qquad
      G = \frac1S \sum_s |g_s| \text{ or } \sqrt{\tfrac1S \textstyle\sum_s g_s^2}

    The authors take the sum over samples of :math:`100\,|g_s|`, so that the weight of the gradient
    grows with their number: that is :math:`\alpha = 100\,S` here (:math:`100 \sqrt S` for the
    second).

    Args:
      w: Of shape (outputs, inputs).
      norm: Norms of the inputs, of shape (inputs,).
      grad: :math:`G`, shaped like ``w``.
      alpha: :math:`\alpha >= 0`.
      inverse: The authors' other score, :math:`|W_{ij}| n_j / (\alpha G_{ij} + 10^{-8})`.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> w, norm, grad = jnp.array([[2.0, -1.0]]), jnp.array([1.0, 3.0]), jnp.array([[0.1, 0.0]])
      >>> bilevel.calibrated.gblm(w, norm, grad, alpha=10.0)
      Array([[4., 3.]], dtype=float32)

    References:
      Das et al., Beyond Size: How Gradients Shape Pruning Decisions in Large Language Models, 2023.
    """
    _checks.number("alpha", alpha, 0)
    if inverse:
        return wanda(w, norm) / (alpha * grad + 1e-8)
    return wanda(w, norm) + jnp.abs(w) * (alpha * grad)


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
    m, drop = _pattern(n, density, structure)
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


def dsnot(
    w: jax.Array,
    mask: jax.Array,
    norm: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    *,
    cycles: int = 50,
    threshold: float = 0.1,
    power: float = 1.0,
    same_sign: bool = True,
    structure: str | None = None,
) -> jax.Array:
    r"""DSnoT: exchanges weights of each row until the mean of its output is kept.

    .. math::
      D = W \odot \mu, \qquad e = \textstyle\sum_{\text{dropped}} D

    While :math:`|e|` is above the threshold, the dropped weight enters whose
    :math:`D / \sigma^{2 p}` has the sign of e and is largest, and of the kept ones whose D has the
    other sign the one with the smallest Wanda score leaves. On small nets it lowers the error of
    the mean and raises that of the outputs: see both before it is used.

    Args:
      w: Of shape (outputs, inputs).
      mask: The start, of any criterion.
      norm: See :class:`Stats`.
      mean: Mean of the inputs; the authors take the sum over the tokens of an example.
      var: Variance of the inputs; the authors take the mean over examples of that over
        tokens, with T - 1 in its denominator.
      cycles: Most exchanges of a row, >= 1.
      threshold: >= 0.
      power: :math:`p >= 0`.
      same_sign: Whether a row ends before its error would change sign, as the paper has it; the
        authors' program has this off.
      structure: ``"N:M"``: what leaves is of the group of what enters, so that groups stay exact.
        (The authors' program can leave a group short.)

    Returns:
      The new mask; each row keeps its count.

    Raises:
      ValueError: On an argument outside its range.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> w = jnp.array([[1.0, 0.9, -1.1, 0.1]])
      >>> mask, one = jnp.array([[True, False, True, False]]), jnp.ones(4)
      >>> bilevel.calibrated.dsnot(w, mask, one, one, one, cycles=1, same_sign=False)
      Array([[ True,  True, False, False]], dtype=bool)

    References:
      Zhang et al., Dynamic Sparse No Training: Training-Free Fine-tuning for Sparse LLMs, ICLR
      2024.
    """
    _checks.count("cycles", cycles)
    _checks.number("threshold", threshold, 0)
    _checks.number("power", power, 0)
    _checks.flag("same_sign", same_sign)
    m = 0 if structure is None else _pattern(w.shape[-1], None, structure)[0]
    args = (jnp.asarray(w), jnp.asarray(mask, bool), norm, mean, var)
    return _dsnot(*args, cycles, threshold, power, jnp.asarray(same_sign), m)


@functools.partial(jax.jit, static_argnames=("m",))
def _dsnot(w, mask, norm, mean, var, cycles, threshold, power, same_sign, m):
    d = w * mean[None]
    order = d / jnp.where(var > 0, var, 1)[None] ** power
    cost = wanda(w, norm)
    rows = jnp.arange(len(w))
    start = jnp.where(mask, 0, d).sum(-1)

    def cycle(_, carry):
        mask, may_enter, may_leave, error, active = carry
        sign = jnp.where(error > 0, 1.0, -1.0)[:, None]
        toward = jnp.where(may_enter & (sign * d > 0), sign * order, -jnp.inf)
        # Of equal ones the last enters where the error is positive, as at the end of a sort.
        enter = jnp.where(
            error > 0, toward.shape[-1] - 1 - jnp.argmax(toward[:, ::-1], -1), toward.argmax(-1)
        )
        if m:
            group = jnp.arange(d.shape[-1])[None] // m == enter[:, None] // m
            leaving = may_leave & group
        else:
            leaving = may_leave & jnp.where(error[:, None] < 0, d > 0, d < 0)
        price = jnp.where(leaving, cost, jnp.inf)
        leave = price.argmin(-1)
        found = jnp.isfinite(toward[rows, enter]) & jnp.isfinite(price[rows, leave])
        after = error + d[rows, leave] - d[rows, enter]
        active = active & found & (jnp.abs(error) > threshold)
        active = active & (~same_sign | (jnp.sign(after) == jnp.sign(start)))
        mask = mask.at[rows, enter].set(mask[rows, enter] | active)
        mask = mask.at[rows, leave].set(mask[rows, leave] & ~active)
        # What has moved once stays where it is.
        may_enter = may_enter.at[rows, enter].set(may_enter[rows, enter] & ~active)
        may_leave = may_leave.at[rows, leave].set(may_leave[rows, leave] & ~active)
        return mask, may_enter, may_leave, jnp.where(active, after, error), active

    carry = (mask, ~mask, mask, start, jnp.ones(len(w), bool))
    mask, *_ = jax.lax.fori_loop(0, cycles, cycle, carry)
    return mask


def flap(w: jax.Array, stats: Stats, metric: str = "wifv") -> jax.Array:
    r"""FLAP's scores of inputs, which leave whole: how much the output moves without one.

    .. math::
      \text{ifv: } \sigma_j^2, \qquad \text{wifv: } \sigma_j^2 \textstyle\sum_i W_{ij}^2, \qquad
      \text{wifn: } \frac1n \textstyle\sum_i |W_{ij}|\, n_j

    A dropped input is replaced by its mean: :math:`b \leftarrow b + W (\mu \odot (1 - m))`.

    Args:
      w: Of shape (outputs, inputs).
      stats: See :class:`Stats`. (The authors' running variance is right for one sample per call
        only.)
      metric: One of the above.

    Returns:
      Scores of shape (inputs,).

    Raises:
      ValueError: On an unknown metric.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> stats = bilevel.calibrated.stats_of(jnp.array([[1.0, 5.0], [3.0, 5.0]]))
      >>> bilevel.calibrated.flap(jnp.array([[2.0, 9.0]]), stats)
      Array([4., 0.], dtype=float32)

    References:
      An et al., Fluctuation-based Adaptive Structured Pruning for Large Language Models, AAAI 2024.
    """
    _checks.choice("metric", metric, ["ifv", "wifv", "wifn"])
    if metric == "ifv":
        return stats.var
    if metric == "wifv":
        return stats.var * (w**2).sum(0)
    return wanda(w, stats.norm).mean(0)


def flap_masks(
    attention: Any,
    mlp: Any,
    density: float,
    *,
    head_size: int,
    structure: str = "AL-AM",
    cost: float | None = None,
    heads: int | None = None,
    neurons: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    r"""FLAP's masks of heads and neurons of a transformer, from the scores of its layers' inputs.

    =========  =================================================================================
    ``UL-UM``  each layer keeps the density of its heads and of its neurons
    ``UL-MM``  each layer drops ``heads`` heads and ``neurons`` neurons
    ``AL-MM``  all layers together drop ``heads`` heads and ``neurons`` neurons
    ``AL-AM``  one cut through heads and neurons of all layers, down to the density by their costs
    =========  =================================================================================

    With AL scores are standardized in each layer, and a head has the mean of its inputs' scores,
    with UL their sum. Scores of attentions are squared first, those of MLPs are not, and of AL-AM
    the head or neuron at the end of the budget is dropped too, as in the authors' program.

    Args:
      attention: Scores (:func:`flap`) of the inputs of output projections, of shape
        (layers, heads * ``head_size``).
      mlp: Scores of the inputs of down projections, of shape (layers, neurons).
      density: Share that is kept, in (0, 1]; not read by ``MM``.
      head_size: Inputs of a head.
      structure: One of the above.
      cost: Weights of a head over those of a neuron, for ``AL-AM``. Default: 4/3 of ``head_size``,
        four projections of a head against three of a gated neuron. (The authors have
        ``int(512 / 3)`` whatever the head.)
      heads: Heads to drop, for ``MM``: in each layer (``UL``) or in all (``AL``).
      neurons: Neurons to drop, likewise. (The authors find it from the number of heads and their
        sizes.)

    Returns:
      Boolean arrays (layers, heads) and (layers, neurons); True is kept.

    Raises:
      ValueError: On an argument outside its range, or counts that ``MM`` needs.

    Example:
      >>> import numpy as np, bilevel
      >>> attention, mlp = np.array([[3.0, 3.0, 1.0, 1.0]]), np.array([[1.0, 2.0, 3.0, 4.0]])
      >>> bilevel.calibrated.flap_masks(attention, mlp, 0.5, head_size=2, structure="UL-UM")
      (array([[ True, False]]), array([[False, False,  True,  True]]))

    References:
      An et al., Fluctuation-based Adaptive Structured Pruning for Large Language Models, AAAI 2024.
    """
    _checks.choice("structure", structure, ["UL-UM", "UL-MM", "AL-MM", "AL-AM"])
    _checks.number("density", density, 0, 1, open_low=True)
    _checks.count("head_size", head_size)
    attention, mlp = (np.asarray(x, np.float64) for x in (attention, mlp))
    if attention.ndim != 2 or mlp.ndim != 2 or len(attention) != len(mlp):
        raise ValueError(
            f"scores must be (layers, inputs), got shapes {attention.shape} and {mlp.shape}"
        )
    if attention.shape[1] % head_size:
        raise ValueError(f"head_size={head_size} does not divide {attention.shape[1]} inputs")
    if structure.endswith("MM") and (heads is None or neurons is None):
        raise ValueError(f"structure {structure!r} needs heads and neurons, numbers to drop")

    def by_head(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1, head_size)

    def without(scores: np.ndarray, name: str, count: int) -> np.ndarray:
        """Without the ``count`` smallest of each row."""
        _checks.count(name, count, 0)
        if count > scores.shape[1]:
            raise ValueError(f"{name}={count} of {scores.shape[1]} cannot be dropped")
        rank = np.argsort(np.argsort(scores, axis=1, kind="stable"), axis=1, kind="stable")
        return rank >= count

    attention = attention**2
    if structure.startswith("UL"):
        attention = by_head(attention).sum(2)
        if structure == "UL-UM":
            heads, neurons = (int((1 - density) * x.shape[1]) for x in (attention, mlp))
        return without(attention, "heads", heads or 0), without(mlp, "neurons", neurons or 0)

    def standard(x: np.ndarray) -> np.ndarray:
        spread = x.std(1, ddof=1, keepdims=True)
        return (x - x.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1)

    attention, mlp = by_head(standard(attention)).mean(2), standard(mlp)
    if structure == "AL-MM":
        pairs = ((attention, "heads", heads), (mlp, "neurons", neurons))
        kept = [without(x.reshape(1, -1), name, n or 0).reshape(x.shape) for x, name, n in pairs]
        return kept[0], kept[1]
    cost = 4 * head_size / 3 if cost is None else cost
    _checks.number("cost", cost, 0, open_low=True)
    scores = np.concatenate([attention.ravel(), mlp.ravel()])
    costs = np.r_[np.full(attention.size, float(cost)), np.ones(mlp.size)]
    order = np.argsort(-scores, kind="stable")
    kept_cost = np.cumsum(costs[order])
    # What is above the place whose cost comes closest is kept, without that place.
    last = np.argmin(np.abs(kept_cost - density * costs.sum()))
    keep = scores > scores[order[last]]
    in_heads, in_neurons = np.split(keep, [attention.size])
    return in_heads.reshape(attention.shape), in_neurons.reshape(mlp.shape)
