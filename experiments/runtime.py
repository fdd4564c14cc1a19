"""What every main shares: processes, signals, the compilation cache, one-line errors."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from jax.experimental import multihost_utils

_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "Several processes: 'host:port' of process 0 (give the next two flags too), or 'auto' to read "
    "the cluster's environment (TPU pods, SLURM, Kubernetes, MPI).",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")

# A process that does not come up, or stops answering, ends the others after this many seconds.
START_TIMEOUT, HEARTBEAT_TIMEOUT, SHUTDOWN_TIMEOUT = 120, 10, 30
PREEMPTED = 128 + signal.SIGTERM


class Preempted(Exception):
    """The run was told to stop, and saved its state after step ``step``."""

    def __init__(self, step: int):
        self.step = step
        super().__init__(f"stopped after step {step}")


def use_compilation_cache() -> None:
    """Keeps compiled programs on disk, so that a second start of the same config is quick.

    The folder is ``JAX_COMPILATION_CACHE_DIR`` or ``~/.cache/optim-bilevel``.
    """
    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "optim-bilevel"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def connect() -> None:
    """Joins the processes named by the flags; does nothing in a run of one process.

    From then on an uncaught exception ends this process at once. Without that, Python waits at
    exit for peers that wait for it: minutes of silence.
    """
    address = _COORDINATOR.value
    if address is None:
        return
    if address == "auto":
        where: dict[str, Any] = {}
    else:
        if _NUM_PROCESSES.value is None or _PROCESS_ID.value is None:
            raise ValueError("--coordinator=host:port needs --num_processes and --process_id")
        where = {
            "coordinator_address": address,
            "num_processes": _NUM_PROCESSES.value,
            "process_id": _PROCESS_ID.value,
            "cluster_detection_method": "deactivate",
        }
    jax.distributed.initialize(
        **where,
        initialization_timeout=START_TIMEOUT,
        heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
        shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
    )


def preemption() -> Callable[[int], bool]:
    """Returns ``stop(step)``: whether SIGTERM (or Ctrl-C) came, the same answer on all processes.

    In a run of several processes the first to be told makes all agree on one later step.
    """
    if jax.process_count() > 1:
        return multihost_utils.reached_preemption_sync_point
    told = []

    def note(signum, _):
        if told:  # The second Ctrl-C does not wait.
            os._exit(128 + signum)
        told.append(signum)

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)
    return lambda step: bool(told)


def launch(main: Callable[[], int | None]) -> None:
    """Runs ``main`` under absl: errors of use become one line and exit status 1.

    ``--verbosity=1`` shows the whole traceback.
    """

    def body(argv):
        if len(argv) > 1:
            raise app.UsageError(f"unexpected argument {argv[1]!r}")
        if flags.FLAGS.verbosity <= 0:
            logging.set_verbosity(logging.WARNING)  # Orbax logs forty lines a save.
        try:
            use_compilation_cache()
            connect()
            code = main() or 0
        except (ValueError, OSError, ArithmeticError, jax.errors.JaxRuntimeError) as error:
            if logging.get_verbosity() > 0:
                traceback.print_exc()
            text = " ".join(str(error).split())
            print(f"{type(error).__name__}: {text}", file=sys.stderr, flush=True)
            code = 1
        except BaseException:
            traceback.print_exc()
            code = 1
        if jax.distributed.is_initialized():
            if code not in (0, PREEMPTED):
                os._exit(code)
            jax.distributed.shutdown()
        sys.stdout.flush()
        sys.exit(code)

    app.run(body)
