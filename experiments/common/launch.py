"""What every main shares: processes, signals, the compilation cache, one-line errors."""

import hashlib
import itertools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from experiments.common import config_files, provenance

# A process that does not come up, or stops answering, ends the others after this many seconds.
START_TIMEOUT, HEARTBEAT_TIMEOUT, SHUTDOWN_TIMEOUT = 120, 10, 30
INTERRUPTED, PREEMPTED = 128 + signal.SIGINT, 128 + signal.SIGTERM
SHARED_FLAGS = ("config", "workdir", "data_dir", "coordinator", "num_processes", "process_id")
USER_ERRORS = (
    ValueError,
    OSError,
    ArithmeticError,
    flags.Error,
    jax.errors.JaxRuntimeError,
)


_told: list[int] = []  # Signals that told this run to stop.


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
    address = flags.FLAGS.coordinator
    if address is None:
        return
    if address == "auto":
        where: dict[str, Any] = {}
    else:
        if flags.FLAGS.num_processes is None or flags.FLAGS.process_id is None:
            raise ValueError("--coordinator=host:port needs --num_processes and --process_id")
        where = {
            "coordinator_address": address,
            "num_processes": flags.FLAGS.num_processes,
            "process_id": flags.FLAGS.process_id,
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
        # Processes agree on one of the coming polls by its number, so that must rise by ones.
        poll = itertools.count()
        return lambda step: multihost_utils.reached_preemption_sync_point(next(poll))

    def note(signum, _):
        if _told:  # The second Ctrl-C does not wait.
            os._exit(128 + signum)
        _told.append(signum)
        os.write(2, b"\nstopping after this call; once more ends at once, without a save\n")

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)
    return lambda step: bool(_told)


def stopped(step: int, workdir: Path) -> int:
    """Says where a run goes on that saved itself on a signal; returns its exit status."""
    print(f"stopped after step {step}; the same command resumes {workdir}")
    return 128 + (_told[0] if _told else signal.SIGTERM)


def default_workdir(config: ConfigDict, file: Path, more: Sequence[Any] = ()) -> str:
    """Returns ``runs/NAME-HASH`` of a config, of ``more``, and of code that its file brings along.

    A model of one's own that has changed is another run.
    """
    text = config.to_json_best_effort(sort_keys=True) + str(list(more))
    own = provenance.own_code(file)
    text += own if own != provenance.own_code() else ""
    return f"runs/{file.stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def launch(main: Callable[[Any, Path, str | None], int], config: str, *identity: str) -> None:
    """Runs ``main(config, workdir, data_dir)`` on the flags; ends the process with its status.

    Errors of use become one line and status 1; ``--verbosity=1`` shows the whole traceback.

    Args:
      main: The body.
      config: Default of ``--config``, relative to the repository.
      *identity: Flags that, besides the config, tell one default workdir from another.
    """
    flags.DEFINE_string(
        "config",
        config,
        "Config file with its argument, FILE or FILE:smoke. Change a key: --config.a.b=1. Keys are "
        "explained in configs/common.py, those of solve and prune in configs/bilevel/common.py and "
        "configs/pruning/common.py; a run's config.json lists all.",
    )
    flags.DEFINE_string(
        "workdir", None, "Where the run is left and resumed from; default: runs/NAME-HASH."
    )
    flags.DEFINE_string("data_dir", None, "Folder that holds one folder per data set.")
    flags.DEFINE_string(
        "coordinator",
        None,
        "Several processes: 'host:port' of process 0 (give the next two flags too), or 'auto' to "
        "read the cluster's environment (TPU pods, SLURM, Kubernetes, MPI).",
    )
    flags.DEFINE_integer("num_processes", None, "Number of processes.")
    flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
    for name in SHARED_FLAGS:  # --help shows the flags of the main module alone.
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    argv, texts = config_files.overrides(sys.argv)

    def parse(argv):
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise ValueError(f"unexpected argument {rest[1]!r}; flags start with --")
        return rest

    def body():
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # JAX and Orbax tell much at INFO.
        use_compilation_cache()
        connect()
        file = flags.FLAGS.config
        chosen = config_files.override_texts(config_files.load(file), texts).lock()
        workdir = flags.FLAGS.workdir
        if workdir is None:
            more = [flags.FLAGS[name].value for name in identity]
            workdir = default_workdir(chosen, config_files.split(file)[0], more)
        return main(chosen, Path(workdir).expanduser(), flags.FLAGS.data_dir)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # Imports are over.
    code = guard(lambda: app.run(lambda _: sys.exit(guard(body)), argv, flags_parser=parse))
    sys.exit(code)


def guard(body: Callable[[], int | None]) -> int:
    """Returns the exit status of ``body``; an error of use prints one line."""
    try:
        code = body() or 0
    except USER_ERRORS as error:
        if logging.get_verbosity() > 0:
            traceback.print_exc()
        text = " ".join(str(error).split())
        print(f"{type(error).__name__}: {text}", file=sys.stderr, flush=True)
        code = 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr, flush=True)
        code = INTERRUPTED
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    if jax.distributed.is_initialized():
        if code not in (0, INTERRUPTED, PREEMPTED):
            # Python would wait at exit for the other processes, and they for this one.
            os._exit(code)
        jax.distributed.shutdown()
    return code
