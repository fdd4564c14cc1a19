"""How gradients come about, by name: backpropagation, or an estimator of ``optim.zeroth_order``."""

import inspect
from collections.abc import Callable
from typing import Any

from optim import _checks, zeroth_order
from optim.zeroth_order import Estimator


def blockwise(
    rule: str,
    shared_noise: bool = False,
    mu: float = 1e-3,
    samples: int = 1,
    two_sided: bool = True,
    distribution: str = "normal",
) -> Estimator:
    """Blocks by a regex of parameter paths, each by random directions."""
    inner = zeroth_order.rge(mu, samples, two_sided, distribution)
    return zeroth_order.blockwise(rule, inner, shared_noise=shared_noise)


def sparse(
    ratio: float = 0.5,
    period: int = 1,
    density: str = "exact",
    mu: float = 1e-3,
    samples: int = 1,
    two_sided: bool = True,
    distribution: str = "normal",
) -> Estimator:
    """A share ``ratio`` of the entries, drawn anew every ``period`` steps, stays as it is."""
    inner = zeroth_order.rge(mu, samples, two_sided, distribution)
    return zeroth_order.sparse(zeroth_order.random_mask(ratio, density), period, inner)


def hybrid(
    rule: str,
    mu: float = 1e-3,
    samples: int = 1,
    two_sided: bool = True,
    distribution: str = "normal",
) -> Estimator:
    """Backpropagation for the leaves whose path the regex ``rule`` finds."""
    return zeroth_order.hybrid(rule, zeroth_order.rge(mu, samples, two_sided, distribution))


ESTIMATORS: dict[str, Callable[..., Estimator]] = {
    "blockwise": blockwise,
    "cge": zeroth_order.cge,
    "deepzero_rge": zeroth_order.deepzero_rge,
    "forward_gradient": zeroth_order.forward_gradient,
    "hybrid": hybrid,
    "rge": zeroth_order.rge,
    "sign": zeroth_order.sign,
    "sparse": sparse,
}


def build(config: Any) -> Estimator | None:
    """Returns the estimator of ``config.gradient``; ``None`` for backpropagation.

    Args:
      config: ``{"name": ..., option: value, ...}``: ``backprop``, or a key of :data:`ESTIMATORS`
        with its arguments.

    Raises:
      ValueError: An unknown name or option (with the nearest), or an option out of its range.
    """
    options = {k: v for k, v in config.items() if v is not None}
    name = options.pop("name")
    _checks.choice("gradient.name", name, ["backprop", *ESTIMATORS])
    taken = {} if name == "backprop" else inspect.signature(ESTIMATORS[name]).parameters
    for key in options:
        if key not in taken:
            raise ValueError(f"gradient {name!r} takes no {key!r}; {_checks.nearest(key, taken)}")
    if name == "backprop":
        return None
    missing = [
        k for k, p in taken.items() if p.default is inspect.Parameter.empty and k not in options
    ]
    if missing:
        raise ValueError(f"gradient {name!r} needs gradient.{missing[0]}")
    try:
        return ESTIMATORS[name](**options)
    except ValueError as error:
        raise ValueError(f"gradient.{error}") from error
