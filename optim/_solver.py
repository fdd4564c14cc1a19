"""A method that makes its own steps, as a pair of pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

__all__ = ["Solver"]


class Solver(NamedTuple):
    """A method with its own gradient, as :func:`optim.loop.run` takes it.

    Attributes:
      init: ``init(params) -> state``.
      step: ``step(state, batch) -> (state, metrics)``.
    """

    init: Callable[[Any], Any]
    step: Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]
