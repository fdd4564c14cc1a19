"""What the loop is given: functions, hooks, keys, populations, each checked by itself."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from optim import _checks


def whole_number(name, value, low) -> int:
    _checks.count(name, value, low)
    return int(value)


def check_hooks(hooks) -> tuple:
    try:
        pairs = tuple((every, hook) for every, hook in hooks)
    except (TypeError, ValueError) as error:
        raise ValueError(f"hooks must be pairs (every, call), got {hooks!r}") from error
    for every, hook in pairs:
        _checks.count("the period of a hook", every)
        if not callable(hook):
            raise ValueError(f"hooks must be pairs (every, call), got {hook!r} for a call")
    return pairs


_ARGUMENTS = {
    "step": ("(state, batch)", 2),
    "prepare": ("(data, inputs, key)", 3),
    "batches": ("the first step", 1),
    "on_metrics": ("(t, values)", 2),
    "stop": ("the step", 1),
}


def check_functions(**functions) -> None:
    for name, fun in functions.items():
        if fun is None and name != "step":
            continue
        arguments, number = _ARGUMENTS[name]
        if not callable(fun):
            raise ValueError(f"{name} must be a function of {arguments}, got {fun!r}")
        try:
            if name != "batches":  # A step is compiled once for each function object.
                hash(fun)
        except TypeError as error:
            kind = getattr(fun, "__qualname__", type(fun).__name__)
            raise ValueError(
                f"{name} must be a hashable function, got {kind}, which holds arrays: pass a "
                "function, with the arrays in state or data"
            ) from error
        if not _checks.takes(fun, number):
            raise ValueError(f"{name} must be a function of {arguments}, {fun!r} takes others")


def check_key(key, replicas) -> None:
    if key is None:
        return
    shape = () if replicas is None else (replicas,)
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or key.shape != shape:
        each = "" if replicas is None else f" of shape {shape}, one for each run,"
        got = f"{key.dtype}{key.shape}" if hasattr(key, "dtype") else repr(key)
        raise ValueError(f"key must be a key{each} of jax.random.key, got {got}")


def check_population(state, replicas) -> None:
    _checks.count("replicas", replicas)
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        if np.shape(x)[:1] != (replicas,):
            name = jax.tree_util.keystr(path)
            raise ValueError(
                f"state{name} has shape {np.shape(x)}; its leading axis must be replicas={replicas}"
            )


def check_batches(batches, replicas) -> None:
    """Checks that the batches are a function, or with ``replicas`` one for each run."""
    if batches is None or callable(batches):
        check_functions(batches=batches)
        return
    if replicas is None:
        raise ValueError(
            f"batches must be a function of the first step, got {type(batches).__name__} (a "
            "sequence of functions with replicas)"
        )
    if len(batches) != replicas:
        raise ValueError(f"batches must have length replicas={replicas}, got {len(batches)}")
    for order in batches:
        check_functions(batches=order)


def check_mesh(mesh) -> None:
    """Checks that the mesh, if there is one, has the axis over which batches are split."""
    if mesh is None:
        return
    if not isinstance(mesh, Mesh):
        raise ValueError(f"mesh must be a jax.sharding.Mesh, got {mesh!r}")
    if "data" not in mesh.axis_names:
        raise ValueError(f"mesh must have an axis 'data', got the axes {mesh.axis_names}")


def check_runs_divide(replicas, mesh) -> None:
    """Checks that each device of the mesh gets as many of the vectorized runs."""
    devices = 1 if mesh is None else mesh.shape["data"]
    if replicas % devices:
        raise ValueError(
            f"replicas must be a multiple of the {devices} devices that the runs are split over, "
            f"got {replicas}"
        )
