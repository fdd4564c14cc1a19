"""Whether a gradient transformation treats every entry of a tensor by itself."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

# One entry out for one entry in, all entries alike. A primitive that is not here counts as mixing.
_ELEMENTWISE = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp
    convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor
    ge gt igamma igammac integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg
    nextafter not or polygamma pow reduce_precision rem round rsqrt select_n sign sin sinh sqrt
    square stop_gradient sub tan tanh xor zeta
"""
# They do what the programs inside of them do.
_CALLS = "checkpoint closed_call cond core_call custom_jvp_call custom_vjp_call jit pjit remat"
_KNOWN, _NESTED = frozenset(_ELEMENTWISE.split()), frozenset(_CALLS.split())
_SHAPES = ((3, 5), (5, 2, 3), (7,))


def is_elementwise(inner: optax.GradientTransformationExtraArgs) -> bool:
    """Whether ``inner`` on a tensor equals ``inner`` on any rearrangement of its entries.

    Then tensors of different shapes may share one flat buffer. The answer is read off the program
    of ``inner`` and errs on the safe side: it is yes only if all primitives are known to be
    elementwise, and if tensors of other shapes run the same program with the same constants.

    Args:
      inner: Any transformation.

    Returns:
      Whether it is known to be elementwise; ``False`` if it cannot be traced on a single array
      because it needs other arguments or refuses its shape.

    Raises:
      Exception: What ``inner`` raises, unless it is a ``TypeError`` or a ``ValueError``.
    """
    programs = []
    for shape in _SHAPES:
        leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
        try:
            closed = jax.make_jaxpr(_first_step(inner))(leaf, leaf)
        except (TypeError, ValueError):
            return False
        if any(x.shape not in ((), shape) for x in closed.out_avals):
            return False
        program = list(_program(closed, shape))
        if None in program:
            return False
        programs.append(program)
    return programs[0] == programs[1] == programs[2]


def _first_step(inner: optax.GradientTransformationExtraArgs) -> Callable[..., Any]:
    def step(params, grads):
        state = inner.init(params)
        return state, inner.update(grads, state, params)

    return step


def _program(closed: Any, shape: tuple[int, ...]) -> Iterator[tuple[Any, ...] | None]:
    """The primitives of a jaxpr with their constants; ``None`` where one may mix entries."""
    for const in closed.consts:
        yield ("constant", _value(const)) if jnp.ndim(const) == 0 else None
    for eqn in closed.jaxpr.eqns:
        name = eqn.primitive.name
        variables = [*eqn.invars, *eqn.outvars]
        inside = [
            x
            for x in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "consts"))
            if hasattr(x, "consts")
        ]
        alone = all(v.aval.shape in ((), shape) for v in variables)
        known = name in _KNOWN or (name in _NESTED and inside)
        literals = [_value(v.val) for v in eqn.invars if hasattr(v, "val")]
        yield (name, *literals) if alone and (known or _broadcasts(eqn)) else None
        for program in inside:
            yield from _program(program, shape)


def _value(x: Any) -> Any:
    return id(x) if isinstance(x, jax.core.Tracer) else np.asarray(x).item()


def _broadcasts(eqn: Any) -> bool:
    # A scalar becomes a tensor; a tensor stays what it is.
    return eqn.primitive.name == "broadcast_in_dim" and not (
        eqn.invars[0].aval.shape and eqn.invars[0].aval.shape != eqn.outvars[0].aval.shape
    )
