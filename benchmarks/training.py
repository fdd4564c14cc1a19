"""Training steps on a CPU beside PyTorch's, on the same cores, in turns.

    python -m benchmarks.training --out=results/training_cpu.json
    taskset -c 0 python -m benchmarks.training --cores=1          # one core
    XLA_FLAGS=... python -m benchmarks.training --only ResNet-20 --out=results/training_cpu.json

A call under ``XLA_FLAGS`` adds a table to the page of the call without.

float32, AdamW, batches of noise; PyTorch (not compiled, channels last, fused AdamW) is left out if
it is missing. The goals were set beforehand: at least as many examples per second as PyTorch for
the MLP and the transformer, .8 of them for ResNet-20.
"""

import json
import os
import statistics
import textwrap
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
    " eight times as long for a batch of 128 (3.8 s) as for one of 32 (.46 s). XLA's own"
    " convolutions, by the flag above, take half of that (1.9 s); they round in another way, so"
    " that the mains leave the choice to you. In a step of the transformer such products, of"
    " matrices 128 wide, are half of the time, copies and elementwise passes between them four"
    " tenths."
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
    versions = f", PyTorch {results['torch']}" if results["torch"] else ""
    lines = [
        "# Training steps on a CPU",
        "",
        f"`{results['command']}` on {results['machine']}, {results['cores']} of them used; jax"
        f" {results['versions']['jax']}{versions}. float32, AdamW; medians of"
        f" {results['rounds']} rounds in turns, the ratio by rounds.",
        "",
        *_table(results["models"]),
        "",
    ]
    for flags, more in results.get("flags", {}).items():
        lines += [f"The same with `XLA_FLAGS={flags}`, {more['rounds']} rounds:", ""]
        lines += [*_table(more["models"]), ""]
    return "\n".join([*lines, *textwrap.wrap(LIMITS, 100), ""])


def _table(models: list[dict[str, Any]]) -> list[str]:
    rows = []
    for row in models:
        goal, speed = TIMED[row["name"]][1], row["of PyTorch"]
        cells = [f"{row['per second'][k]:.0f}" if k in row["per second"] else "–" for k in SIDES]
        met = "" if goal is None else f"{goal:g}"
        if goal is not None and speed is not None and speed < goal:
            met += ", missed"
        cells += ["–" if speed is None else f"{speed:.2f}", met]
        rows.append([row["name"], row["examples"], *cells])
    head = ["", "batch", *(f"examples/s, {k}" for k in SIDES), "ours / PyTorch", "goal"]
    return markdown.table(head, rows, "lrrrrl")


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
    flags = os.environ.get("XLA_FLAGS", "")
    if flags and args.out and args.out.exists():
        results = json.loads(args.out.read_text(encoding="utf-8"))
        results.setdefault("flags", {})[flags] = {"rounds": rounds, "models": found}
        _report.write(results, page, args.out)
        return
    results = _report.found_with("python -m benchmarks.training")
    try:
        import torch

        version = torch.__version__
    except ImportError:
        version = None
    results |= {"cores": args.cores, "rounds": rounds, "torch": version, "models": found}
    _report.write(results, page, args.out)


if __name__ == "__main__":
    main()
