"""DSnoT: exchanges in the mask of one matrix, without training.

A matrix is (outputs, inputs), as in the papers; a kernel of Flax is its transpose.
"""

import functools

import jax
import jax.numpy as jnp

from bilevel.pruning._layer_masks import pattern
from bilevel.pruning._layer_scores import wanda
from optim import _checks

__all__ = ["dsnot"]


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
    m = 0 if structure is None else pattern(w.shape[-1], None, structure)[0]
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
