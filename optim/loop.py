"""The loop that runs any step: training, bilevel solvers, pruning, one run or many at once.

A step is a pure function ``step(state, batch) -> (state, metrics)``. The loop compiles several
steps into one device call, donates the state, shards the batch over a mesh, folds the step number
into the key, and hands metrics out one call late, so that the device never waits for the host.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from optim import _checks

__all__ = ["NonFiniteError", "compiler_options", "prefers_vmap", "run"]

State = Any
Batch = Any
Inputs = Any
Metrics = dict[str, Any]
Step = Callable[[State, Batch], tuple[State, Metrics]]
Batches = Callable[[int], Iterator[Inputs]]
Prepare = Callable[[Any, Inputs, Any], Batch]

_MOST_STEPS = 2**32 - 1  # What a key can be folded with.


class NonFiniteError(FloatingPointError):
    """A metric or a leaf of the state became NaN or infinite.

    In a population it is raised once no run is left that is finite, and is about the last one.

    Attributes:
      step: The first step at which it happened, counted from 1.
      metric: Name of the metric, or path of the leaf, such as ``state['params']['w']``.
      value: Value of the metric; ``None`` for a leaf.
    """

    def __init__(self, step: int, metric: str, value: float | None = None):
        self.step, self.metric, self.value = step, metric, value
        if value is None:
            super().__init__(
                f"{metric} is not finite after step {step}, though every metric of that step is"
            )
        else:
            hint = " (one that is infinite on purpose belongs in the state)"
            hint = hint if math.isinf(value) else ""
            super().__init__(f"{metric} is {value} at step {step}{hint}")


def run(
    step: Step,
    state: State,
    batches: Batches | Sequence[Batches] | None,
    steps: int,
    *,
    key: jax.Array | None = None,
    data: Any = None,
    prepare: Prepare | None = None,
    start: int = 0,
    mesh: Mesh | None = None,
    steps_per_call: int = 100,
    scan: bool | None = None,
    replicas: int | None = None,
    vmap: bool | None = None,
    on_metrics: Callable[[int, dict[str, np.ndarray]], None] | None = None,
    hooks: Iterable[tuple[int, Callable[[int, State], None]]] = (),
    stop: Callable[[int], bool] | None = None,
) -> State:
    r"""Runs ``step`` from step ``start`` to step ``steps``.

    .. math::
      b_t = \text{prepare}(\text{data}, \text{inputs}_t, \text{fold\_in}(\text{key}, t)), \qquad
      (s_{t+1}, \text{metrics}_t) = \text{step}(s_t, b_t)

    The result depends on the arguments alone. Device calls end at multiples of ``steps_per_call``
    and of each hook's period, counted from step 0, so a run that starts again from a state saved
    by a hook makes the same calls and gives the same bits as one that was never interrupted.

    Args:
      step: Pure function ``(state, batch) -> (state, metrics)``; metrics are a flat dict of
        scalars. Compiled once for each function object, across calls of :func:`run`.
      state: Any pytree of arrays. Its buffers are donated: use the returned state instead.
      batches: ``batches(t)`` returns an iterator over the inputs of steps ``t, t+1, ...``: pytrees
        of numpy arrays with the examples on the leading axis. In a run of several processes each
        yields its own share of the batch. With ``replicas``, a sequence gives each run its own
        order; one function is shared by all. ``None``: the inputs are ``None``.
      steps: Number of the last step, so ``steps - start`` steps are made; at most 2**32 - 1.
      key: Key of ``jax.random.key``; with ``replicas`` one for each run, shape ``(replicas,)``.
      data: Pytree that lives on the device for the whole run, such as a small data set.
      prepare: ``prepare(data, inputs, key) -> batch``, compiled into the step: gather, normalize,
        augment. Default: the inputs are the batch.
      start: Number of steps that ``state`` has behind it.
      mesh: Mesh with an axis ``'data'``. The batch is split over it and the state replicated, save
        leaves that already carry a sharding on it. With ``replicas`` the runs are split instead.
        Where the axes are explicit, as ``jax.make_mesh`` makes them, ``step`` and ``prepare`` say
        themselves how a gather out of a split array is split.
      steps_per_call: Most steps in one device call, and so between two reports of metrics.
      scan: Whether the steps of a call are one compiled loop or are dispatched one by one.
        Default: one loop, except for convolutions on CPU, whose gradients XLA runs 7 to 30 times
        slower inside a loop.
      replicas: Number of runs; every leaf of ``state`` then has them as leading axis. What differs
        between runs (seeds, learning rates) is in their states, keys and batches.
      vmap: Whether runs are vectorized, or made one after another through one compiled step.
        Default: vectorized on accelerators and over a mesh; on CPU where that pays, for states
        of up to 32768 numbers that share their batches.
      on_metrics: Called as ``on_metrics(t, values)`` with the metrics of steps ``t, t+1, ...``,
        arrays of shape ``(n,)``, or ``(n, replicas)``.
      hooks: Pairs ``(every, call)``: ``call(t, state)`` after each ``every``-th step and the last.
        The state is valid during the call only. Metrics up to step ``t`` were handed out before.
      stop: Polled as ``stop(t)`` between calls; true ends the run early.

    Returns:
      The state after step ``steps``, or after the step at which ``stop`` was true.

    Raises:
      NonFiniteError: At the first metric that is not finite, and at a leaf of the state that is
        not: a gradient may break the parameters while the loss of that step is finite. The state is
        looked at before hooks see it and at the end; in between the next loss tells. A leaf that
        is not finite at the start (a best value that begins at infinity) may stay so.
      ValueError: If an argument is out of range or of the wrong kind, the batch does not divide
        over the mesh or changes its shape, or the step changes the structure, a shape or a dtype of
        the state (the leaf is named).

    Example:
      >>> import itertools, jax.numpy as jnp, optim
      >>> def step(x, target):
      ...     return x - 0.1 * (x - target), {"loss": 0.5 * (x - target) ** 2}
      >>> batches = lambda start: itertools.repeat(np.float32(3.0))
      >>> x = optim.loop.run(step, jnp.array(0.0), batches, steps=100)
      >>> print(f"{x:.3f}")
      3.000
    """
    steps, start = _whole("steps", steps, 0), _whole("start", start, 0)
    steps_per_call = _whole("steps_per_call", steps_per_call, 1)
    if start > steps:
        raise ValueError(f"start must be in [0, steps={steps}], got {start}")
    if steps > _MOST_STEPS:
        raise ValueError(f"steps must be <= 2**32 - 1, got {steps}")
    hooks = _check_hooks(hooks)
    _check_functions(step=step, prepare=prepare, on_metrics=on_metrics, stop=stop)
    for name, flag in (("scan", scan), ("vmap", vmap)):
        if flag is not None:
            _checks.flag(name, flag)
    if vmap and replicas is None:
        raise ValueError("vmap needs replicas, the number of runs")
    if mesh is not None and not isinstance(mesh, Mesh):
        raise ValueError(f"mesh must be a jax.sharding.Mesh, got {mesh!r}")
    if mesh is not None and "data" not in mesh.axis_names:
        raise ValueError(f"mesh must have an axis 'data', got the axes {mesh.axis_names}")
    shared = batches is None or callable(batches)
    _check_key(key, replicas)
    if replicas is not None:
        _check_population(state, replicas, None if shared else batches)
        if vmap is None:
            vmap = mesh is not None or prefers_vmap(state, replicas, shared=shared)
    elif not shared:
        raise ValueError(
            f"batches must be a function of the first step, got {type(batches).__name__} (a "
            "sequence of functions with replicas)"
        )
    for one_order in (batches,) if shared else batches:
        _check_functions(batches=one_order)

    vectorized = replicas is not None and bool(vmap)
    state = _place(_own(state, (data, key)), mesh, split=vectorized)
    data = _place(_arrays("data", data), mesh)
    key = _place(key, mesh, split=vectorized)
    if replicas is None or vectorized:
        states, keys = [state], [key]
    else:
        states = [jax.tree.map(lambda x, r=r: x[r], state) for r in range(replicas)]
        keys = [None if key is None else key[r] for r in range(replicas)]
    del state
    each = replicas or 1
    alive = np.ones(each, bool)
    split_over = None if vectorized else mesh
    feeds = [_feed(f, start, split_over) for f in ([batches] * each if shared else batches)]
    if vectorized:
        feeds = feeds[:1] if shared else [map(_stack, zip(*feeds, strict=True))]
    one = _traced(step, prepare, vectorized, shared)
    call = None

    def whole() -> State:
        return _stack(states, jnp) if len(states) > 1 else states[0]

    def broken() -> list[list[str]]:
        return [leaves for s in states for leaves in _broken(s, replicas if vectorized else None)]

    def hand_out(pending) -> None:
        first, n, metrics = pending
        runs = [_rows(m, n) for m in jax.device_get(metrics)]
        values = runs[0]
        if vectorized:
            runs = [{k: v[:, r] for k, v in values.items()} for r in range(each)]
        elif replicas is not None:
            values = {k: np.stack([m[k] for m in runs], 1) for k in values}
        _drop([_bad_metric(first, m) for m in runs], alive)
        if on_metrics is not None:
            on_metrics(first, values)

    def check_state(t) -> None:
        new = [
            [leaf for leaf in now if leaf not in before]
            for now, before in zip(broken(), at_start, strict=True)
        ]
        _drop([NonFiniteError(t, leaves[0]) if leaves else None for leaves in new], alive)

    at_start = broken()  # A best value so far may begin at infinity.
    pending, t = None, start
    while t < steps:
        ends = (t + every - t % every for every in (steps_per_call, *(e for e, _ in hooks)))
        n = min(steps, *ends) - t
        metrics = []
        for r, feed in enumerate(feeds):
            inputs = list(itertools.islice(feed, n))
            if len(inputs) < n:
                raise ValueError(f"batches ended after step {t + len(inputs)}, before step {steps}")
            if call is None:
                if scan is None:
                    scan = not _slow_in_a_loop(one, states[r], data, inputs[0], keys[r])
                call = _compile(one, bool(scan), steps_per_call, mesh, vectorized, shared)
            states[r], rows = call(states[r], data, inputs, keys[r], t)
            metrics.append(rows)
        if pending is not None:
            hand_out(pending)
        pending, t = (t, n, metrics), t + n
        due = [hook for every, hook in hooks if t % every == 0 or t == steps]
        if due:
            hand_out(pending)
            check_state(t)
            pending = None
            for hook in due:
                hook(t, whole())
        if stop is not None and t < steps and stop(t):
            break
    if pending is not None:
        hand_out(pending)
        check_state(t)
    return whole()


def prefers_vmap(state: State, replicas: int, *, shared: bool) -> bool:
    """Returns whether a population runs faster vectorized than one run after another.

    Args:
      state: The population's state.
      replicas: Number of runs.
      shared: Whether the runs share their batches.

    Returns:
      ``True`` on accelerators; on CPU for small states (up to 32768 numbers per run) with shared
      batches.
    """
    if jax.default_backend() != "cpu":
        return True
    return shared and sum(x.size for x in jax.tree.leaves(state)) <= 32768 * replicas


@functools.cache
def compiler_options() -> dict[str, str] | None:
    """Returns the options with which the loop compiles a step, for a ``jax.jit`` of your own.

    On CPU it is a schedule that keeps few temporaries. XLA's own begins all independent parts of a
    step at once: a method that takes six gradients then holds six, and is a few percent slower.

    Returns:
      The options, or ``None`` where there are none: on accelerators and in other versions of XLA.

    Example:
      >>> import jax, optim
      >>> step = jax.jit(lambda x: x + 1, compiler_options=optim.loop.compiler_options())
      >>> int(step(1))
      2
    """
    options = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # Another version of XLA.
        return None
    return options


def _feed(batches, start, mesh) -> Iterator[Inputs]:
    """Inputs of one run, checked to fit the mesh and to have one shape."""
    if batches is None:
        yield from itertools.repeat(None)
    made = batches(start)
    try:
        inputs = iter(made)
    except TypeError as error:
        raise ValueError(f"batches(t) must return an iterator: {error}") from error
    first = None
    for t, x in enumerate(inputs, start + 1):
        leaves, tree = jax.tree.flatten(x)
        wrong = [leaf for leaf in leaves if not _is_numbers(leaf)]
        if wrong:
            raise ValueError(f"the batch of step {t} must hold arrays of numbers, got {wrong[0]!r}")
        kind = tree, [_kind(leaf) for leaf in leaves]
        if first is None:
            _check_divides(x, mesh)
            first = kind
        elif kind != first:
            raise ValueError(
                f"the batch of step {t} is {_tree_shown(kind)}, those before {_tree_shown(first)}: "
                "leave out or fill up a last batch that is shorter"
            )
        yield x


def _is_numbers(x) -> bool:
    """Whether ``x`` is a number or an array that a device can hold."""
    if isinstance(x, np.ndarray | np.generic):
        return x.dtype.kind in "biufc" or jnp.issubdtype(x.dtype, jnp.number)
    return isinstance(x, bool | int | float | complex) or hasattr(x, "__array__")


def _kind(x) -> tuple[Any, Any]:
    """Shape and dtype of an array or a number; of anything else its type."""
    if isinstance(x, jax.Array | np.ndarray | np.generic | int | float | complex):
        return np.shape(x), jnp.result_type(x)
    return type(x).__name__, ""


def _shown(x) -> str:
    shape, dtype = _kind(x)
    return f"{dtype}{shape}"


def _tree_shown(kind) -> str:
    tree, leaves = kind
    return str(jax.tree.unflatten(tree, [f"{dtype}{shape}" for shape, dtype in leaves]))


def _stack(trees, xp=np):
    return jax.tree.map(lambda *xs: xp.stack(xs), *trees)


@functools.lru_cache(maxsize=32)
def _traced(step, prepare, vectorized, shared):
    """Returns the jitted ``one(state, data, inputs, key, t) -> (state, metrics)``.

    What the step returns is checked while it is traced: once for every kind of state and batch.
    """

    def one(state, data, inputs, key, t):
        batch = inputs
        if prepare is not None:
            batch = prepare(data, inputs, key if key is None else jax.random.fold_in(key, t))
        new, metrics = _pair(step(state, batch))
        _check_same(state, new)
        _check_metrics(metrics)
        return new, metrics

    if vectorized:
        one = jax.vmap(one, in_axes=(0, None, None if shared else 0, 0, None))
    return jax.jit(one)


def _slow_in_a_loop(one, state, data, inputs, key) -> bool:
    """Whether XLA:CPU is to run gradients of convolutions, which are slow inside of a loop."""
    if jax.default_backend() != "cpu":
        return False
    jaxpr = one.trace(state, data, inputs, key, np.uint32(0)).jaxpr
    return "conv_general_dilated" in str(jaxpr)


@functools.lru_cache(maxsize=32)
def _compile(one, scan, length, mesh, vectorized, shared):
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
        rows = {k: _buffer(length, s) for k, s in shapes.items()}
        return jax.lax.fori_loop(np.uint32(0), n, body, (state, rows))

    @functools.lru_cache(maxsize=4)
    def compiled(fun, layout):
        options = compiler_options()
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
            chunk = _stack(inputs + inputs[-1:] * (length - len(inputs)))
            chunk = _spread(chunk, mesh, (None, axis), whole=vectorized)
            return compiled(many, layout)(state, data, chunk, key, np.uint32(t), n)
        rows, fun = [], compiled(one, layout)
        for i, x in enumerate(inputs):
            x = _spread(x, mesh, (axis,), whole=vectorized)
            state, metrics = fun(state, data, x, key, np.uint32(t + i))
            rows.append(metrics)
        return state, rows

    return call


def _buffer(length, one) -> jax.Array:
    """Zeros for the metrics of a call; on explicit axes of a mesh sharded as one metric is."""
    where, zeros = one.sharding, jnp.zeros((length, *one.shape), one.dtype)
    if where is None or AxisType.Explicit not in where.mesh.axis_types:
        return zeros
    # Not device=: from jax 0.12 on, that makes a replicated array without a mesh.
    return jax.sharding.reshard(zeros, NamedSharding(where.mesh, PartitionSpec(None, *where.spec)))


def _rows(metrics, n) -> dict[str, np.ndarray]:
    """Metrics of ``n`` steps as arrays: cut from the buffer of a loop, or stacked from a list."""
    if isinstance(metrics, list):
        return {k: np.stack([row[k] for row in metrics]) for k in metrics[0]}
    return {k: v[:n] for k, v in metrics.items()}


def _broken(state, replicas) -> list[list[str]]:
    """For each run the paths of the leaves of its state that are not finite."""
    found: list[list[str]] = [[] for _ in range(replicas or 1)]
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        if jnp.issubdtype(x.dtype, jnp.inexact):
            on_host = x.is_fully_addressable and jax.default_backend() == "cpu"  # No copy.
            finite = (np if on_host else jnp).isfinite(x)
            finite = np.asarray(finite.all(tuple(range(1 if replicas else 0, x.ndim))))
            for r in np.flatnonzero(~np.atleast_1d(finite)):
                found[r].append("state" + jax.tree_util.keystr(path))
    return found


def _drop(errors, alive) -> None:
    """Marks the runs with an error as dead; raises the error of the last one."""
    for r, error in enumerate(errors):
        if alive[r] and error is not None:
            alive[r] = False
            if not alive.any():
                raise error


def _arrays(name, tree):
    """Returns the tree with arrays for leaves; names a leaf that cannot be one."""

    def array(path, x):
        if isinstance(x, jax.Array | np.ndarray) and _is_numbers(x):
            return x
        try:
            return jnp.array(x)
        except TypeError as error:
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} must be an array, got {x!r}: keep functions "
                "and names out of it (equinox.partition and nnx.split take a model apart)"
            ) from error

    return jax.tree_util.tree_map_with_path(array, tree)


def _own(state, others):
    """Returns the state with arrays for leaves, each in a buffer of its own, as donation needs."""
    seen = {id(x) for x in jax.tree.leaves(others)}

    def own(path, x):
        if not isinstance(x, jax.Array):
            return jnp.array(x)
        if x.is_deleted():
            name = jax.tree_util.keystr(path)
            raise ValueError(f"state{name} was donated to an earlier run; pass a fresh state")
        if id(x) in seen:
            return jnp.copy(x)
        seen.add(id(x))
        return x

    return jax.tree_util.tree_map_with_path(own, _arrays("state", state))


def _place(tree, mesh, split=False):
    """Puts arrays on the mesh, replicated or split on the leading axis; placed ones stay."""
    if mesh is None:
        return jax.tree.map(jnp.asarray, tree)
    sharding = NamedSharding(mesh, PartitionSpec("data") if split else PartitionSpec())

    def put(x):
        if getattr(getattr(x, "sharding", None), "mesh", None) == mesh:
            return x
        if not mesh.is_multi_process:
            return jax.device_put(x, sharding)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                put(jax.random.key_data(x)), impl=jax.random.key_impl(x)
            )
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, tree)


def _spread(inputs, mesh, axes, whole):
    """Shards the inputs; ``whole`` says that every process holds all of them."""
    if mesh is None:
        return inputs

    def put(x):
        sharding = NamedSharding(mesh, PartitionSpec(*axes[: x.ndim]))
        if whole:
            return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
        return jax.make_array_from_process_local_data(sharding, x)

    return jax.tree.map(put, inputs)


def _whole(name, value, low) -> int:
    _checks.count(name, value, low)
    return int(value)


def _check_hooks(hooks) -> tuple:
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


def _check_functions(**functions) -> None:
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


def _check_key(key, replicas) -> None:
    if key is None:
        return
    shape = () if replicas is None else (replicas,)
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or key.shape != shape:
        each = "" if replicas is None else f" of shape {shape}, one for each run,"
        got = f"{key.dtype}{key.shape}" if hasattr(key, "dtype") else repr(key)
        raise ValueError(f"key must be a key{each} of jax.random.key, got {got}")


def _check_population(state, replicas, batches) -> None:
    _checks.count("replicas", replicas)
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        if np.shape(x)[:1] != (replicas,):
            name = jax.tree_util.keystr(path)
            raise ValueError(
                f"state{name} has shape {np.shape(x)}; its leading axis must be replicas={replicas}"
            )
    if batches is not None and len(batches) != replicas:
        raise ValueError(f"batches must have length replicas={replicas}, got {len(batches)}")


def _check_divides(inputs, mesh) -> None:
    if mesh is None:
        return
    for path, x in jax.tree_util.tree_leaves_with_path(inputs):
        size = np.shape(x)[0] * jax.process_count() if np.ndim(x) else 0
        if size % mesh.shape["data"]:
            name, devices = jax.tree_util.keystr(path), mesh.shape["data"]
            raise ValueError(
                f"a batch of {size} examples does not divide over {devices} devices"
                f" (inputs{name}): make the batch size a multiple of {devices}"
            )


def _pair(returned) -> tuple[State, Metrics]:
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise ValueError(
            f"step must return the pair (state, metrics), got {jax.tree.structure(returned)}"
        )
    return returned[0], returned[1]


def _check_metrics(metrics) -> None:
    if not isinstance(metrics, dict):
        raise ValueError(f"step must return metrics as a dict of scalars, got {_shown(metrics)}")
    for name, value in metrics.items():
        if not isinstance(name, str):
            raise ValueError(f"metrics must have strings as names, got {name!r}")
        if _kind(value)[0] != ():
            raise ValueError(
                f"metrics must be a flat dict of scalars, got {_shown(value)} for {name!r}"
            )


def _check_same(before, after) -> None:
    old, new = jax.tree.structure(before), jax.tree.structure(after)
    if old != new:
        raise ValueError(f"step changed the structure of the state from {old} to {new}")
    pairs = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    for (path, x), y in pairs:
        if _kind(x) != _kind(y):
            name = jax.tree_util.keystr(path)
            raise ValueError(f"step changed state{name} from {_shown(x)} to {_shown(y)}")


def _bad_metric(first, values) -> NonFiniteError | None:
    """The error of the first metric that is not finite, if there is one."""
    bad = {k: np.flatnonzero(~np.isfinite(v)) for k, v in values.items()}
    bad = {k: rows[0] for k, rows in bad.items() if rows.size}
    if not bad:
        return None
    name = min(bad, key=bad.__getitem__)
    return NonFiniteError(first + int(bad[name]) + 1, name, float(values[name][bad[name]]))
