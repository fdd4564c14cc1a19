"""What a gradient transformation does with its inputs, read off its jaxpr."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

# They keep the shape and mix the entries.
_MIXING = {"sort", "rev", "dot_general", "cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"}


class Traits(NamedTuple):
    """Whether every entry is treated alone, and whether the parameters' values are read."""

    elementwise: bool
    reads_params: bool


def traits(tx: optax.GradientTransformationExtraArgs) -> Traits:
    """Traces ``tx`` on a small matrix. What cannot be traced so is taken to be neither simple."""
    leaf = jax.ShapeDtypeStruct((3, 5), jnp.float32)
    try:
        state = jax.eval_shape(tx.init, leaf)
        closed = jax.make_jaxpr(lambda p, g, s: (tx.init(p), tx.update(g, s, p)))(leaf, leaf, state)
    except (TypeError, ValueError):  # It needs more than gradients and parameters.
        return Traits(False, True)
    jaxpr = closed.jaxpr
    params = jaxpr.invars[0]
    used = any(v is params for eqn in jaxpr.eqns for v in eqn.invars)
    return Traits(
        all(_alone(eqn) for eqn in _equations(jaxpr))
        and all(x.shape in ((), (3, 5)) for x in jax.tree.leaves(state)),
        used or any(v is params for v in jaxpr.outvars),
    )


def _equations(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def _alone(eqn: Any) -> bool:
    # A tensor stays a tensor of its shape; a scalar may become one.
    tensors = [v.aval.shape for v in eqn.invars if v.aval.shape != ()]
    out = [v.aval.shape for v in eqn.outvars]
    if eqn.primitive.name in _MIXING or any(s not in ((), (3, 5)) for s in tensors + out):
        return False
    inner_call = any(hasattr(getattr(v, "jaxpr", v), "eqns") for v in eqn.params.values())
    return inner_call or not (tensors and () in out)
