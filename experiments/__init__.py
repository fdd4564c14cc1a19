"""Mains that train, solve, prune and reproduce, and what they share."""

import os
import signal
import sys


def _interrupted(signum: int, _: object) -> None:
    """Ends a main that is still importing; ``launch`` handles the signal from then on."""
    os.write(2, b"interrupted before anything began\n")
    os._exit(128 + signum)


if sys.argv[:1] == ["-m"]:  # So it is while `python -m experiments.train` looks for the main.
    signal.signal(signal.SIGINT, _interrupted)
