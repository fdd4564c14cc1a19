"""Gradients of a batch that is larger than the memory: part after part."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optim import _checks, _trees

__all__ = ["accumulate"]


def accumulate(value_and_grad: Callable[..., Any], parts: int) -> Callable[..., Any]:
    r"""Takes value and gradient of a batch one part after the other, in the memory of one part.

    .. math::
      g = \frac1k \sum_{i=1}^k \nabla_\theta L(\theta; B_i), \qquad
      B = B_1 \cup \dots \cup B_k, \quad |B_i| = |B| / k

    For a loss that is a mean over examples this is the gradient of the whole batch. It is not where
    examples meet, as in batch normalization: each part is then normalized by itself. Sums of 16-bit
    numbers are taken in float32.

    Args:
      value_and_grad: Function of parameters, batch and possibly further arguments, such as
        ``jax.value_and_grad(loss)`` or ``optim.parallel.value_and_grad(loss)``; with ``has_aux``,
        too.
      parts: Number of parts :math:`k \ge 1`, which divides the batch.

    Returns:
      The function with the same arguments and results. The batch is a tree of arrays with the
      examples along the first axis, of which part i has the i-th, (i + k)-th, ...: a batch that is
      split over devices stays where it is, if ``parts`` times their number divides it. A scalar
      random key (``jax.random.key``) in it is split. Means over the parts are taken of every
      floating-point or complex array of the results; of others those of the last part are returned.

    Raises:
      ValueError: If ``parts < 1``; when called, if it does not divide the batch, a leaf of the
        batch has no axis, or there is none.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> loss = lambda w, x: jnp.mean((x * w - 1) ** 2)
      >>> step = optim.accumulate(jax.value_and_grad(loss), parts=2)
      >>> step(jnp.float32(1.0), jnp.array([1.0, 2.0, 3.0, 4.0]))
      (Array(3.5, dtype=float32), Array(10., dtype=float32))
    """
    _checks.count("parts", parts)
    if parts == 1:
        return value_and_grad

    def in_turn(params: Any, batch: Any, *rest: Any, **options: Any) -> Any:
        def one(part: Any) -> Any:
            return value_and_grad(params, part, *rest, **options)

        if not jax.tree.leaves(batch):
            raise ValueError(f"batch must hold an array of examples, got {batch!r}")
        split = jax.tree_util.tree_map_with_path(lambda p, x: _split(p, x, parts), batch)
        shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], split))
        start = jax.tree.map(lambda s: jnp.zeros(s.shape, _wide(s.dtype)), shapes)

        def add(sums: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(
                lambda s, x: s + x.astype(s.dtype) if _is_mean(x) else x, sums, one(part)
            ), None

        sums, _ = jax.lax.scan(add, start, split)
        return jax.tree.map(
            lambda s, like: (s / parts).astype(like.dtype) if _is_mean(like) else s, sums, shapes
        )

    return in_turn


def _split(path: Any, x: Any, parts: int) -> jax.Array:
    """The parts of an array of the batch along a new first axis."""
    if jnp.ndim(x) == 0:
        if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
            return jax.random.split(x, parts)
        raise ValueError(f"batch{jax.tree_util.keystr(path)} must have an axis of examples")
    n = jnp.shape(x)[0]
    if n % parts:
        raise ValueError(
            f"parts must divide the {n} examples of batch{jax.tree_util.keystr(path)}, got {parts}"
        )
    return jnp.swapaxes(jnp.reshape(x, (n // parts, parts, *jnp.shape(x)[1:])), 0, 1)


def _is_mean(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _wide(dtype: Any) -> Any:
    return _trees.wide_dtype(dtype) if jnp.issubdtype(dtype, jnp.inexact) else dtype
