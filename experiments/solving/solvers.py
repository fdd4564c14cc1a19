"""Bilevel solvers by name from a config, and the batches they ask for."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bilevel
from experiments.problems import Task
from experiments.supervised import optimizers
from optim import _checks

__all__ = ["SOLVERS", "build", "feed"]

SOLVERS: dict[str, Callable[..., bilevel.Solver]] = {
    name: getattr(bilevel, name)
    for name in ("penalty", "f2sa", "f3sa", "lv_hba", "implicit", "unrolled", "soba", "saba")
}
_HINT = " (options that suit a problem come with the config: --config=FILE:SOLVER)"
_OWN = ("upper_samples", "lower_samples", "axis_name", "project_theta")


def build(name: str, options: Mapping[str, Any], task: Task, batch_size: int = 0) -> bilevel.Solver:
    """Returns the solver ``name``.

    Args:
      name: A key of ``SOLVERS``.
      options: Its arguments. A step size is a number, ``{"power": (scale, exponent)}`` or
        ``{"power": (scale, exponent, offset)}`` for ``bilevel.power``, or an optimizer with its
        learning rate, ``{"adam": 0.01}``; on one line ``(power, scale, exponent)``,
        ``(adam, 0.01)``.
      task: Tells SABA how many components there are.
      batch_size: Samples of a component; 0 for all.

    Raises:
      ValueError: An unknown name, option or optimizer (with the nearest), or a value out of range.
    """
    if name not in SOLVERS:
        raise ValueError(f"unknown solver {name!r}; {_checks.nearest(name, SOLVERS)}")
    taken = inspect.signature(SOLVERS[name]).parameters
    given = {k: _value(k, v) for k, v in options.items() if v is not None}
    for key in given:
        if key not in taken or key in _OWN:
            names = [k for k in taken if k not in _OWN]
            raise ValueError(
                f"solver {name!r} takes no {key!r}; it takes {', '.join(names)}{_HINT}"
            )
    for key, parameter in taken.items():
        if parameter.default is parameter.empty and key not in (*given, *_OWN):
            raise ValueError(f"solver {name!r} needs {key!r}{_HINT}")
    if "project_theta" in taken and task.project_theta is not None:
        given["project_theta"] = task.project_theta
    for level in ("upper", "lower"):
        if f"{level}_samples" in taken:
            samples = getattr(task, level)
            given[f"{level}_samples"] = 1 if samples is None else _blocks(samples.size, batch_size)
    return SOLVERS[name](**given)


def _value(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        if len(value) != 1:
            raise ValueError(f"{key} must be a number or {{name: arguments}}, got {dict(value)}")
        ((kind, arguments),) = value.items()
    elif isinstance(value, tuple | list) and value and isinstance(value[0], str):
        kind, *arguments = value
    else:
        return value
    arguments = [float(a) for a in np.atleast_1d(arguments)]
    if kind == "power":
        return bilevel.power(*arguments)
    known = optimizers.OPTIMIZERS
    if kind not in known:
        names = {**known, "power": None}
        raise ValueError(f"{key}: unknown {kind!r}; {_checks.nearest(kind, names)}")
    return known[kind](*arguments)


def _blocks(size: int, batch_size: int) -> int:
    return max(1, size // batch_size) if batch_size else 1


def feed(
    solver: bilevel.Solver, task: Task, batch_size: int, seed: int
) -> tuple[Callable[[int], Iterator[Any]] | None, Callable[[Any, Any, Any], Any] | None]:
    """Returns ``(batches, prepare)`` for the loop; ``(None, None)`` where nothing is sampled.

    Batches are drawn with repeats by ``(seed, step)`` alone, independently for the levels, and for
    methods that take :class:`bilevel.Samples` also for each gradient and inner step. SABA gets one
    fixed block of samples at a time. Of several processes each yields its own part of a batch.
    """
    if task.upper is None or task.lower is None:
        return None, None
    upper, lower = task.upper, task.lower
    if solver.batch == "components":
        n, m = (_blocks(level.size, batch_size) for level in (upper, lower))

        def components(data, ids, key):
            del key
            size = (batch_size or level.size for level in (upper, lower))
            rows = (i * s + jnp.arange(s) for i, s in zip(ids, size, strict=True))
            return tuple(
                (i, level.take(data, r))
                for i, level, r in zip(ids, (upper, lower), rows, strict=True)
            )

        return _drawn(lambda rng: tuple(rng.integers((n, m)).astype(np.int32)), seed), components
    if not batch_size:
        everything = slice(None)
        return None, lambda data, inputs, key: (
            upper.take(data, everything),
            lower.take(data, everything),
        )
    inner = (solver.inner_steps,) if solver.inner_steps else ()

    def draw(rng, level, many=()):
        return rng.integers(level.size, size=(batch_size, *many)).astype(np.int32)

    def take(data, inputs, key):
        del key
        if not isinstance(inputs, bilevel.Samples):
            return upper.take(data, inputs[0]), lower.take(data, inputs[1])
        levels = (upper, lower, lower, upper, lower, lower)
        # The loop splits the leading axis over devices: the samples come first until here.
        s = [jnp.moveaxis(i, 0, -1) for i in inputs]
        return bilevel.Samples(*(level.take(data, i) for level, i in zip(levels, s, strict=True)))

    if solver.batch == "pair":
        return _drawn(lambda rng: (draw(rng, upper), draw(rng, lower)), seed), take

    def six(rng):
        many = [draw(rng, level, inner) for level in (upper, lower, lower)]
        return bilevel.Samples(*many, *(draw(rng, level) for level in (upper, lower, lower)))

    return _drawn(six, seed), take


def _drawn(draw, seed):
    def batches(start):
        step = start
        while True:
            drawn = draw(np.random.Generator(np.random.Philox(key=[seed, step])))
            yield jax.tree.map(_own_part, drawn)
            step += 1

    return batches


def _own_part(index: np.ndarray) -> np.ndarray:
    """The samples of this process; a component is that of all of them."""
    if not np.ndim(index):
        return index
    size = len(index) // jax.process_count()
    return index[jax.process_index() * size :][:size]
