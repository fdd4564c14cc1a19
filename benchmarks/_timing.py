"""What a step costs: bytes by the compiler, and times taken in turns."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from benchmarks._shapes import elements

__all__ = ["Cost", "cost", "donated_step", "in_turns", "ratio"]


class Cost(NamedTuple):
    """Bytes per parameter of one donated update, by the compiler.

    Attributes:
      state: Size of the optimizer's state.
      accessed: Bytes read and written; the body of a loop counts once.
      temporary: Peak of what the step allocates beside its arguments and results.
    """

    state: float
    accessed: float
    temporary: float


def donated_step(tx: optax.GradientTransformation) -> Any:
    """Returns the jitted ``(params, state, grads) -> (params, state)`` that donates the two."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def cost(
    tx: optax.GradientTransformation, params: Any, compiler_options: dict | None = None
) -> Cost:
    """Returns the cost of one update of ``params``, a tree of shapes; nothing is allocated."""
    state = jax.eval_shape(tx.init, params)
    compiled = donated_step(tx).lower(params, state, params).compile(compiler_options)
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    temporary = compiled.memory_analysis().temp_size_in_bytes
    total = held, compiled.cost_analysis()["bytes accessed"], temporary
    return Cost(*(x / elements(params) for x in total))


def in_turns(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: int = 1,
) -> dict[str, list[float]]:
    """Returns the seconds of each call in each round, in random order within a round.

    A machine that slows down slows all that is in a round. Order and pauses matter: who comes next
    pays for memory given back and for spinning threads.

    Args:
      calls: Functions of no argument, by name; what they return is waited for.
      rounds: Number of timed rounds, at least 1.
      clock: ``time.process_time`` leaves out what other processes take.
      warm_up: Rounds before them, which compile and are not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    rng = np.random.default_rng(0)
    for turn in range(warm_up + rounds):
        for name in rng.permutation(list(calls)):
            time.sleep(0.02)
            begin = clock()
            jax.block_until_ready(calls[name]())
            if turn >= warm_up:
                seconds[name].append(clock() - begin)
    return seconds


def ratio(times: dict[str, list[float]], name: str, baseline: str) -> float:
    """Returns the median over rounds of the time of ``name`` in that of ``baseline``."""
    return statistics.median(a / b for a, b in zip(times[name], times[baseline], strict=True))
