"""The loop that runs any step: training, bilevel solvers, pruning, one run or many at once.

A step is a pure function ``step(state, batch) -> (state, metrics)``. The loop compiles several
steps into one device call, donates the state, shards the batch over a mesh, folds the step number
into the key, and hands metrics out one call late, so that the device never waits for the host.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from optim import _checks
from optim._loop.arguments import (
    check_batches,
    check_functions,
    check_hooks,
    check_key,
    check_mesh,
    check_population,
    check_runs_divide,
    whole_number,
)
from optim._loop.finite import Alive, NonFiniteError
from optim._loop.inputs import feed_of, stack
from optim._loop.placement import as_arrays, own_buffers, place
from optim._loop.program import (
    CONVOLUTIONS,
    compile_steps,
    compiler_options,
    rows_of,
    slow_in_a_loop,
    traced_step,
)

__all__ = ["CONVOLUTIONS", "NonFiniteError", "compiler_options", "prefers_vmap", "run"]

State = Any
Batch = Any
Inputs = Any
Metrics = dict[str, Any]
Step = Callable[[State, Batch], tuple[State, Metrics]]
Batches = Callable[[int], Iterator[Inputs]]
Prepare = Callable[[Any, Inputs, Any], Batch]

_MOST_STEPS = 2**32 - 1  # What a key can be folded with.


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
    convolutions: str = "default",
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
        leaves that already carry a sharding on it; one that is split over another mesh is refused.
        With ``replicas`` the runs are split instead.
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
      convolutions: ``"xla"`` is the faster way of a CPU, see :func:`compiler_options`. It rounds
        in another way, and changes nothing on accelerators.
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
    steps, start = whole_number("steps", steps, 0), whole_number("start", start, 0)
    steps_per_call = whole_number("steps_per_call", steps_per_call, 1)
    if start > steps:
        raise ValueError(f"start must be in [0, steps={steps}], got {start}")
    if steps > _MOST_STEPS:
        raise ValueError(f"steps must be <= 2**32 - 1, got {steps}")
    hooks = check_hooks(hooks)
    check_functions(step=step, prepare=prepare, on_metrics=on_metrics, stop=stop)
    for name, flag in (("scan", scan), ("vmap", vmap)):
        if flag is not None:
            _checks.flag(name, flag)
    _checks.choice("convolutions", convolutions, CONVOLUTIONS)
    if vmap and replicas is None:
        raise ValueError("vmap needs replicas, the number of runs")
    check_mesh(mesh)
    check_key(key, replicas)
    shared = batches is None or callable(batches)
    check_batches(batches, replicas)
    if replicas is not None:
        check_population(state, replicas)
        if vmap is None:
            vmap = mesh is not None or prefers_vmap(state, replicas, shared=shared)

    vectorized = replicas is not None and bool(vmap)
    if vectorized:
        check_runs_divide(replicas, mesh)

    # Everything to its devices.
    state = place("state", own_buffers(state, (data, key)), mesh, split=vectorized)
    data = place("data", as_arrays("data", data), mesh)
    key = place("key", key, mesh, split=vectorized)

    # Each run has a state, a key and a feed; vectorized ones share them, on a leading axis.
    count = replicas or 1
    if replicas is None or vectorized:
        states, keys = [state], [key]
    else:
        states = [jax.tree.map(lambda x, r=r: x[r], state) for r in range(count)]
        keys = [None if key is None else key[r] for r in range(count)]
    del state
    orders = [batches] * count if shared else batches
    feeds = [feed_of(order, start, None if vectorized else mesh) for order in orders]
    if vectorized:
        feeds = feeds[:1] if shared else [map(stack, zip(*feeds, strict=True))]
    alive = Alive(states, count, vectorized)
    one = traced_step(step, prepare, vectorized, shared)
    call = None

    def whole() -> State:
        return stack(states, jnp) if len(states) > 1 else states[0]

    def hand_out(first, n, metrics) -> None:
        runs = [rows_of(m, n) for m in jax.device_get(metrics)]
        values = runs[0]
        if vectorized:
            runs = [{k: v[:, r] for k, v in values.items()} for r in range(count)]
        elif replicas is not None:
            values = {k: np.stack([m[k] for m in runs], 1) for k in values}
        alive.check_metrics(first, runs)
        if on_metrics is not None:
            on_metrics(first, values)

    pending, t = None, start
    while t < steps:
        # One device call for each run, up to the next report or hook.
        ends = (t + every - t % every for every in (steps_per_call, *(e for e, _ in hooks)))
        n = min(steps, *ends) - t
        metrics = []
        for r, feed in enumerate(feeds):
            inputs = list(itertools.islice(feed, n))
            if len(inputs) < n:
                raise ValueError(f"batches ended after step {t + len(inputs)}, before step {steps}")
            if call is None:
                if scan is None:
                    scan = not slow_in_a_loop(one, states[r], data, inputs[0], keys[r])
                call = compile_steps(
                    one, bool(scan), steps_per_call, mesh, vectorized, shared, convolutions
                )
            states[r], rows = call(states[r], data, inputs, keys[r], t)
            metrics.append(rows)
        # While the devices work, the metrics of the call before.
        if pending is not None:
            hand_out(*pending)
        pending, t = (t, n, metrics), t + n
        due = [hook for every, hook in hooks if t % every == 0 or t == steps]
        if due:
            hand_out(*pending)
            alive.check_states(t, states)
            pending = None
            for hook in due:
                hook(t, whole())
        if stop is not None and t < steps and stop(t):
            break
    if pending is not None:
        hand_out(*pending)
        alive.check_states(t, states)
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
