"""Leaf by leaf over a gradient tree and the trees of an optimizer's state."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optim import _checks, _paths


def zeros(params: optax.Params, dtype: Any = None) -> optax.Params:
    """Returns zeros like ``params``, in ``dtype`` if given, sharded as they are."""

    def zero(path, p):
        _checks.real_leaf(path, p)
        return jnp.zeros_like(p, dtype=dtype)

    return jax.tree_util.tree_map_with_path(zero, params)


def scalar_zero(params: optax.Params, dtype: Any) -> jax.Array:
    """Returns a zero that is each device's own under ``jax.shard_map`` where the params are."""
    return jnp.asarray(
        sum(jnp.zeros_like(p, dtype=dtype).sum() for p in jax.tree.leaves(params)), dtype
    )


def map_unzip(
    f: Callable[..., tuple], outputs: int, updates: optax.Updates, *trees: Any
) -> tuple[Any, ...]:
    """Returns the ``outputs`` trees of ``f(path, g, *leaves) -> (out, *state)`` over all leaves.

    The last ``outputs - 1`` of ``trees`` are state: where a gradient is ``None`` they stay as they
    are and the first output is ``None``, so parameters without a gradient do not move. Gradients of
    numpy and Python are arrays of JAX to ``f``.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(updates, is_leaf=lambda x: x is None)
    columns = [treedef.flatten_up_to(tree) for tree in trees]
    results = []
    for i, (path, g) in enumerate(paths):
        leaves = [column[i] for column in columns]
        if g is None:
            results.append((None, *leaves[len(leaves) - outputs + 1 :]))
        else:
            results.append(f(path, as_array(g), *leaves))
    return tuple(treedef.unflatten([r[k] for r in results]) for k in range(outputs))


def as_array(x: Any) -> Any:
    """Returns ``x`` as an array of JAX of no weak dtype; float0, which has no numbers, as it is."""
    if not isinstance(x, jax.Array):
        return x if jnp.result_type(x) == jax.dtypes.float0 else jnp.asarray(x, jnp.result_type(x))
    return jnp.asarray(x, x.dtype) if x.weak_type else x


def check_gradient(path: tuple, g: jax.Array, *leaves: jax.Array) -> None:
    """Raises ``ValueError`` with the path where ``g`` is no real float or of another shape."""
    _checks.gradient(path, g)
    for x in leaves:
        if jnp.shape(x) != jnp.shape(g):
            raise ValueError(
                f"leaf {jax.tree_util.keystr(path)}: the gradient has shape {jnp.shape(g)}, the "
                f"parameter or its state {jnp.shape(x)}"
            )


def wide_dtype(x: Any) -> Any:
    """Returns the dtype of arithmetic with a float or complex ``x``: its own, 32 bits at least."""
    dtype = jnp.result_type(x)
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def widen(*arrays: jax.typing.ArrayLike) -> list[jax.Array]:
    """Returns the arrays in their common dtype, float32 at least."""
    double = any(jnp.result_type(x) == np.float64 for x in arrays)
    return [jnp.asarray(x, np.float64 if double else np.float32) for x in arrays]


@jax.custom_jvp
def root(x: jax.Array) -> jax.Array:
    """The square root; its derivative at 0 is 0, not infinite, as moments and weights start there.

    Example:
      >>> import jax
      >>> jax.grad(root)(0.0), jax.grad(root)(4.0)
      (Array(0., dtype=float32, weak_type=True), Array(0.25, dtype=float32, weak_type=True))
    """
    return jnp.sqrt(x)


@root.defjvp
def _root_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    y = root(x)
    return y, jnp.where(y > 0, t / (2 * jnp.where(y > 0, y, 1)), jnp.zeros_like(t))


def scalar(x: Any, dtype: Any) -> Any:
    """Returns a number of Python as it is, an array in ``dtype``."""
    return jnp.asarray(x, dtype) if isinstance(x, jax.Array | np.ndarray | np.generic) else x


def _is_wide(x: Any) -> bool:
    dtype = getattr(x, "dtype", np.float64)
    return not jnp.issubdtype(dtype, jnp.floating) or jnp.finfo(dtype).bits >= 32


def decay_rate(decay: Any, dtype: Any) -> Any:
    """Returns a decay rate in [0, 1) for arithmetic in ``dtype``.

    ``optax.inject_hyperparams`` casts rates to the dtype of the parameters, and in 16 bits 0.999 is
    rounded to 1. Of the numbers below 1 that are, the middle one is taken: 0.99902 for bfloat16.
    """
    rate = scalar(decay, dtype)
    if _is_wide(decay):
        return rate
    below = 1 - float(jnp.finfo(decay.dtype).epsneg) / 4
    return jnp.where(rate == 1, jnp.asarray(below, dtype), rate)


def check_rate(name: str, decay: Any) -> None:
    """Raises ``ValueError`` unless ``decay`` is in [0, 1), as :func:`decay_rate` takes it."""
    _checks.number(
        name, decay if _is_wide(decay) else decay_rate(decay, np.float32), 0, 1, open_high=True
    )


def bias_correction(decay: Any, count: jax.typing.ArrayLike, dtype: Any) -> jax.Array:
    """Returns ``1 - decay**count``, exact to rounding also where ``decay**count`` is near 1."""
    if isinstance(decay, float | int):
        # In double precision: the logarithm of float32(0.999) is off by 1e-5 of its value.
        log = jnp.asarray(math.log(decay) if decay > 0 else -math.inf, dtype)
    else:
        log = jnp.log(jnp.asarray(decay, dtype))
    return -jnp.expm1(log * jnp.asarray(count, dtype))


def epsilon(eps: Any, dtype: Any) -> Any:
    """Returns an epsilon for arithmetic in ``dtype``; 1e-8 where a type that lacks it has zero."""
    wide = scalar(eps, dtype)
    if wide is eps or _is_wide(eps) or jnp.finfo(eps.dtype).smallest_subnormal < 1e-8:
        return wide
    return jnp.maximum(wide, jnp.asarray(1e-8, dtype))


def add_decayed_weights(
    weight_decay: optax.ScalarOrSchedule, mask: Any = None
) -> optax.GradientTransformation:
    """``optax.add_decayed_weights`` with the masks of this package and ``None`` gradients.

    The updates keep their dtypes, which there a schedule widens to float32 or float64.
    """
    nothing = _checks.is_zero(weight_decay)

    def init_fn(params):
        resolve_mask(mask, params)
        if callable(weight_decay):
            return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))
        return optax.EmptyState()

    def update_fn(updates, state, params=None):
        if params is None:
            raise ValueError(_checks.NO_PARAMS)
        if nothing:
            return updates, state
        decay = weight_decay
        if callable(weight_decay):
            decay = weight_decay(state.count)
            state = optax.ScaleByScheduleState(jnp.asarray(optax.safe_increment(state.count)))

        def add(path, g, p, decays):
            check_gradient(path, g, p)
            if not decays:
                return (g,)
            u, wide = widen(g, p)
            return ((u + jnp.asarray(decay, u.dtype) * wide).astype(jnp.result_type(g)),)

        return map_unzip(add, 1, updates, params, resolve_mask(mask, params))[0], state

    return optax.GradientTransformation(init_fn, update_fn)


def resolve_mask(mask: Any, params: optax.Params) -> Any:
    """Returns the tree of bools, like ``params``, that says which leaves decay."""
    decays = _paths.resolve("mask", True if mask is None else mask, params, whole=True)
    return jax.tree.unflatten(jax.tree.structure(params), decays)


def checked(
    tx: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """Checks gradients against the parameters before ``tx`` sees them."""

    def update_fn(updates, state, params=None, **extra_args):
        if params is not None:
            map_unzip(lambda path, g, p: (check_gradient(path, g, p),), 1, updates, params)
        return tx.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)


def on_auto_axes(f: Callable[..., Any]) -> Callable[..., Any]:
    """Returns ``f`` with shardings left to the compiler on explicit axes of a mesh.

    ``f`` takes a tree of arrays; an output of the shape of a leaf is sharded as that leaf, others
    are replicated.
    """

    def g(tree):
        leaves = jax.tree.leaves(tree)
        specs = {jnp.shape(x): jax.typeof(x).sharding.spec for x in leaves}
        if not any(axis for spec in specs.values() for axis in spec):
            return f(tree)
        whole = jax.sharding.PartitionSpec()
        like = jax.eval_shape(
            f, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
        )
        out = jax.tree.map(lambda y: specs.get(y.shape, whole) if y.ndim else whole, like)
        return jax.sharding.auto_axes(f, out_sharding=out)(tree)

    return g
