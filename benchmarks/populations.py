"""Five settings of a method side by side against the same ones after another, on the comparison.

    python -m benchmarks.populations --data_dir=DATA --out=results/compare/populations_cpu.md

Both make the same runs in turns, after a first turn that compiles. The comparison runs a workload
one by one where that is quicker (``side_by_side`` of the workload).
"""

import shlex
import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from experiments.common import files, launch, provenance
from experiments.common import markdown as md
from experiments.comparing import methods, training, workloads

WORKLOADS = ("softmax", "autoencoder", "modular", "fashion_cnn")


def main(argv) -> None:
    """Measures and writes."""
    del argv
    rows, data_dir = [], flags.FLAGS.data_dir
    for name in flags.FLAGS.workloads:
        workload = workloads.build(name, data_dir)
        version = workloads.fingerprint(workload)
        for method in methods.find("AdamW, Lion"):
            configs = [
                training.config_of(name, version, method, setting, 1, workload.budget)
                for setting in methods.trials(method, 0, 5)
            ]
            taken = np.array([_turn(configs, data_dir) for _ in range(flags.FLAGS.rounds + 1)])[1:]
            together, alone = np.median(taken, 0)
            cells = [f"{together:.2f}", f"{alone:.2f}", f"{together / alone:.2f}"]
            rows.append([name, method.name, *cells])
    asked = [word for word in sys.argv[1:] if not word.startswith(("--out", "--machine"))]
    head = ["workload", "method", "side by side, s", "one by one, s", "ratio"]
    lines = [
        "# Five settings of a method as one population",
        "",
        f"{flags.FLAGS.machine or provenance.machine()}; jax {jax.__version__}.",
        f"`python -m benchmarks.populations {shlex.join(asked)}`, medians of"
        f" {flags.FLAGS.rounds} turns.",
        "",
        *md.table(head, rows, "llrrr"),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if flags.FLAGS.out:
        files.write(Path(flags.FLAGS.out), text)


def _turn(configs, data_dir) -> tuple[float, float]:
    start = time.perf_counter()
    training.run_population(configs, data_dir)
    middle = time.perf_counter()
    for config in configs:
        training.run(config, data_dir)
    return middle - start, time.perf_counter() - middle


if __name__ == "__main__":
    flags.DEFINE_list("workloads", list(WORKLOADS), "Workloads.")
    flags.DEFINE_string("data_dir", None, "Folder of real data, for fashion_cnn.")
    flags.DEFINE_integer("rounds", 3, "Turns that count.", lower_bound=1)
    flags.DEFINE_string("out", "", "Markdown file to write beside printing.")
    flags.DEFINE_string("machine", "", "The machine, in words, for the header.")
    launch.use_compilation_cache()
    sys.exit(launch.guard(lambda: app.run(main)))
