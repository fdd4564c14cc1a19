"""How often a forward pass applies each kernel, read from the program that JAX makes of it."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend

from bilevel.pruning import masks as masks_lib

__all__ = ["SAME", "output_positions"]

# What a kernel may pass through and still be the same numbers.
SAME = {
    "reshape", "transpose", "convert_element_type", "copy", "squeeze", "expand_dims", "rev",
    "sharding_constraint", "stop_gradient", "optimization_barrier",
}  # fmt: skip


def output_positions(forward: Callable[..., Any], params: Any, *inputs: Any) -> dict[str, int]:
    r"""Returns at how many output positions one example's forward pass applies each kernel.

    It is the number of multiply-adds divided by the kernel's size: 1 for a dense layer, height
    times width of its output for a convolution, the length for a layer of a transformer; of a
    kernel that stacks layers, the sum over its layers divided by their number. The program of
    ``forward`` is read, not run: shapes are enough.

    Args:
      forward: ``forward(params, *inputs)``.
      params: Parameters.
      *inputs: Other arguments, with a batch of one example.

    Returns:
      Path of a kernel -> positions, for the arrays that a product or a convolution reads.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> forward = lambda params, x: x @ params["w"]
      >>> bilevel.pruning.output_positions(forward, {"w": jnp.ones((3, 4))}, jnp.ones((5, 3)))
      {'w': 5}
    """
    closed = jax.make_jaxpr(forward)(params, *inputs)
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    names = [masks_lib.path_name(path) for path, _ in flat]
    sizes = dict(zip(names, (math.prod(jax.numpy.shape(x)) for _, x in flat), strict=True))
    work = dict.fromkeys(names, 0)
    known = [*names, *[None] * (len(closed.jaxpr.invars) - len(names))]
    _walk(closed.jaxpr, known, 1, work)
    return {name: -(-n // sizes[name]) for name, n in work.items() if n}


def _walk(jaxpr: Any, known: list[str | None], times: int, work: dict[str, int]) -> None:
    """Adds the multiply-adds of ``jaxpr``, run ``times`` times, to those of the kernels it reads.

    ``known`` holds the paths of the kernels among its inputs.
    """
    owner: dict[Any, str | None] = dict(zip(jaxpr.invars, known, strict=True))

    def of(var):
        return None if isinstance(var, jax.extend.core.Literal) else owner.get(var)

    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        kernels = [of(v) for v in eqn.invars]
        if name in ("dot_general", "conv_general_dilated"):
            size = math.prod(eqn.outvars[0].aval.shape)
            if name == "dot_general":
                (axes, _), _ = eqn.params["dimension_numbers"]
                size *= math.prod(eqn.invars[0].aval.shape[i] for i in axes)
            else:
                kernel = eqn.invars[1].aval.shape
                size *= math.prod(kernel) // kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
            for kernel in kernels:
                if kernel is not None:
                    work[kernel] += times * size
        elif name in SAME and kernels:
            owner[eqn.outvars[0]] = kernels[0]
        else:
            for inner in _inside(eqn.params):
                # The last inputs of an equation are those of the program inside it.
                n = len(inner.invars)
                given = kernels[len(kernels) - n :] if n <= len(kernels) else [None] * n
                _walk(inner, given, times * eqn.params.get("length", 1), work)


def _inside(params: Any) -> list[Any]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "jaxpr"):
                item = item.jaxpr
            if hasattr(item, "eqns"):
                found.append(item)
    return found
