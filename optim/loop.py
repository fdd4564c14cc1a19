"""The loop that runs any step: training, bilevel solvers, pruning, one run or many at once.

A step is a pure function ``step(state, batch) -> (state, metrics)``. The loop compiles several
steps into one device call, donates the state, shards the batch over a mesh, folds the step number
into the key, and hands metrics out one call late, so that the device never waits for the host.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

__all__ = ["NonFiniteError", "compiler_options", "prefers_vmap", "run"]

State = Any
Batch = Any
Inputs = Any
Metrics = dict[str, Any]
Step = Callable[[State, Batch], tuple[State, Metrics]]
Batches = Callable[[int], Iterator[Inputs]]
Prepare = Callable[[Any, Inputs, Any], Batch]


class NonFiniteError(FloatingPointError):
    """A metric became NaN or infinite; ``step`` (from 1) and ``metric`` say where.

    In a population it is raised once no run is left with finite metrics, and names the first
    metric of the last one.
    """

    def __init__(self, step: int, metric: str, value: float):
        self.step, self.metric, self.value = step, metric, value
        super().__init__(f"{metric} is {value} at step {step}")


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
      steps: Number of the last step, so ``steps - start`` steps are made.
      key: Random key; with ``replicas`` one for each run, shape ``(replicas,)``.
      data: Pytree that lives on the device for the whole run, such as a small data set.
      prepare: ``prepare(data, inputs, key) -> batch``, compiled into the step: gather, normalize,
        augment. Default: the inputs are the batch.
      start: Number of steps that ``state`` has behind it.
      mesh: One-axis mesh ``('data',)``. The batch is split over it and the state replicated, save
        leaves that already carry a sharding on it. With ``replicas`` the runs are split instead.
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
      NonFiniteError: At the first metric that is not finite.
      ValueError: If an argument is out of range, the batch does not divide over the mesh, or the
        step changes the structure, a shape or a dtype of the state (the leaf is named).

    Example:
      >>> import itertools, jax.numpy as jnp, optim
      >>> def step(x, target):
      ...     return x - 0.1 * (x - target), {"loss": 0.5 * (x - target) ** 2}
      >>> batches = lambda start: itertools.repeat(np.float32(3.0))
      >>> x = optim.loop.run(step, jnp.array(0.0), batches, steps=100)
      >>> print(f"{x:.3f}")
      3.000
    """
    if steps_per_call < 1:
        raise ValueError(f"steps_per_call must be >= 1, got {steps_per_call}")
    if not 0 <= start <= steps:
        raise ValueError(f"start must be in [0, steps={steps}], got {start}")
    hooks = tuple(hooks)
    for every, _ in hooks:
        if every < 1:
            raise ValueError(f"a hook's period must be >= 1, got {every}")
    shared = batches is None or callable(batches)
    if replicas is not None:
        _check_population(state, replicas, key, None if shared else batches, mesh)
        if vmap is None:
            vmap = mesh is not None or prefers_vmap(state, replicas, shared=shared)
    elif not shared:
        raise ValueError("batches must be a function unless replicas is given")

    vectorized = replicas is not None and bool(vmap)
    state = _place(_own(state), mesh, split=vectorized)
    data = _place(data, mesh)
    key = _place(key, mesh, split=vectorized)
    if replicas is None or vectorized:
        states, keys = [state], [key]
    else:
        states = [jax.tree.map(lambda x, r=r: x[r], state) for r in range(replicas)]
        keys = [None if key is None else key[r] for r in range(replicas)]
    del state
    each = replicas or 1
    feeds = [_feed(f, start) for f in ([batches] * each if shared else batches)]
    if vectorized:
        feeds = feeds[:1] if shared else [map(_stack, zip(*feeds, strict=True))]
    call = _compile(step, prepare, scan, steps_per_call, mesh, vectorized, shared)

    def whole() -> State:
        return _stack(states, jnp) if len(states) > 1 else states[0]

    def hand_out(pending) -> None:
        first, n, metrics = pending
        runs = [_rows(m, n) for m in jax.device_get(metrics)]
        if replicas is None:
            values = runs[0]
            _check_finite(first, values)
        else:
            values = (
                runs[0] if vectorized else {k: np.stack([m[k] for m in runs], 1) for k in runs[0]}
            )
            _check_some_finite(first, values, alive)
        if on_metrics is not None:
            on_metrics(first, values)

    alive = np.ones(each, bool)
    pending, t = None, start
    while t < steps:
        ends = (t + every - t % every for every in (steps_per_call, *(e for e, _ in hooks)))
        n = min(steps, *ends) - t
        metrics = []
        for r, feed in enumerate(feeds):
            inputs = list(itertools.islice(feed, n))
            if len(inputs) < n:
                raise ValueError(f"batches ended after step {t + len(inputs)}, before step {steps}")
            states[r], rows = call(states[r], data, inputs, keys[r], t)
            metrics.append(rows)
        if pending is not None:
            hand_out(pending)
        pending, t = (t, n, metrics), t + n
        due = [hook for every, hook in hooks if t % every == 0 or t == steps]
        if due:
            hand_out(pending)
            pending = None
            for hook in due:
                hook(t, whole())
        if stop is not None and t < steps and stop(t):
            break
    if pending is not None:
        hand_out(pending)
    return whole()


