"""What a gradient transformation does with its inputs, read off its jaxpr."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import Literal

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


def late_direction(update: Callable[..., Any], g: Any, state: Any) -> Callable[..., Any] | None:
    """Splits ``u, new = update(g, state)``: a function ``(g, state, new) -> u`` that reads scalars
    of ``state`` alone, or None if there is none. Adam's direction is one of its new moments;
    Lion's is not one of its new momentum."""
    closed = jax.make_jaxpr(update)(g, state)
    jaxpr = closed.jaxpr
    u, *new = jaxpr.outvars
    kept = [i for i, v in enumerate(new) if not isinstance(v, Literal)]
    known = [new[i] for i in kept]
    needed, eqns = {v for v in [u] if not isinstance(v, Literal)}.difference(known), []
    for eqn in reversed(jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            eqns.insert(0, eqn)
            read = {v for v in eqn.invars if not isinstance(v, Literal)}
            needed |= read.difference(known)
    if any(v in needed and v.aval.shape for v in jaxpr.invars[1:]):
        return None
    rest = jaxpr.replace(invars=jaxpr.invars + known, outvars=[u], eqns=eqns)

    def direction(g, state, new_state):
        new_leaves = jax.tree.leaves(new_state)
        args = *jax.tree.leaves((g, state)), *(new_leaves[i] for i in kept)
        return jax.core.eval_jaxpr(rest, closed.consts, *args)[0]

    return direction
