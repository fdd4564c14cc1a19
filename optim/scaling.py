"""Hyperparameters as functions of the size of a model and of its data."""

import warnings
from typing import Any, NamedTuple

import numpy as np

from optim import _checks

__all__ = ["StepLaw", "step_law"]

_FITTED = (2e8, 1e9)  # Non-embedding parameters of the released runs.


class StepLaw(NamedTuple):
    """What :func:`step_law` recommends.

    Attributes:
      learning_rate: Peak learning rate of AdamW; float64.
      batch_tokens: Tokens in a batch; float64.
    """

    learning_rate: Any
    batch_tokens: Any


def step_law(n_params: Any, n_tokens: Any) -> StepLaw:
    r"""Peak learning rate and batch size of a language model, by the Step Law.

    .. math::
      \eta = 1.79\, N^{-0.713} D^{0.307}, \qquad B = 0.58\, D^{0.571}

    Args:
      n_params: Non-embedding parameters N, > 0; may be an array.
      n_tokens: Training tokens D, > 0; may be an array.

    Returns:
      The :class:`StepLaw`: learning rate and tokens of a batch, of the shape of the arguments.

    Raises:
      ValueError: If an argument is not positive.

    Warns:
      UserWarning: If N lies outside of 2e8 to 1e9, the sizes of the runs that the law was fitted
        to.

    Example:
      >>> import optim
      >>> rate, tokens = optim.scaling.step_law(n_params=4e8, n_tokens=8e9)
      >>> f"{rate:.2e}", round(tokens)
      ('1.44e-03', 261874)

    References:
      Li et al., Predictable Scale: Part I, Step Law, 2025, https://arxiv.org/abs/2503.04715
    """
    _checks.number("n_params", n_params, 0, open_low=True, array=True)
    _checks.number("n_tokens", n_tokens, 0, open_low=True, array=True)
    n, d = np.asarray(n_params, np.float64), np.asarray(n_tokens, np.float64)
    low, high = _FITTED
    if np.any((n < low) | (n > high)):
        warnings.warn(
            f"n_params: the Step Law was fitted to {low:.0e} to {high:.0e} parameters, got "
            f"{n_params}: this is an extrapolation",
            stacklevel=2,
        )
    return StepLaw(1.79 * n**-0.713 * d**0.307, 0.58 * d**0.571)
