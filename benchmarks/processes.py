"""Two processes against one: the same numbers; what happens when one is killed, or told to stop.

    python -m benchmarks.processes

Trains the digits in two processes on this machine with SGD and momentum, compares every metric with
those of one process, then kills one of the two, waits for the other to end, and resumes; then sends
SIGTERM, and resumes.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from experiments import train
from experiments.common import config_files, runs

SGD = ("optimizer.name=sgd", "optimizer.momentum=0.9", "optimizer.learning_rate=0.1")


def start(workdir: Path, count: int, steps: int, every: int) -> list[subprocess.Popen]:
    """Starts the run in ``count`` processes."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    keys = (*SGD, f"steps={steps}", f"eval_every={every}", f"log_every={min(every, 10)}")
    command = [sys.executable, "-m", "experiments.train", f"--workdir={workdir}"]
    command += [f"--config.{key}" for key in keys]
    if count > 1:
        command += [f"--coordinator=localhost:{port}", f"--num_processes={count}"]
    return [
        subprocess.Popen(
            command + ([f"--process_id={i}"] if count > 1 else []),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
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


def difference_from_one_process(folder: Path) -> float:
    """Returns the largest relative difference of any metric over 20 steps of SGD."""
    processes = start(folder / "2", 2, steps=20, every=20)
    keys = dict(key.split("=") for key in (*SGD, "steps=20", "eval_every=20", "log_every=10"))
    config = config_files.override_texts(config_files.load("configs/digits.py"), keys)
    train.run(config, folder / "1", quiet=True)  # The one is this process, meanwhile.
    outputs = [p.communicate(timeout=300)[0] for p in processes]
    if any(p.returncode for p in processes):
        raise RuntimeError("\n".join(outputs))
    pairs = zip(rows(folder / "1"), rows(folder / "2"), strict=True)
    return max(np.abs(a[k] - b[k]) / max(abs(a[k]), 1e-6) for a, b in pairs for k in a)


def wait_for(workdir: Path, step: int) -> None:
    """Waits until the run has logged ``step``."""
    log = workdir / "metrics.jsonl"
    while not log.exists() or f'"step": {step},' not in log.read_text():
        time.sleep(0.05)


def main() -> None:
    """Prints what was measured."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"largest relative difference: {difference_from_one_process(folder):.1e}")
        finish(start(folder / "calm", 2, steps=1000, every=100))
        for victim in (0, 1):
            workdir = folder / f"killed-{victim}"
            processes = start(workdir, 2, steps=1000, every=100)
            wait_for(workdir, 200)
            processes[victim].kill()
            begun = time.monotonic()
            output, _ = processes[1 - victim].communicate(timeout=300)
            print(
                f"process {victim} killed: the other ended after {time.monotonic() - begun:.1f} s"
            )
            print("  with: " + output.strip().splitlines()[-1][:150])
            codes = finish(start(workdir, 2, steps=1000, every=100))
            print(
                f"  rerun: statuses {codes}, same lines: {rows(workdir) == rows(folder / 'calm')}"
            )
        workdir = folder / "told"
        processes = start(workdir, 2, steps=1000, every=100)
        wait_for(workdir, 200)
        processes[1].send_signal(signal.SIGTERM)
        outputs = [p.communicate(timeout=300)[0].strip().splitlines()[-1] for p in processes]
        print(f"SIGTERM to process 1: statuses {[p.returncode for p in processes]}")
        print("  with: " + "; ".join(o[:60] for o in outputs))
        for run in ("rerun", "once more"):
            codes = finish(start(workdir, 2, steps=1000, every=100))
            same = rows(workdir) == rows(folder / "calm")
            print(f"  {run}: statuses {codes}, same lines: {same}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
