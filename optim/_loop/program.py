"""The compiled program of a loop: one step, or as many as a device call makes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from optim import _checks
from optim._loop.inputs import kind_of, shown, stack
from optim._loop.placement import spread

CONVOLUTIONS = ("default", "xla")  # See compiler_options.


@functools.lru_cache(maxsize=32)
def traced_step(step, prepare, vectorized, shared):
    """Returns the jitted ``one(state, data, inputs, key, t) -> (state, metrics)``.

    What the step returns is checked while it is traced: once for every kind of state and batch.
    """

    def one(state, data, inputs, key, t):
        batch = inputs
        if prepare is not None:
            batch = prepare(data, inputs, key if key is None else jax.random.fold_in(key, t))
        new, metrics = pair_of(step(state, batch))
        check_same(state, new)
        check_metrics(metrics)
        return new, metrics

    if vectorized:
        one = jax.vmap(one, in_axes=(0, None, None if shared else 0, 0, None))
    return jax.jit(one)


def pair_of(returned) -> tuple[Any, dict[str, Any]]:
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise ValueError(
            f"step must return the pair (state, metrics), got {jax.tree.structure(returned)}"
        )
    return returned[0], returned[1]


def check_metrics(metrics) -> None:
    if not isinstance(metrics, dict):
        raise ValueError(f"step must return metrics as a dict of scalars, got {shown(metrics)}")
    for name, value in metrics.items():
        if not isinstance(name, str):
            raise ValueError(f"metrics must have strings as names, got {name!r}")
        if kind_of(value)[0] != ():
            raise ValueError(
                f"metrics must be a flat dict of scalars, got {shown(value)} for {name!r}"
            )


def check_same(before, after) -> None:
    old, new = jax.tree.structure(before), jax.tree.structure(after)
    if old != new:
        raise ValueError(f"step changed the structure of the state from {old} to {new}")
    pairs = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    for (path, x), y in pairs:
        if kind_of(x) != kind_of(y):
            name = jax.tree_util.keystr(path)
            raise ValueError(f"step changed state{name} from {shown(x)} to {shown(y)}")


def slow_in_a_loop(one, state, data, inputs, key) -> bool:
    """Whether XLA:CPU is to run gradients of convolutions, which are slow inside of a loop."""
    if jax.default_backend() != "cpu":
        return False
    jaxpr = one.trace(state, data, inputs, key, np.uint32(0)).jaxpr
    return "conv_general_dilated" in str(jaxpr)


@functools.lru_cache(maxsize=32)
def compile_steps(one, scan, length, mesh, vectorized, shared, convolutions):
    """Returns ``call(state, data, inputs, key, t) -> (state, rows)`` for a list of inputs."""

    def many(state, data, inputs, key, t, n):
        def body(i, carry):
            state, rows = carry
            at_i = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 0, False), inputs)
            state, metrics = one(state, data, at_i, key, t + i)
            put = jax.lax.dynamic_update_index_in_dim
            return state, {k: put(rows[k], v, i, 0) for k, v in metrics.items()}

        first = jax.tree.map(lambda x: x[0], inputs)
        _, shapes = jax.eval_shape(one, state, data, first, key, t)
        rows = {k: buffer_of(length, s) for k, s in shapes.items()}
        return jax.lax.fori_loop(np.uint32(0), n, body, (state, rows))

    @functools.lru_cache(maxsize=4)
    def compiled(fun, layout):
        options = compiler_options(convolutions)
        if layout is None:
            return jax.jit(fun, donate_argnums=0, compiler_options=options)
        # The state keeps its layout from call to call; metrics are whole on every process.
        out = jax.tree.unflatten(*layout), NamedSharding(mesh, PartitionSpec())
        return jax.jit(fun, donate_argnums=0, out_shardings=out, compiler_options=options)

    def call(state, data, inputs, key, t):
        layout = None
        if mesh is not None:
            leaves, tree = jax.tree.flatten(state)
            layout = tree, tuple(x.sharding for x in leaves)
        axis = None if vectorized and shared else "data"
        if scan:
            n = np.uint32(len(inputs))
            chunk = stack(inputs + inputs[-1:] * (length - len(inputs)))
            chunk = spread(chunk, mesh, (None, axis), whole=vectorized)
            return compiled(many, layout)(state, data, chunk, key, np.uint32(t), n)
        rows, fun = [], compiled(one, layout)
        for i, x in enumerate(inputs):
            x = spread(x, mesh, (axis,), whole=vectorized)
            state, metrics = fun(state, data, x, key, np.uint32(t + i))
            rows.append(metrics)
        return state, rows

    return call


def buffer_of(length, one) -> jax.Array:
    """Zeros for the metrics of a call; on explicit axes of a mesh sharded as one metric is."""
    where, zeros = one.sharding, jnp.zeros((length, *one.shape), one.dtype)
    if where is None or AxisType.Explicit not in where.mesh.axis_types:
        return zeros
    # Not device=: from jax 0.12 on, that makes a replicated array without a mesh.
    return jax.sharding.reshard(zeros, NamedSharding(where.mesh, PartitionSpec(None, *where.spec)))


def rows_of(metrics, n) -> dict[str, np.ndarray]:
    """Metrics of ``n`` steps as arrays: cut from the buffer of a loop, or stacked from a list."""
    if isinstance(metrics, list):
        return {k: np.stack([row[k] for row in metrics]) for k in metrics[0]}
    return {k: v[:n] for k, v in metrics.items()}


@functools.cache
def compiler_options(convolutions: str = "default") -> dict[str, str] | None:
    """Returns the options with which the loop compiles a step, for a ``jax.jit`` of your own.

    On CPU it is a schedule that keeps few temporaries. XLA's own begins all independent parts of a
    step at once: a method that takes six gradients then holds six, and is a few percent slower.

    Args:
      convolutions: From jax 0.10 on XLA leaves convolutions on a CPU to the library YNNPACK. With
        ``"xla"`` its own code runs them, which takes about half the time for batches of images,
        and rounds in another way. Matrix products stay with the library.

    Returns:
      The options, or ``None`` where there are none: on accelerators and in other versions of XLA.

    Raises:
      ValueError: For another value of ``convolutions``.

    Example:
      >>> import jax, optim
      >>> step = jax.jit(lambda x: x + 1, compiler_options=optim.loop.compiler_options())
      >>> int(step(1))
      2
    """
    _checks.choice("convolutions", convolutions, CONVOLUTIONS)
    if jax.default_backend() != "cpu":
        return None
    wanted = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    if convolutions == "xla":  # What is left to the library: products, one by one.
        wanted["xla_cpu_experimental_ynn_fusion_type"] = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    return {name: value for name, value in wanted.items() if _is_known(name, value)} or None


def _is_known(name: str, value: str) -> bool:
    """Whether this version of XLA has the option."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
