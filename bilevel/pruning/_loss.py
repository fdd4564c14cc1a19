"""The loss in the state, so that a step is a pure function of (state, batch)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Static", "call_loss", "check_batches"]


@jax.tree_util.register_static
class Static(NamedTuple):
    """A value that is part of a pytree's structure and no leaf of it."""

    value: Any


def call_loss(loss: Callable[..., Any], params: Any, stats: Any, batch: Any) -> tuple[Any, Any]:
    """Returns (value, new statistics) of a loss with statistics or without."""
    value, stats = (loss(params, batch), None) if stats is None else loss(params, stats, batch)
    if jnp.shape(value) != ():
        raise ValueError(f"loss must return a scalar, got shape {jnp.shape(value)}")
    return value, stats


def check_batches(batch: Any, lower_steps: int) -> None:
    """Raises unless ``batch`` is a pair of batches of one structure."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(f"batch must be (batch_lower, batch_upper), got {type(batch).__name__}")
    lower, upper = (jax.tree.structure(b) for b in batch)
    if lower != upper:
        raise ValueError(f"batch_lower and batch_upper differ in structure: {lower}, {upper}")
    if lower_steps > 1:
        shapes = [jnp.shape(x) for x in jax.tree.leaves(batch[0])]
        if any(s[:1] != (lower_steps,) for s in shapes):
            raise ValueError(f"batch_lower needs a leading axis of {lower_steps}, got {shapes}")
