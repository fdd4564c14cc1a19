"""What the solvers share: batches, starts, checked functions, steps and inner loops."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.problem import Problem, Samples
from optim import _checks, parallel

Schedule = Callable[[Any], Any]
Rate = float | jax.Array | Schedule
StepSize = Rate | optax.GradientTransformation


def at(step: Any, k: Any) -> Any:
    """Returns a number as it is, and a schedule's value at iteration ``k``."""
    if not callable(step):
        return step
    value = step(k)
    if value is None or jnp.shape(value) != ():
        got = "None" if value is None else f"an array of shape {jnp.shape(value)}"
        raise ValueError(f"a schedule must return one number, got {got}")
    return value


def axpy(s: Any, a: Any, b: Any) -> Any:
    """Returns ``s a + b`` in the dtypes of ``b``.

    ``optax.tree.add_scale`` would widen a bfloat16 tree by a float32 scalar.
    """
    return jax.tree.map(lambda p, q: q + jnp.asarray(s * p, q.dtype), a, b)


def maybe(project: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    """Returns ``project``, or the identity for ``None``."""
    return (lambda tree: tree) if project is None else project


# Batches.


def batches(batch: Any) -> tuple[Any, Any]:
    """Returns ``(upper_batch, lower_batch)``; raises ``ValueError`` on another structure."""
    if batch is None:
        return None, None
    if isinstance(batch, Samples):
        raise ValueError("batch must be (upper_batch, lower_batch): this method takes no Samples")
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
        raise ValueError(
            "batch must be None or the pair (upper_batch, lower_batch), got "
            f"{jax.tree.structure(batch)}"
        )
    no_examples_as_levels(batch)
    return batch[0], batch[1]


def no_examples_as_levels(batch: Any) -> None:
    """Raises ``ValueError`` on features and labels in place of a pair of batches."""
    shapes = [np.shape(part) for part in batch if isinstance(part, jax.Array | np.ndarray)]
    if len(shapes) == 2 and len(set(map(len, shapes))) == 2 and shapes[0][:1] == shapes[1][:1]:
        raise ValueError(
            f"batch must be the pair (upper_batch, lower_batch), got arrays of shapes {shapes[0]} "
            f"and {shapes[1]}. Of features and labels make ((X, y), (X, y)); where one array is "
            "the batch of each level, put it into a dict or a tuple: ((a,), (b,))."
        )


def samples(batch: Any) -> Samples:
    """Returns ``batch`` as :class:`Samples`; a pair gives every oracle of a level its batch."""
    if isinstance(batch, Samples):
        return batch
    upper, lower = batches(batch)
    return Samples(upper, lower, lower, upper, lower, lower)


def inner_loop(body: Callable[[Any, Samples], Any], carry: Any, batch: Any, steps: int) -> Any:
    """Returns ``carry`` after ``steps`` of ``body(carry, samples)``.

    The inner batches of :class:`Samples` have a leading axis, one slice for each step; those of a
    pair are the same in each step.
    """
    s = samples(batch)
    if not isinstance(batch, Samples):
        return jax.lax.fori_loop(0, steps, lambda i, c: body(c, s), carry)
    inner = (s.f_y, s.g_y, s.g_z)
    for path, leaf in jax.tree_util.tree_leaves_with_path(inner):
        if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] != steps:
            raise ValueError(
                f"inner batches must have the leading axis inner_steps={steps}, got shape "
                f"{jnp.shape(leaf)} at Samples{jax.tree_util.keystr(path)}"
            )

    def scanned(c, b):
        f_y, g_y, g_z = b
        return body(c, s._replace(f_y=f_y, g_y=g_y, g_z=g_z)), None

    return jax.lax.scan(scanned, carry, inner, length=steps)[0]


# Functions of the problem.


