"""Times of functions that take turns, so that a busy machine is unfair to none of them."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def in_turns(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Returns the seconds of each call in each round; the round before them compiles.

    Args:
      calls: Functions of no argument, by name; what they return is waited for.
      rounds: Number of timed rounds, at least 1.
      clock: ``time.process_time`` leaves out what other processes take.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            begin = clock()
            jax.block_until_ready(call())
            if turn:
                seconds[name].append(clock() - begin)
    return seconds
