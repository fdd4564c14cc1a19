"""Kills a command again and again, and starts it again, until it ends by itself."""

import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any


def run_killed(
    command: Sequence[str], kills: int, mark: Callable[[], Any], pause: Callable[[int], float]
) -> int:
    """Repeats the command until it ends, and returns how often it was killed.

    Args:
      command: What is run.
      kills: Most kills, at least 0.
      mark: Something of what the run has left so far; a kill waits until it changes.
      pause: ``pause(done)``: seconds from that change to the kill after ``done`` others.

    Raises:
      RuntimeError: The command failed by itself.
    """
    for done in range(kills + 1):
        before = mark()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if done < kills:
            while process.poll() is None and mark() == before:
                time.sleep(0.001)
            time.sleep(pause(done))
            process.kill()
        code = process.wait()
        if code == 0:
            return done
    raise RuntimeError(f"status {code} from {' '.join(command)}")
