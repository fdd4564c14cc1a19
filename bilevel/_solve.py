"""Runs a solver on a problem: in the jitted loop, watched, or as one pure function."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

from bilevel._common import check_problem
from bilevel.problem import Problem, Samples, Solver
from optim import _checks, loop

__all__ = ["Best", "Minimum", "Solution", "minimize", "solve"]

_SMALL = 10**6  # Numbers in y of which a copy is kept, to see whether they moved.


class Best(NamedTuple):
    """The iterate whose watched metric was lowest.

    Attributes:
      x: Upper variable.
      y: Lower variable.
      step: Number of iterations it has behind it.
      value: Its metric, that of its last iteration.
    """

    x: Any
    y: Any
    step: int
    value: float


@dataclasses.dataclass(frozen=True)
class Solution:
    """What :func:`solve` returns; it unpacks as ``state, metrics``.

    Attributes:
      state: The last state.
      metrics: Each metric as an array over the iterations made; of the last device call alone with
        ``history=False``.
      ended_by: ``"tol"``, ``"steps"``, ``"patience"``, ``"callback"`` or ``"stop"``.
      best: The :class:`Best` iterate, with ``patience``; otherwise ``None``.
    """

    state: Any
    metrics: dict[str, np.ndarray]
    ended_by: str
    best: Best | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.state, self.metrics))


class Minimum(NamedTuple):
    """What :func:`minimize` returns.

    Attributes:
      x: Upper variable.
      y: Lower variable.
      state: The last state, to continue from.
      metrics: The metrics of the last iteration, a dict of scalars.
      steps: Number of iterations made, an int32 scalar.
      converged: Whether all residuals are at most ``tol``, a boolean scalar.
    """

    x: Any
    y: Any
    state: Any
    metrics: dict[str, jax.Array]
    steps: jax.Array
    converged: jax.Array


def solve(
    problem: Problem,
    solver: Solver,
    x0: Any,
    y0: Any,
    batches: Callable[[int], Any] | None = None,
    steps: int | None = None,
    *,
    batch: Any = None,
    tol: float | None = None,
    max_steps: int | None = None,
    patience: int | None = None,
    monitor: str = "upper",
    callback: Callable[[Any, dict[str, np.ndarray]], Any] | None = None,
    history: bool = True,
    state: Any = None,
    mesh: Mesh | None = None,
    axis_name: str | None = None,
    steps_per_call: int = 100,
    **options: Any,
) -> Solution:
    r"""Runs ``solver`` on ``problem``.

    Many iterations are one device call; the state is donated; metrics come back once a call. A
    run that is stopped and continued from a saved state gives the same bits.

    .. math::
      s_0 = \mathrm{init}(x_0, y_0), \qquad (s_{k+1}, m_k) = \mathrm{step}(s_k, b_k)

    The run warns where its result should not be trusted: a linear system that was not solved, a
    level that did not move, a tolerance that was not reached, a ramp of pruning that has not ended,
    a layer without a weight.

    Args:
      problem: The problem.
      solver: The method, as from :func:`bilevel.penalty`.
      x0: Upper start.
      y0: Lower start.
      batches: ``batches(k)`` returns an iterator over the pairs ``(upper_batch, lower_batch)`` of
        iterations ``k, k + 1, ...``: pytrees of numpy arrays with the examples on the leading
        axis, or whatever ``prepare`` makes batches of. ``None`` for a deterministic problem.
      steps: Number of the last iteration, counted from the very start.
      batch: One batch for all iterations, as it is, in place of ``batches``.
      tol: Ends the run when all metrics of ``solver.residuals`` are at most this, > 0. It is
        looked at after each device call.
      max_steps: Most iterations of this call, wherever it starts. Without it and ``steps``: 1000.
      patience: Ends the run when ``monitor`` has not fallen for so many iterations, and keeps the
        best iterate.
      monitor: A metric of the solver, for ``patience``.
      callback: Called as ``callback(state, metrics)`` after each device call, with the metrics of
        its iterations; ``True`` ends the run. The state is valid during the call only.
      history: Whether the metrics of all iterations are kept.
      state: State to continue from, instead of the start; iteration ``state.count`` is next. For a
        warm start of another problem say so: ``state._replace(problem=problem)``.
      mesh: One-axis mesh, as from ``optim.parallel.data_mesh()``: batches are split over it, the
        state is replicated, save what ``state``, ``x0`` and ``y0`` hold split over it already.
      axis_name: Name of the mesh's axis, to run the step by ``jax.shard_map`` on each device's
        share of the batch; the solver must have been made with the same ``axis_name``. By default
        the compiler splits the step.
      steps_per_call: Most iterations of a device call.
      **options: Further options of ``optim.loop.run``: ``key``, ``data``, ``prepare``, ``scan``,
        ``hooks``, ``stop``.

    Returns:
      A :class:`Solution`.

    Raises:
      optim.loop.NonFiniteError: At the first metric that is not finite, with its step and name.
      ValueError: On a state of another problem or solver, an ``axis_name`` that does not fit,
        arguments that do not fit each other or the problem, or values that are traced.

    Example:
      >>> import bilevel, jax.numpy as jnp
      >>> problem = bilevel.Problem(
      ...     upper=lambda x, y, batch: jnp.sum((y - 1.0) ** 2) + 0.5 * jnp.sum(x**2),
      ...     lower=lambda x, y, batch: jnp.sum((y - x) ** 2),
      ... )
      >>> solver = bilevel.implicit(upper_step=0.3, lower_step=0.3)
      >>> solution = bilevel.solve(problem, solver, jnp.zeros(1), jnp.zeros(1), tol=1e-5)
      >>> print(f"{solution.state.x[0]:.3f} {solution.ended_by}")
      0.667 tol
    """
    _check_pair(problem, solver)
    _check(solver, batches, batch, max_steps, patience, mesh, axis_name)
    _check_stop(solver, tol, patience, monitor, callback)
    if any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves((x0, y0, state, batch))):
        raise ValueError(
            "solve runs on the host, not under jit, vmap or grad: bilevel.minimize does"
        )
    state = _started(problem, solver, x0, y0, state)
    first = int(state.count)
    ends = [] if steps is None else [steps]
    ends += [] if max_steps is None else [first + max_steps]
    watch = _Watch(solver, tol, patience, monitor, callback, history)
    small = jax.process_count() == 1 and optax.tree.size((state.x, state.y)) <= _SMALL
    begin = jax.tree.map(np.array, (state.x, state.y)) if small else None
    if batch is not None:
        options |= {"data": batch, "prepare": _as_it_is}
    watched = tol is not None or patience is not None or callback is not None
    hooks = ([(steps_per_call, watch.look)] if watched else []) + list(options.pop("hooks", ()))
    state = loop.run(
        solver.step if axis_name is None else _mapped(solver.step, mesh, axis_name),
        state,
        batches,
        min(ends, default=first + 1000),
        start=first,
        mesh=mesh,
        on_metrics=watch.collect,
        hooks=hooks,
        stop=functools.partial(watch.ended, options.pop("stop", None)),
        steps_per_call=steps_per_call,
        **options,
    )
    metrics = watch.metrics()
    doubts = () if solver.doubts is None else solver.doubts(state)
    for text in doubts:
        warnings.warn(text, stacklevel=2)
    if metrics:
        _complain(solver, metrics, tol, watch.ended_by)
    if begin is not None and not doubts and int(state.count) > first + 1:
        _complain_of_rest(solver, metrics, begin, state)
    return Solution(state, metrics, watch.ended_by, watch.best)


def _started(problem, solver, x0, y0, state) -> Any:
    """Returns the first state, or the given one, which must be of this problem and solver."""
    if state is None:
        if y0 is None:
            raise ValueError("y0 must be a pytree of arrays (or pass state=), got None")
        return solver.init(problem, x0, y0)
    if getattr(state, "problem", None) != problem:
        raise ValueError(
            "state is of another problem; to go on from its variables with this one, pass "
            "state._replace(problem=problem)"
        )
    stats = getattr(state, "stats", None)
    options = {} if stats is None else {"stats": stats}
    try:
        own = jax.eval_shape(functools.partial(solver.init, problem), state.x, state.y, **options)
    except Exception:  # A method whose start needs more than x and y.
        return state
    there, here = ({jax.tree_util.keystr(p) for p, _ in _leaves(s)} for s in (state, own))
    if type(state) is not type(own) or there != here:
        differ = ", ".join(sorted(there ^ here)[:3])
        raise ValueError(
            f"state is a {type(state).__name__} of another solver than this {solver.name}, or of "
            f"other options; they differ in {differ or type(own).__name__}"
        )
    return state


_leaves = jax.tree_util.tree_leaves_with_path


def _check_pair(problem, solver) -> None:
    check_problem(problem)
    if not isinstance(solver, Solver):
        raise ValueError(
            f"solver must be a bilevel.Solver such as bilevel.penalty(), got "
            f"{getattr(solver, '__name__', type(solver).__name__)}"
        )


def _check(solver, batches, batch, max_steps, patience, mesh, axis_name) -> None:
    if axis_name != solver.axis_name:
        raise ValueError(f"axis_name must be the solver's, {solver.axis_name!r}, got {axis_name!r}")
    if axis_name is not None and (mesh is None or axis_name not in mesh.axis_names):
        axes = None if mesh is None else mesh.axis_names
        raise ValueError(f"axis_name {axis_name!r} must be an axis of mesh, got {axes}")
    if batch is not None and batches is not None:
        raise ValueError("batch and batches exclude each other, got both")
    if batches is not None and not callable(batches):
        raise ValueError(
            "batches must be a function of the iteration that returns an iterator; for one batch "
            f"in all iterations pass batch=, got {type(batches).__name__}"
        )
    for name, value in (("max_steps", max_steps), ("patience", patience)):
        if value is not None:
            _checks.count(name, value)


def _check_stop(solver, tol, patience, monitor, callback) -> None:
    if tol is not None:
        _checks.number("tol", tol, 0, open_low=True)
        _check_residuals(solver)
    if patience is None and monitor != "upper":
        raise ValueError(f"monitor is what patience looks at: give both, got monitor={monitor!r}")
    if callback is not None and not callable(callback):
        raise ValueError(f"callback must be callable, got {callback!r}")


def _check_residuals(solver) -> None:
    if not solver.residuals:
        raise ValueError(
            f"tol: {solver.name} has no residual that vanishes at a solution; give steps"
        )


class _Watch:
    """Collects metrics, and decides after each device call whether the run goes on."""

    def __init__(self, solver, tol, patience, monitor, callback, history):
        self.solver, self.tol, self.history = solver, tol, history
        self.patience, self.monitor, self.callback = patience, monitor, callback
        self.rows: list[dict[str, np.ndarray]] = []
        self.ended_by = "steps"
        self.best: Best | None = None

    def collect(self, first: int, values: dict[str, np.ndarray]) -> None:
        del first
        if not self.history:
            self.rows.clear()
        self.rows.append(values)

    def look(self, step: int, state: Any) -> None:
        last = self.rows[-1]
        if self.patience is not None:
            if self.monitor not in last:
                raise ValueError(f"monitor must be one of {', '.join(last)}, got {self.monitor!r}")
            value = float(last[self.monitor][-1])
            if self.best is None or value < self.best.value:
                x, y = (jax.tree.map(jnp.copy, part) for part in (state.x, state.y))
                self.best = Best(x, y, step, value)
            elif step - self.best.step >= self.patience:
                self.ended_by = "patience"
        if self.tol is not None and not set(self.solver.residuals) <= set(last):
            raise ValueError(f"tol: {self.solver.name} reports no residual, only {', '.join(last)}")
        if self.tol is not None and _residual(self.solver, last) <= self.tol:
            self.ended_by = "tol"
        if self.callback is not None and self.callback(state, last):
            self.ended_by = "callback"

    def ended(self, stop: Callable[[int], bool] | None, step: int) -> bool:
        if self.ended_by == "steps" and stop is not None and stop(step):
            self.ended_by = "stop"
        return self.ended_by != "steps"

    def metrics(self) -> dict[str, np.ndarray]:
        names = self.rows[0] if self.rows else {}
        return {k: np.concatenate([row[k] for row in self.rows]) for k in names}


def _residual(solver: Solver, metrics: dict[str, Any]) -> float:
    return max(float(metrics[name][-1]) for name in solver.residuals)


def _complain(solver, metrics, tol, ended_by) -> None:
    """Warns of what would make a reader distrust the result."""
    if tol is not None and ended_by == "steps":
        left = {k: f"{float(metrics[k][-1]):.2g}" for k in solver.residuals}
        if _residual(solver, metrics) > tol:
            warnings.warn(f"tol={tol:g} was not reached: {left} at the last step", stacklevel=3)
    # That of `implicit` is relative: above one, the zero vector would be a better solution.
    if solver.name == "implicit" and metrics["linear_residual"][-1] > 1:
        warnings.warn(
            "the linear system was not solved: its relative residual is "
            f"{float(metrics['linear_residual'][-1]):.3g}, so x moved along a wrong direction; "
            "take more linear_steps, a ridge, or linear_solver='normal_cg' where the lower Hessian "
            "is not positive definite",
            stacklevel=3,
        )


def _complain_of_rest(solver, metrics, begin, state) -> None:
    """Warns of levels that are, after several iterations, what they were, to the last bit."""

    def still(before, after):
        pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
        return all(np.array_equal(a, np.asarray(b)) for a, b in pairs)

    pushed = float(np.max(metrics.get("residual", 0.0))) > 0
    x_still, y_still = still(begin[0], state.x), still(begin[1], state.y)
    if x_still and y_still:
        text = (
            "nothing moved: x and y are what they were at the start, to the last bit; does the "
            "loss depend on them, and are the steps large enough?"
        )
    elif y_still and pushed:
        text = (
            "the lower level did not move: y is what it was at the start, to the last bit; does "
            "the lower function depend on y, and is lower_step large enough?"
        )
    elif x_still and solver.residuals and _free(state.problem, pushed):
        text = (
            "the upper level did not move: x is what it was at the start, to the last bit; does "
            "the upper function depend on x, or the lower one, and is upper_step large enough?"
        )
    else:
        return
    warnings.warn(text, stacklevel=3)


def _free(problem, pushed) -> bool:
    """Whether x could move: on the boundary of its set it may have to stay."""
    return problem.project_xy is None and (problem.project_x is None or pushed)


def _as_it_is(data: Any, inputs: Any, key: Any) -> Any:
    del inputs, key
    return data


def minimize(
    problem: Problem,
    solver: Solver,
    x0: Any,
    y0: Any,
    batch: Any = None,
    *,
    tol: float = 1e-6,
    max_steps: int = 10_000,
    state: Any = None,
) -> Minimum:
    r"""Solves a deterministic problem in one call, until its residuals are at most ``tol``.

    A pure function: it runs under ``jax.jit`` and ``jax.vmap`` (over starts, batches, tolerances),
    keeps no history and looks at the residuals after every iteration. A residual that is not
    finite ends it too. :func:`solve` has batches, history, callbacks and meshes.

    Args:
      problem: The problem.
      solver: The method.
      x0: Upper start.
      y0: Lower start.
      batch: The batch of every iteration.
      tol: All metrics of ``solver.residuals`` are to be at most this, > 0.
      max_steps: Most iterations, >= 1.
      state: State to continue from, instead of the start.

    Returns:
      A :class:`Minimum`.

    Raises:
      ValueError: On an argument out of range, or a state of another problem.

    Example:
      >>> import bilevel, jax, jax.numpy as jnp
      >>> problem = bilevel.Problem(
      ...     upper=lambda x, y, target: jnp.sum((y - target) ** 2),
      ...     lower=lambda x, y, batch: jnp.sum((y - x) ** 2),
      ... )
      >>> solver = bilevel.implicit(upper_step=0.3, lower_step=0.3)
      >>> def best(target):
      ...     zero = jnp.zeros(1)
      ...     return bilevel.minimize(problem, solver, zero, zero, (target, None), tol=1e-4).x[0]
      >>> print(jax.vmap(best)(jnp.array([1.0, 2.0])).round(2))
      [1. 2.]
    """
    _checks.number("tol", tol, 0, open_low=True)
    _checks.count("max_steps", max_steps)
    _check_pair(problem, solver)
    _check_residuals(solver)
    state = _started(problem, solver, x0, y0, state)
    state, metrics, steps = _until(solver.step, solver.residuals, state, batch, tol, max_steps)
    converged = jnp.max(jnp.stack([metrics[k] for k in solver.residuals])) <= tol
    return Minimum(state.x, state.y, state, metrics, steps, converged)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _until(step, residuals, state, batch, tol, max_steps):
    def largest(metrics):
        return jnp.max(jnp.stack([metrics[k] for k in residuals]))

    def going(carry):
        _, metrics, k = carry
        size = largest(metrics)
        return (size > tol) & jnp.isfinite(size) & (k < max_steps)

    def body(carry):
        state, _, k = carry
        return *step(state, batch), k + 1

    return jax.lax.while_loop(going, body, (*step(state, batch), jnp.int32(1)))


@functools.lru_cache(maxsize=32)  # The loop compiles a step once for each function object.
def _mapped(step, mesh, axis_name):
    def specs(batch):
        shares = jax.tree.map(lambda _: PartitionSpec(axis_name), batch)
        if isinstance(batch, Samples):
            inner = [
                jax.tree.map(lambda _: PartitionSpec(None, axis_name), part) for part in batch[:3]
            ]
            shares = Samples(*inner, *shares[3:])
        return shares

    def mapped(state, batch):
        whole = PartitionSpec()
        fun = jax.shard_map(step, mesh=mesh, in_specs=(whole, specs(batch)), out_specs=whole)
        return fun(state, batch)

    return mapped
