"""Training steps on a CPU beside PyTorch's, on the same cores, in turns.

    python -m benchmarks.training --out=results/training_cpu.json
    taskset -c 0 python -m benchmarks.training --cores=1          # one core

float32, AdamW, batches of noise; PyTorch (not compiled, channels last, fused AdamW) is left out if
it is missing. The goals were set beforehand: at least as many examples per second as PyTorch for
the MLP and the transformer, .8 of them for ResNet-20.
"""

import os
import statistics
import textwrap
from pathlib import Path
from typing import Any

import jax

from benchmarks import _report, _training
from benchmarks._timing import in_turns, ratio
from experiments.common import markdown

# Examples of a batch, and the least share of PyTorch's speed that was hoped for.
TIMED: dict[str, tuple[int, float | None]] = {
    "MLP": (128, 1.0),
    "LeNet-5": (128, None),
    "ResNet-20": (128, 0.8),
    "character transformer": (32, 1.0),
}


# Of profiles of single steps (jax.profiler), by the processor's time.
LIMITS = (
    "What limits it, by profiles of single steps on 2 cores of an AMD EPYC with other work on them."
    " XLA runs products and convolutions as fusions of YNNPACK, on both cores. In a step of"
    " ResNet-20 they are 64 % of the time and transposes between them 29 %; the processor takes"
    " eight times as long for a batch of 128 (3.8 s) as for one of 32 (.46 s). By XLA's own"
    " convolutions, `XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=`, it takes half of that"
    " (1.9 s). In a step of the transformer such products, of matrices 128 wide, are half of the"
    " time, copies and elementwise passes between them four tenths."
)


def measure(name: str, examples: int, rounds: int, cores: int) -> dict[str, Any]:
    """Times steps of both in turns."""
    calls = {"ours": _training.runner(name, examples)}
    try:
        import torch

        from benchmarks import _torch_training
    except ImportError:
        pass
    else:
        torch.set_num_threads(cores)
        calls["PyTorch"] = _torch_training.runner(name, examples)
    times = in_turns(calls, rounds, warm_up=2)
    found = {k: examples / statistics.median(v) for k, v in times.items()}
    speed = ratio(times, "PyTorch", "ours") if "PyTorch" in times else None
    return {"name": name, "examples": examples, "per second": found, "of PyTorch": speed}


def page(results: dict[str, Any]) -> str:
    """The Markdown of the results."""
    rows = []
    for row in results["models"]:
        goal, speed = TIMED[row["name"]][1], row["of PyTorch"]
        cells = [f"{row['per second'][k]:.0f}" if k in row["per second"] else "–" for k in SIDES]
        met = "" if goal is None else f"{goal:g}"
        if goal is not None and speed is not None and speed < goal:
            met += ", missed"
        cells += ["–" if speed is None else f"{speed:.2f}", met]
        rows.append([row["name"], row["examples"], *cells])
    head = ["", "batch", *(f"examples/s, {k}" for k in SIDES), "ours / PyTorch", "goal"]
    versions = f", PyTorch {results['torch']}" if results["torch"] else ""
    return "\n".join(
        [
            "# Training steps on a CPU",
            "",
            f"`{results['command']}` on {results['machine']}, {results['cores']} of them used; jax"
            f" {results['versions']['jax']}{versions}. float32, AdamW; medians of"
            f" {results['rounds']} rounds in turns, the ratio by rounds.",
            "",
            *markdown.table(head, rows, "lrrrrl"),
            "",
            *textwrap.wrap(LIMITS, 100),
            "",
        ]
    )


SIDES = ("ours", "PyTorch")


def main():
    parser = _report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", nargs="*", default=list(TIMED), choices=list(TIMED))
    parser.add_argument("--smoke", action="store_true", help="Small batches, two rounds.")
    args = parser.parse_args()
    rounds = 2 if args.smoke else args.rounds
    found = []
    for name in args.only:
        examples = 4 if args.smoke else TIMED[name][0]
        found.append(measure(name, examples, rounds, args.cores))
        print(found[-1], flush=True)
        jax.clear_caches()
    results = _report.found_with("python -m benchmarks.training")
    try:
        import torch

        version = torch.__version__
    except ImportError:
        version = None
    results |= {"cores": args.cores, "rounds": rounds, "torch": version, "models": found}
    _report.write(results, page, Path(args.out) if args.out else None)


if __name__ == "__main__":
    main()
