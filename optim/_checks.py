"""Checks of arguments and leaves: one meaning and one form of message for the whole code.

A number may be one of Python, of numpy or of JAX, a 0-d array included, and is checked by its
value wherever it has one; a traced number passes. NaN, bools, strings and complex numbers are never
numbers here, and an infinity is one only where the argument says so.
"""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

NO_PARAMS = "params must be passed to update: tx.update(grads, state, params)"


def number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    infinite: bool = False,
    array: bool = False,
    schedule: bool = False,
    transform: bool = False,
) -> None:
    """Raises ``ValueError`` unless ``value`` is a number between ``low`` and ``high``.

    Args:
      name: Name of the argument.
      value: Its value.
      low: Smallest allowed value.
      high: Largest allowed value.
      open_low: Excludes ``low`` itself.
      open_high: Excludes ``high`` itself.
      infinite: Allows infinities, inside the bounds.
      array: Allows arrays of any shape, of which every entry is checked.
      schedule: Allows a function of the step count, which is not called here.
      transform: Allows an optax transform.

    Example:
      >>> number("b1", 0.9, 0, 1, open_high=True)
      >>> number("delta", -1.0, 0)
      Traceback (most recent call last):
      ValueError: delta must be >= 0, got -1.0
    """
    if transform and isinstance(value, optax.GradientTransformation):
        return
    if schedule and callable(value):
        return
    rule = _interval(low, high, open_low, open_high, infinite)
    if not _real(value, array):
        kind = "a finite number" if rule == "finite" else "a number"
        kind += " or a schedule" * schedule + " or an optax transform" * transform
        limits = "" if rule in ("", "finite") else f", {rule}"
        raise ValueError(f"{name} must be {kind}{limits}, got {_shown(value)}")
    if isinstance(value, jax.core.Tracer):
        return
    x = _float64(value)
    inside = (x > low if open_low else x >= low) & (x < high if open_high else x <= high)
    if not infinite and np.any(np.isinf(x) & inside):
        rule = "finite" if rule == "finite" else f"{rule} and finite"
    elif np.all(inside):
        return
    if x.ndim:  # Of an array the first entry that is wrong.
        value = x[~inside | (np.isinf(x) & (not infinite))][0]
    raise ValueError(f"{name} must be {rule or 'a number'}, got {value}")


def count(name: str, value: Any, low: int = 1) -> None:
    """Raises ``ValueError`` unless ``value`` is an integer of at least ``low``.

    A whole float is no integer: 3.0 steps are more often a wrong division than meant.

    Args:
      name: Name of the argument.
      value: Its value.
      low: Smallest allowed value.

    Example:
      >>> count("steps", 3)
      >>> count("steps", 3.0)
      Traceback (most recent call last):
      ValueError: steps must be an integer >= 1, got 3.0
    """
    whole = _real(value) and (
        isinstance(value, int) or jnp.issubdtype(getattr(value, "dtype", float), jnp.integer)
    )
    if not whole or (not isinstance(value, jax.core.Tracer) and value < low):
        raise ValueError(f"{name} must be an integer >= {low}, got {_shown(value)}")


def integer(name: str, value: Any) -> None:
    """Raises ``ValueError`` unless ``value`` is an integer, not a bool."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be an integer, got {value!r}")


def choice(name: str, value: Any, known: Iterable[str], other: str = "") -> None:
    """Raises ``ValueError`` unless ``value`` is one of the names ``known``; says the nearest.

    Args:
      name: Name of the argument.
      value: Its value.
      known: The allowed names.
      other: What else the caller takes, for the message: ``"a function"``.

    Example:
      >>> choice("norm", "L2", ["l1", "l2"])
      Traceback (most recent call last):
      ValueError: norm must be one of l1, l2, got 'L2'; nearest: l2
    """
    known = list(known)
    if isinstance(value, str) and value in known:
        return
    rule = f"one of {', '.join(known)}" + (f" or {other}" if other else "")
    hint = f"; {nearest(value, known)}" if isinstance(value, str) else ""
    raise ValueError(f"{name} must be {rule}, got {value!r}{hint}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the end of a message about an unknown name: the most similar known ones.

    Args:
      name: The unknown name.
      known: The known names.

    Returns:
      ``"nearest: a, b"`` with one to three names, or ``"there are none"``.

    Example:
      >>> nearest("adm", ["lion", "adam", "sgd"])
      'nearest: adam'
    """
    known = list(known)
    alike = difflib.get_close_matches(name, known, n=3)
    alike = alike or difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"nearest: {', '.join(alike)}" if alike else "there are none"


def _interval(low, high, open_low, open_high, infinite) -> str:
    if low > -math.inf and high < math.inf:
        return f"in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    if low > -math.inf:
        return f"{'>' if open_low else '>='} {low:g}"
    if high < math.inf:
        return f"{'<' if open_high else '<='} {high:g}"
    return "" if infinite else "finite"


def _real(value: Any, array: bool = False) -> bool:
    """Whether ``value`` is a real number, traced or not, or (if allowed) an array of such."""
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        real = jnp.issubdtype(value.dtype, jnp.integer) or jnp.issubdtype(value.dtype, jnp.floating)
        return real and (array or value.ndim == 0)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _float64(value: Any) -> np.ndarray:
    try:
        return np.asarray(value, np.float64)
    except OverflowError:  # An integer of Python beyond the largest float.
        return np.asarray(math.inf if value > 0 else -math.inf)


def _shown(value: Any) -> str:
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        return f"an array of shape {value.shape}" if value.shape else str(value)
    return repr(value)


def is_zero(value: Any) -> bool:
    """Whether ``value`` is the number 0, known without tracing."""
    return isinstance(value, int | float | np.generic) and bool(value == 0)


def transform(name: str, value: Any) -> None:
    """Raises ``ValueError`` unless ``value`` is an optax transform.

    As in optax, whatever has ``init`` and ``update`` is one: ``optax.MultiSteps`` is no subclass.
    """
    known = callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))
    if isinstance(value, type) or not known:
        raise ValueError(f"{name} must be an optax.GradientTransformation, got {value!r}")


def takes(function: Callable[..., Any], arguments: int, otherwise: bool = True) -> bool:
    """Returns whether ``function`` can be called with so many positional arguments.

    Args:
      function: Anything that can be called.
      arguments: Their number.
      otherwise: The answer about a function whose signature is not known.

    Example:
      >>> takes(lambda path, leaf: True, 2), takes(lambda path, leaf: True, 1)
      (True, False)
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return otherwise
    try:
        signature.bind(*range(arguments))
    except TypeError:
        return False
    return True


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
