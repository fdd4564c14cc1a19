"""Checks of arguments and leaves: one form of message for every optimizer."""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NO_PARAMS = "params must be passed to update: tx.update(grads, state, params)"


def number(
    name: str,
    value: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    below: bool = False,
    schedule: bool = False,
) -> None:
    """Raises ``ValueError`` unless ``value`` is a number in ``[low, high]``.

    Device arrays pass unread (they may be traced, as under ``optax.inject_hyperparams``), but they
    must be scalars.

    Args:
      name: Name of the argument.
      value: Its value.
      low: Smallest allowed value.
      high: Largest allowed value.
      below: Excludes ``high`` itself.
      schedule: Whether a function of the step count is allowed too.

    Example:
      >>> number("b1", 0.9, 0, 1, below=True)
      >>> number("delta", -1.0, 0)
      Traceback (most recent call last):
      ValueError: delta must be >= 0, got -1.0
    """
    if schedule and callable(value):
        return
    if isinstance(value, jax.Array) and value.ndim == 0:
        return
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if high is not None:
        rule = f"in [{low:g}, {high:g}{')' if below else ']'}"
    else:
        rule = "finite" if low is None else f">= {low:g}"
    if isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool):
        x = float(value)
        above_low = low is None or x >= low
        under_high = high is None or (x < high if below else x <= high)
        if above_low and under_high and math.isfinite(x):
            return
        raise ValueError(f"{name} must be {rule}, got {value}")
    kind = "a number or a schedule" if schedule else "a number"
    got = f"an array of shape {value.shape}" if hasattr(value, "shape") else repr(value)
    raise ValueError(f"{name} must be {kind}, {rule}, got {got}")


def concrete(value: Any) -> bool:
    """Whether ``value`` is a number of Python or numpy, which can be compared."""
    return not isinstance(value, jax.Array)


def flag(name: str, value: Any) -> None:
    """Raises ``ValueError`` unless ``value`` is a bool."""
    if not isinstance(value, bool | np.bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def float_dtype(name: str, dtype: Any) -> None:
    """Raises ``ValueError`` unless ``dtype`` is ``None`` or a real floating-point dtype."""
    if dtype is None:
        return
    try:
        if jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
            return
    except TypeError:
        pass
    raise ValueError(f"{name} must be None or a floating-point dtype, got {dtype!r}")


def real_leaf(path: tuple, leaf: Any) -> None:
    """Raises ``ValueError`` with the path of a complex leaf."""
    if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
        raise ValueError(
            f"leaf {jax.tree_util.keystr(path)} is complex ({jnp.result_type(leaf)}): wrap the "
            "optimizer in optax.contrib.split_real_and_imaginary"
        )


def gradient(path: tuple, g: Any) -> None:
    """Raises ``ValueError`` with the path of a gradient that is not real and floating-point."""
    real_leaf(path, g)
    if not jnp.issubdtype(jnp.result_type(g), jnp.floating):
        raise ValueError(
            f"leaf {jax.tree_util.keystr(path)}: the gradient is {jnp.result_type(g)}, expected a "
            "floating-point dtype, or None for a leaf that is not trained"
        )