def scalar(fun: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Returns ``fun`` with a check that its value is one floating-point number."""

    def checked(*args):
        value = fun(*args)
        if not isinstance(value, jax.Array | np.ndarray | np.generic | float | int):
            raise ValueError(f"{name} must return a scalar, got {type(value).__name__}")
        if np.shape(value) != ():
            raise ValueError(f"{name} must return a scalar, got shape {np.shape(value)}")
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise ValueError(f"{name} must return a float, got {jnp.result_type(value)}")
        return jnp.asarray(value)

    return checked


def oracle(problem: Problem, level: str, argnums: int | tuple[int, ...], axis_name: str | None):
    """Returns ``(x, y, batch) -> (value, gradient)`` of the ``"upper"`` or ``"lower"`` function.

    The gradient of the lower one in x is that of the whole lower level.
    """
    whole = level == "lower" and argnums == 0
    fun = whole_lower(problem) if whole else scalar(getattr(problem, level), level)
    return parallel.value_and_grad(fun, argnums, axis_name=axis_name)


def whole_lower(problem: Problem) -> Callable[..., Any]:
    """Returns the lower function with its nonsmooth term, which has no gradient in y."""
    smooth, term = scalar(problem.lower, "lower"), problem.nonsmooth
    if term is None:
        return smooth
    value = scalar(term.value, "nonsmooth.value")
    return lambda x, y, batch: smooth(x, y, batch) + value(x, y)


def onto_lower(problem: Problem, x: Any, y: Any, step: Any) -> Any:
    """Returns ``y`` projected onto Y, or moved by the prox of the nonsmooth term."""
    if problem.nonsmooth is not None:
        return problem.nonsmooth.prox(x, y, step)
    return maybe(problem.project_y)(y)


def unconstrained_lower(problem: Problem, method: str, instead: str) -> None:
    """Raises ``ValueError`` on a lower level whose sets ``method`` would silently ignore."""
    _refuse(problem, method, ("constraint", "project_y", "project_xy"), instead)
    smooth_lower(problem, method)


def uncoupled(problem: Problem, method: str) -> None:
    """Raises ``ValueError`` on a constraint of both levels, which ``method`` cannot keep."""
    instead = "bilevel.lv_hba, or project_y where the constraint does not depend on x"
    _refuse(problem, method, ("constraint", "project_xy"), instead)


def smooth_lower(problem: Problem, method: str) -> None:
    """Raises ``ValueError`` on a nonsmooth term of the lower level."""
    _refuse(problem, method, ("nonsmooth",), "bilevel.unrolled or bilevel.penalty")


def check_problem(given: Any) -> None:
    """Raises ``ValueError`` on something that is no :class:`bilevel.Problem`."""
    if not isinstance(given, Problem):
        raise ValueError(f"problem must be a bilevel.Problem, got {type(given).__name__}")


def _refuse(problem, method, names, instead):
    check_problem(problem)
    for name in names:
        if getattr(problem, name) is not None:
            raise ValueError(f"{method} takes no {name}: use {instead}")


# Starts.


def start(problem: Problem, x0: Any, y0: Any, joint: bool = False) -> tuple[Any, Any]:
    """Returns fresh copies of a start, projected onto its sets, after checking them.

    Args:
      problem: The problem.
      x0: Upper start.
      y0: Lower start.
      joint: Project the pair by ``project_xy`` instead of each by itself.

    Returns:
      ``(x, y)``, arrays of their own.

    Raises:
      ValueError: On leaves that are not floating-point arrays (named by their path) and on
        projections that change the structure, a shape or a dtype.
    """
    check_problem(problem)
    if problem.has_stats:
        raise ValueError(
            "problem has statistics: make the solver by bilevel.with_stats(solver), and give "
            "solver.init the first ones, stats="
        )
    x, y = fresh(x0, "x"), fresh(y0, "y")
    if joint and problem.project_xy is not None:
        px, py = checked_projection(lambda xy: problem.project_xy(*xy), (x, y), "project_xy")
        _warn_if_moved((x, y), (px, py), "(x0, y0)", "project_xy")
        return px, py
    for name, value in (("x", x), ("y", y)):
        project = getattr(problem, f"project_{name}")
        if project is not None:
            moved = checked_projection(project, value, f"project_{name}")
            _warn_if_moved(value, moved, f"{name}0", f"project_{name}")
            x, y = (moved, y) if name == "x" else (x, moved)
    return x, y


def lower_start(problem: Problem, y: Any, z0: Any) -> Any:
    """Returns a fresh start of the lower-level variable: ``z0``, projected, or a copy of ``y``."""
    if z0 is None:
        return fresh(y)
    z = fresh(z0, "z")
    if jax.tree.map(jnp.shape, z) != jax.tree.map(jnp.shape, y):
        raise ValueError(
            f"z0 must have the structure and shapes of y0, {jax.tree.map(jnp.shape, y)}, "
            f"got {jax.tree.map(jnp.shape, z)}"
        )
    z = jax.tree.map(lambda a, b: a.astype(b.dtype), z, y)
    if problem.project_y is None:
        return z
    return checked_projection(problem.project_y, z, "project_y")


def fresh(tree: Any, name: str = "tree") -> Any:
    """Returns a copy of ``tree`` as arrays of its own, so that a state can be donated."""

    def copy(path, leaf):
        kind: Any = getattr(leaf, "dtype", None)
        if isinstance(leaf, float | int | complex):
            kind = jnp.result_type(leaf)
        if kind is None or not jnp.issubdtype(kind, jnp.floating):
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} must be a floating-point array, got "
                f"{type(leaf).__name__ if kind is None else kind}"
            )
        return jnp.array(leaf, dtype=jnp.result_type(leaf), copy=True)

    if not jax.tree.leaves(tree):
        raise ValueError(f"{name} must have at least one array, got {tree!r}")
    return jax.tree_util.tree_map_with_path(copy, tree)


def checked_projection(project: Callable[[Any], Any], value: Any, name: str) -> Any:
    """Returns ``project(value)``; raises ``ValueError`` where it is not like ``value``."""
    out = jax.jit(project)(value)  # One compilation instead of one for each operation.
    if jax.tree.structure(out) != jax.tree.structure(value):
        raise ValueError(
            f"{name} must keep the structure {jax.tree.structure(value)}, "
            f"got {jax.tree.structure(out)}"
        )

    def check(path, a, b):
        if jnp.shape(a) != jnp.shape(b) or jnp.result_type(a) != jnp.result_type(b):
            raise ValueError(
                f"{name} must keep shape and dtype of leaf {jax.tree_util.keystr(path) or 'root'}: "
                f"{jnp.result_type(a)}{jnp.shape(a)}, got {jnp.result_type(b)}{jnp.shape(b)}"
            )
        return b

    return jax.tree_util.tree_map_with_path(check, value, out)


def _warn_if_moved(before: Any, after: Any, what: str, name: str) -> None:
    distance = optax.tree.norm(optax.tree.sub(after, before))
    if isinstance(distance, jax.core.Tracer):
        return
    size = max(1.0, float(optax.tree.norm(before)))
    if float(distance) > float(jnp.finfo(distance.dtype).eps) ** (2 / 3) * size:
        warnings.warn(
            f"{what} is infeasible: projected by {name}, a move of {float(distance):.6g}",
            stacklevel=4,
        )


# Steps.


def projected_gradient(project: Callable[[Any], Any] | None, x: Any, d: Any) -> jax.Array:
    r"""Returns :math:`\|x - P(x - d)\|`, which is zero where x is stationary in its set."""
    return optax.tree.norm(optax.tree.sub(x, maybe(project)(optax.tree.sub(x, d))))


class Mover(NamedTuple):
    """How a variable follows its direction: a plain step size or an optax transform."""

    init: Callable[[Any], Any]
    move: Callable[[Any, Any, Any, Any], tuple[Any, Any]]


def mover(step: StepSize, name: str) -> Mover:
    """Returns ``init(params) -> state`` and ``move(params, direction, state, k)``.

    A number or a schedule :math:`s_k` moves to ``params - s_k direction`` and has the state
    ``()``; a schedule is read at the solver's iteration ``k``. An optax transform keeps its own
    state and counts its own updates.
    """
    if isinstance(step, optax.GradientTransformation):

        def move(params, direction, state, k):
            del k
            updates, state = step.update(direction, state, params)
            return optax.apply_updates(params, updates), state

        return Mover(step.init, move)
    _checks.number(name, step, 0, open_low=True, schedule=True, transform=True)
    return Mover(
        lambda params: (),
        lambda params, direction, state, k: (axpy(-at(step, k), direction, params), state),
    )
