"""Two processes of four devices against one device; what happens when one is killed or stopped.

    python -m benchmarks.processes

Trains the digits in two processes on this machine, four virtual devices each, with parameters and
states split over all eight. After 20 steps of SGD with momentum and of AdamP, metrics and final
state, restored on one device, are compared with those of one process of one device: in float32, and
in float64 (JAX_ENABLE_X64), where a difference that is rounding alone all but vanishes. Largest
differences of a metric or a leaf, relative to its norm and to its largest element:

    ======  ==================  ==================
            float32             float64
    ======  ==================  ==================
    SGD     2.1e-7, 2.9e-7      3.8e-16, 5.6e-16
    AdamP   2.3e-7, 3.4e-6      1.7e-14, 1.5e-13
    ======  ==================  ==================

Then FRUGAL, whose subspace changes on the way: one of the two processes is killed, the other
ends by itself, and the same command resumes; then SIGTERM, and the checkpoint goes on with all
eight devices, with two and with one.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import kill_and_resume
from experiments import train
from experiments.common import config_files, runs

_ADAMP = {
    "optimizer.name": "adamp",
    "optimizer.learning_rate": "0.01",
    "optimizer.weight_decay": "0.0",
}
OPTIMIZERS = {
    "sgd": {
        "optimizer.name": "sgd",
        "optimizer.learning_rate": "0.1",
        "optimizer.momentum": "0.9",
    },
    "adamp": _ADAMP,
    "sgd and adamp": {
        **_ADAMP,
        "groups": "(('layers_1', {'name': 'sgd', 'lr_mult': 10.0, 'momentum': 0.9}), ('', {}))",
    },
    "frugal": {
        "optimizer.name": "frugal",
        "optimizer.density": "0.5",
        "optimizer.update_gap": "40",
        "optimizer.learning_rate": "0.003",
        "optimizer.weight_decay": "0.0",
    },
}


def keys_of(optimizer: str, steps: int, every: int) -> dict[str, str]:
    """Returns the keys of the config that a run changes, as text."""
    lengths = {"steps": steps, "eval_every": every, "log_every": min(every, 10)}
    return OPTIMIZERS[optimizer] | {k: str(v) for k, v in lengths.items()}


def start(
    workdir: Path, keys: dict[str, str], count: int = 2, devices: int = 4, x64: bool = False
) -> list[subprocess.Popen]:
    """Starts the run in ``count`` processes of so many devices, its state split over all."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "experiments.train", f"--workdir={workdir}"]
    command += [f"--config.{k}={v}" for k, v in keys.items()]
    command += ["--sharding=fsdp"] if count * devices > 1 else []
    if count > 1:
        command += [f"--coordinator=localhost:{port}", f"--num_processes={count}"]
    where = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    where["JAX_ENABLE_X64"] = str(int(x64))
    return [
        subprocess.Popen(
            command + ([f"--process_id={i}"] if count > 1 else []),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **where},
        )
        for i in range(count)
    ]


def finish(processes: list[subprocess.Popen]) -> list[int]:
    """Waits; returns the statuses."""
    return [p.wait(timeout=300) for p in processes]


def rows(workdir: Path) -> list[dict]:
    """Returns the lines of metrics.jsonl without time fields."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k not in runs.TIME_FIELDS} for line in lines
    ]


class Difference(NamedTuple):
    """The largest difference of two lists of named arrays.

    Attributes:
      by_norm: The norm of a difference over that of the array.
      by_element: The largest entry of a difference over that of the array.
    """

    by_norm: float
    by_element: float

    def __str__(self) -> str:
        return f"{self.by_norm:.1e} of a norm, {self.by_element:.1e} of a largest element"


def difference(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> Difference:
    """Compares two lists of named arrays or numbers."""

    def largest(size):
        pairs = [(one[k], two[k]) for one, two in zip(a, b, strict=True) for k in one]
        return max(size(np.subtract(x, y)) / max(size(np.asarray(x)), 1e-6) for x, y in pairs)

    return Difference(float(largest(np.linalg.norm)), float(largest(lambda x: np.abs(x).max())))


def difference_from_one_process(folder: Path, optimizer: str, x64: bool) -> Difference:
    """Compares metrics and state after 20 steps with those of one device of this process."""
    keys = keys_of(optimizer, steps=20, every=20)
    processes = start(folder / "2", keys, x64=x64)
    config = config_files.override_texts(config_files.load("configs/digits.py"), keys)
    with jax.enable_x64(x64):
        train.run(config, folder / "1", quiet=True)  # The one is this process, meanwhile.
        outputs = [p.communicate(timeout=300)[0] for p in processes]
        if any(p.returncode for p in processes):
            raise RuntimeError("\n".join(outputs))
        one, two = (kill_and_resume.outcome(folder / n, None) for n in "12")
    return difference([*one[0], one[1]], [*two[0], two[1]])


def wait_for(workdir: Path, step: int) -> None:
    """Waits until the run has logged ``step``."""
    log = workdir / "metrics.jsonl"
    while not log.exists() or f'"step": {step},' not in log.read_text():
        time.sleep(0.05)


def main() -> None:
    """Prints what was measured."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for optimizer in ("sgd", "adamp"):
            for x64 in (False, True):
                kind = "float64" if x64 else "float32"
                found = difference_from_one_process(folder / optimizer / kind, optimizer, x64)
                print(f"{optimizer}, {kind}: largest difference {found}", flush=True)
        keys = keys_of("frugal", steps=300, every=50)
        finish(start(folder / "calm", keys))
        calm = rows(folder / "calm")
        for victim in (0, 1):
            workdir = folder / f"killed-{victim}"
            processes = start(workdir, keys)
            wait_for(workdir, 100)
            processes[victim].kill()
            begun = time.monotonic()
            output, _ = processes[1 - victim].communicate(timeout=300)
            print(
                f"process {victim} killed: the other ended after {time.monotonic() - begun:.1f} s"
            )
            print("  with: " + output.strip().splitlines()[-1][:150])
            codes = finish(start(workdir, keys))
            print(f"  rerun: statuses {codes}, same lines: {rows(workdir) == calm}")
        workdir = folder / "told"
        processes = start(workdir, keys)
        wait_for(workdir, 100)
        processes[1].send_signal(signal.SIGTERM)
        outputs = [p.communicate(timeout=300)[0].strip().splitlines()[-1] for p in processes]
        print(f"SIGTERM to process 1: statuses {[p.returncode for p in processes]}")
        print("  with: " + "; ".join(o[:60] for o in outputs))
        for count, devices in ((1, 2), (1, 1), (2, 4)):
            again = shutil.copytree(workdir, folder / f"again-{count}x{devices}")
            codes = finish(start(again, keys, count, devices))
            found = difference(calm, rows(again)).by_norm
            print(f"  on {count} x {devices} devices: statuses {codes}, difference {found:.1e}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
