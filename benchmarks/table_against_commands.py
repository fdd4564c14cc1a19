"""Time of a table against a shell loop of single commands that make the same runs.

    python -m benchmarks.table_against_commands

Both start with an empty compilation cache, which the commands then share among themselves. Prints
the two times and their ratio; the numbers of both must agree.
"""

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments import reproduce
from experiments.common import launch
from experiments.tables import definition


def small() -> definition.Table:
    """Three methods, three learning rates, two seeds: 18 runs of 600 steps."""
    table = definition.load("digits_optimizers")
    grid = {"optimizer.learning_rate": [1e-3, 3e-3, 1e-2]}
    return dataclasses.replace(table, grid=grid, seeds=(0, 1), packed=2)


def command(table: definition.Table, run: definition.Run, workdir: Path) -> list[str]:
    """The single command of one run."""
    keys = {**table.base, **table.rows[run.row], **table.columns[run.column], **run.point}
    overrides = [f"--config.{key}={value}" for key, value in (keys | {"seed": run.seed}).items()]
    main = [sys.executable, "-m", f"experiments.{table.main}", f"--config={table.config}"]
    return [*main, *overrides, f"--workdir={workdir}"]


def main() -> None:
    """Times both."""
    table = small()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)

        def timed(argv: list[str], cache: str) -> float:
            start = time.perf_counter()
            environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(out / cache)}
            subprocess.run(
                argv, cwd=definition.ROOT, env=environment, check=True, capture_output=True
            )
            return time.perf_counter() - start

        whole = timed([sys.executable, "-m", __spec__.name, str(out / "table")], "cache_of_table")
        runs, singles, largest = definition.plan(table), 0.0, 0.0
        numbers = json.loads((out / "table" / f"{table.name}.json").read_text())["runs"]
        for i, run in enumerate(runs):
            argv = command(table, run, out / str(i))
            if i == 0:
                print(f"{len(runs)} commands such as {shlex.join(argv[1:-1])}", flush=True)
            singles += timed(argv, "cache_of_commands")
            lines = (out / str(i) / "metrics.jsonl").read_text().splitlines()
            last = [json.loads(line) for line in lines]
            alone = next(row["valid/loss"] for row in reversed(last) if "valid/loss" in row)
            there = numbers[i]["final"]["valid/loss"]
            largest = max(largest, abs(there - alone) / abs(alone))
    print(f"table {whole:.1f} s, commands {singles:.1f} s, ratio {whole / singles:.2f}")
    print(f"largest relative difference of the final validation loss: {largest:.1e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out_dir", nargs="?", type=Path, help="only make the table, there")
    out_dir = parser.parse_args().out_dir
    if out_dir is None:
        main()
    else:
        launch.use_compilation_cache()
        reproduce.execute(small(), out_dir)