def prefers_vmap(state: State, replicas: int, *, shared: bool) -> bool:
    """Returns whether a population runs faster vectorized than one run after another.

    Args:
      state: The population's state.
      replicas: Number of runs.
      shared: Whether the runs share their batches.
    """
    if jax.default_backend() != "cpu":
        return True
    return shared and sum(x.size for x in jax.tree.leaves(state)) <= 32768 * replicas


@functools.cache
def compiler_options() -> dict[str, str] | None:
    """Returns the options with which the loop compiles a step, for a ``jax.jit`` of your own.

    On CPU it is a schedule that keeps few temporaries. XLA's own begins all independent parts of a
    step at once: a method that takes six gradients then holds six, and is a few percent slower.

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


def _feed(batches, start) -> Iterator[Inputs]:
    return itertools.repeat(None) if batches is None else iter(batches(start))


def _stack(trees, xp=np):
    return jax.tree.map(lambda *xs: xp.stack(xs), *trees)


@functools.lru_cache(maxsize=32)
def _compile(step, prepare, scan, length, mesh, vectorized, shared):
    """Returns ``call(state, data, inputs, key, t) -> (state, rows)`` for a list of inputs."""

    def one(state, data, inputs, key, t):
        if prepare is None:
            return step(state, inputs)
        return step(
            state, prepare(data, inputs, key if key is None else jax.random.fold_in(key, t))
        )

    if vectorized:
        one = jax.vmap(one, in_axes=(0, None, None if shared else 0, 0, None))
    traced_once = jax.jit(one)  # One trace serves the checks, the loop and the single step.

    def many(state, data, inputs, key, t, n):
        def body(i, carry):
            state, rows = carry
            at_i = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 0, False), inputs)
            state, metrics = traced_once(state, data, at_i, key, t + i)
            return state, {k: rows[k].at[i].set(v) for k, v in metrics.items()}

        first = jax.tree.map(lambda x: x[0], inputs)
        _, shapes = jax.eval_shape(traced_once, state, data, first, key, t)
        rows = {k: jnp.zeros((length, *s.shape), s.dtype) for k, s in shapes.items()}
        return jax.lax.fori_loop(0, n, body, (state, rows))

    @functools.lru_cache(maxsize=4)
    def compiled(fun, layout):
        options = compiler_options()
        if layout is None:
            return jax.jit(fun, donate_argnums=0, compiler_options=options)
        # The state keeps its layout from call to call; metrics are whole on every process.
        out = jax.tree.unflatten(*layout), NamedSharding(mesh, PartitionSpec())
        return jax.jit(fun, donate_argnums=0, out_shardings=out, compiler_options=options)

    looped: list[bool] = []

    def call(state, data, inputs, key, t):
        if not looped:
            _check_divides(inputs[0], None if vectorized else mesh)
            trace = traced_once.trace(state, data, inputs[0], key, np.int32(t))
            _check_same(state, trace.out_info[0])
            on_cpu = jax.default_backend() == "cpu"
            slow = on_cpu and "conv_general_dilated" in str(trace.jaxpr)
            looped.append(not slow if scan is None else scan)
        layout = None
        if mesh is not None:
            leaves, tree = jax.tree.flatten(state)
            layout = tree, tuple(x.sharding for x in leaves)
        axis = None if vectorized and shared else "data"
        if looped[0]:
            n = np.int32(len(inputs))
            chunk = _stack(inputs + inputs[-1:] * (length - len(inputs)))
            chunk = _spread(chunk, mesh, (None, axis), whole=vectorized)
            return compiled(many, layout)(state, data, chunk, key, np.int32(t), n)
        rows, fun = [], compiled(one, layout)
        for i, x in enumerate(inputs):
            x = _spread(x, mesh, (axis,), whole=vectorized)
            state, metrics = fun(state, data, x, key, np.int32(t + i))
            rows.append(metrics)
        return state, rows

    return call


def _rows(metrics, n) -> dict[str, np.ndarray]:
    """Metrics of ``n`` steps as arrays: cut from the buffer of a loop, or stacked from a list."""
    if isinstance(metrics, list):
        return {k: np.stack([row[k] for row in metrics]) for k in metrics[0]}
    return {k: v[:n] for k, v in metrics.items()}


def _own(state):
    """Returns the state with arrays for leaves, each in a buffer of its own, as donation needs."""
    seen = set()

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

    return jax.tree_util.tree_map_with_path(own, state)


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


def _check_population(state, replicas, key, batches, mesh) -> None:
    if replicas < 1:
        raise ValueError(f"replicas must be >= 1, got {replicas}")
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        if np.shape(x)[:1] != (replicas,):
            name = jax.tree_util.keystr(path)
            raise ValueError(
                f"state{name} has shape {np.shape(x)}; its leading axis must be replicas={replicas}"
            )
    if key is not None and key.shape != (replicas,):
        raise ValueError(f"key must have shape ({replicas},), one for each run, got {key.shape}")
    if batches is not None and len(batches) != replicas:
        raise ValueError(f"batches must have length replicas={replicas}, got {len(batches)}")


def _check_divides(inputs, mesh) -> None:
    if mesh is None:
        return
    for path, x in jax.tree_util.tree_leaves_with_path(inputs):
        size = np.shape(x)[0] * jax.process_count() if np.ndim(x) else 0
        if size % mesh.size:
            name = jax.tree_util.keystr(path)
            raise ValueError(
                f"a batch of {size} examples does not divide over {mesh.size} devices"
                f" (inputs{name}): make the batch size a multiple of {mesh.size}"
            )


def _check_same(before, after) -> None:
    old, new = jax.tree.structure(before), jax.tree.structure(after)
    if old != new:
        raise ValueError(f"step changed the structure of the state from {old} to {new}")
    pairs = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    for (path, x), y in pairs:
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            name = jax.tree_util.keystr(path)
            raise ValueError(
                f"step changed state{name} from {x.dtype}{x.shape} to {y.dtype}{y.shape}"
            )


def _check_finite(first, values) -> None:
    bad = {k: np.flatnonzero(~np.isfinite(v)) for k, v in values.items()}
    bad = {k: rows[0] for k, rows in bad.items() if rows.size}
    if bad:
        name = min(bad, key=bad.__getitem__)
        raise NonFiniteError(first + int(bad[name]) + 1, name, float(values[name][bad[name]]))


def _check_some_finite(first, values, alive) -> None:
    """Marks runs that diverged; raises when the last one did."""
    for r in np.flatnonzero(alive):
        try:
            _check_finite(first, {k: v[:, r] for k, v in values.items()})
        except NonFiniteError:
            alive[r] = False
            if not alive.any():
                raise
