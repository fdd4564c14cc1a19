"""Training steps on a CPU beside PyTorch's, on the same cores, in turns.

    python -m benchmarks.training --out=results/training_cpu.json
    taskset -c 0 python -m benchmarks.training --cores=1          # one core

float32, AdamW, batches of noise; PyTorch (not compiled, channels last, fused AdamW) is left out if
it is missing. The goals were set beforehand: at least as many examples per second as PyTorch for
the MLP and the transformer, .8 of them for ResNet-20.
"""

import itertools
import json
import os
import statistics
import textwrap
from collections.abc import Callable
from typing import Any

import jax

import optim
from benchmarks import _convolutions, _profile, _report, _training
from benchmarks._timing import in_turns, ratio
from experiments.common import markdown

# Examples of a batch, and the least share of PyTorch's speed that was hoped for.
TIMED: dict[str, tuple[int, float | None]] = {
    "MLP": (128, 1.0),
    "LeNet-5": (128, None),
    "ResNet-20": (128, 0.8),
    "character transformer": (32, 1.0),
}
CONVOLUTIONAL = ("LeNet-5", "ResNet-20")
# Steps of a call when the loop is timed, and whether its other way is timed too: a ResNet's steps
# in one compiled loop take minutes.
LOOPED = {
    "MLP": (50, True),
    "LeNet-5": (4, True),
    "ResNet-20": (2, False),
    "character transformer": (4, True),
}


def measure(name: str, examples: int, rounds: int, cores: int) -> dict[str, Any]:
    """Times steps of all sides in turns, and takes a profile of ours."""
    ours = {"ours": _training.runner(name, examples)}
    if name in CONVOLUTIONAL:
        ours["xla"] = _training.runner(name, examples, convolutions="xla")
    calls: dict[str, Callable[[], Any]] = dict(ours)
    try:
        import torch

        from benchmarks import _torch_training
    except ImportError:
        pass
    else:
        torch.set_num_threads(cores)
        calls["PyTorch"] = _torch_training.runner(name, examples)
    times = in_turns(calls, rounds, warm_up=2)
    beside = ours if "PyTorch" in times else {}
    return {
        "name": name,
        "examples": examples,
        "per second": {k: examples / statistics.median(v) for k, v in times.items()},
        "of PyTorch": {k: ratio(times, "PyTorch", k) for k in beside},
        "shares": _profile.shares(ours["ours"].compiled, ours["ours"]),
    }


def measure_loop(name: str, examples: int, rounds: int, smoke: bool = False) -> dict[str, Any]:
    """Times :func:`optim.loop.run` and a loop over ``jax.jit`` of the same step, in turns."""
    made = _training.program(name, examples)
    batch = _training.random_batch(name, examples)
    steps, both = LOOPED[name]
    steps = 2 if smoke else steps
    states = {}

    def own():
        for _ in range(steps):
            states["own"], metrics = compiled(states["own"], batch)
        return metrics

    def through(key, scan):
        def call():
            states[key] = optim.loop.run(
                made.step,
                states[key],
                lambda start: itertools.repeat(batch),
                steps,
                steps_per_call=steps,
                scan=scan,
            )
            return states[key]

        return call

    compiled = jax.jit(made.step, donate_argnums=0)
    slow = name in CONVOLUTIONAL
    calls = {"own": own, "loop": through("loop", None)}
    if both:
        calls["other"] = through("other", slow)
    for key in calls:
        states[key] = jax.jit(made.init)(jax.random.key(0))
    times = in_turns(calls, rounds)
    ratios = {key: ratio(times, key, "own") for key in calls if key != "own"}
    return {"name": name, "steps": steps, "of own": ratios}


def page(results: dict[str, Any]) -> str:
    """The Markdown of the results."""
    versions = f", PyTorch {results['torch']}" if results["torch"] else ""
    models, pieces, loops = (results[k] for k in ("models", "pieces", "loops"))
    lines = [
        "# Training steps on a CPU",
        "",
        f"`{results['command']}` on {results['machine']}, {results['cores']} of them used; jax"
        f" {results['versions']['jax']}{versions}. float32, AdamW; medians of"
        f" {results['rounds']} rounds in turns, ratios by rounds.",
        "",
        *_table(models),
        "",
        *_filled(
            "`xla` is `--convolutions=xla` of `experiments.train`, `convolutions` of"
            " `optim.loop.run`: convolutions by XLA's own code, which round in another way."
        ),
        "",
        "## What limits it",
        "",
        *_filled(_limits(models, pieces)),
        "",
        *_shares(models),
        "",
    ]
    if pieces:
        lines += [
            "## Convolutions one by one",
            "",
            *_filled(
                "Milliseconds for a batch of"
                f" {results['examples of pieces']}, 3x3 kernels: channels in and out, side of the"
                " image, stride. `im2col` is nine slices of the image and one product."
            ),
            "",
            *_pieces(pieces),
            "",
        ]
    if loops:
        lines += [
            "## The loop",
            "",
            *_filled(
                "Time of `optim.loop.run` over that of a loop of one's own over `jax.jit` of the"
                " same step. Its choice is one compiled loop over steps, but for convolutions,"
                " whose steps it dispatches one by one; the last column is what it avoids."
            ),
            "",
            *_loops(loops),
            "",
        ]
    return "\n".join(lines)


def _filled(text: str) -> list[str]:
    return textwrap.wrap(text, 100)


def _table(models: list[dict[str, Any]]) -> list[str]:
    rows = []
    for row in models:
        goal, speed = TIMED[row["name"]][1], row["of PyTorch"]
        cells = [_cell(row["per second"], k, ".0f") for k in ("ours", "xla", "PyTorch")]
        cells += [_cell(speed, k, ".2f") for k in ("ours", "xla")]
        missed = goal is not None and speed and max(speed.values()) < goal
        cells.append(("" if goal is None else f"{goal:g}") + (", missed" if missed else ""))
        rows.append([row["name"], row["examples"], *cells])
    head = ["", "batch", *(f"examples/s, {k}" for k in ("ours", "xla", "PyTorch"))]
    head += ["ours / PyTorch", "xla / PyTorch", "goal"]
    return markdown.table(head, rows, "lrrrrrrl")


def _cell(numbers: dict[str, float], key: str, form: str) -> str:
    return format(numbers[key], form) if key in numbers else "–"


def _limits(models: list[dict[str, Any]], pieces: list[dict[str, Any]]) -> str:
    """Sentences about each model, with the numbers of its profile and of single convolutions."""
    said = [
        "Shares of a step's time by `jax.profiler`, an operation counted once for its kind. XLA on"
        " a CPU leaves products and convolutions to the library YNNPACK."
    ]
    for row in models:
        name, speed = row["name"], row["per second"]
        percent = {k: f"{100 * v:.0f} %" for k, v in row["shares"].items()}
        if "xla" in speed:
            said.append(
                f"{name}: convolutions take {percent['convolutions']} of the step and copies"
                f" {percent['copies and transpositions']}; by XLA's own code, whose threads the"
                f" profiler does not see, the step is {speed['xla'] / speed['ours']:.1f} times as"
                " fast."
            )
        else:
            said.append(
                f"{name}: products take {percent['products']}, copies that turn their operands"
                f" {percent['copies and transpositions']}, sums {percent['sums']}, what is done"
                f" entry by entry {percent['the rest']}."
            )
    if pieces and all("PyTorch" in row["ms"] for row in pieces):
        said.append(_of_convolutions(pieces))
    return " ".join(said)


def _of_convolutions(pieces: list[dict[str, Any]]) -> str:
    """What the single convolutions of a ResNet-20 say together."""
    ways = ("default", "xla", "PyTorch")
    kernel = {
        way: sum(r["ms"][way] for r in pieces if r["piece"] == _convolutions.PIECES[2])
        for way in ways
    }
    whole = {way: sum(row["ms"][way] for row in pieces) for way in ways}
    text = (
        f"The {len(pieces)} single convolutions below take {whole['default']:.0f} ms together,"
        f" {kernel['default']:.0f} of them for gradients of kernels; by XLA's own code"
        f" {whole['xla']:.0f} and {kernel['xla']:.0f}, in PyTorch {whole['PyTorch']:.0f} and"
        f" {kernel['PyTorch']:.0f}."
    )
    if whole["xla"] < whole["PyTorch"]:
        text += " What a step by XLA's own code lacks to PyTorch's is thus not in them."
    return text


def _shares(models: list[dict[str, Any]]) -> list[str]:
    kinds = [*_profile.KINDS, "the rest"]
    rows = [[row["name"], *(f"{100 * row['shares'][k]:.0f}" for k in kinds)] for row in models]
    return markdown.table(["% of the step", *kinds], rows, "l" + "r" * len(kinds))


def _pieces(pieces: list[dict[str, Any]]) -> list[str]:
    rows = []
    for row in pieces:
        c_in, c, side, stride = row["layer"]
        cells = [_cell(row["ms"], way, ".1f") for way in _convolutions.WAYS]
        rows.append([f"{c_in} to {c}, {side}, {stride}", row["piece"], *cells])
    return markdown.table(["layer", "", *_convolutions.WAYS], rows, "llrrrr")


def _loops(loops: list[dict[str, Any]]) -> list[str]:
    rows = []
    for row in loops:
        other = _cell(row["of own"], "other", ".2f")
        choice = "one by one" if row["name"] in CONVOLUTIONAL else "one compiled loop"
        rows.append([row["name"], row["steps"], choice, f"{row['of own']['loop']:.2f}", other])
    head = ["", "steps", "its choice", "its choice / own", "the other way / own"]
    return markdown.table(head, rows, "lrlrr")


def main():
    parser = _report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", nargs="*", default=list(TIMED), choices=list(TIMED))
    parser.add_argument("--smoke", action="store_true", help="Small batches, two rounds.")
    args = parser.parse_args()
    rounds = 2 if args.smoke else args.rounds
    sizes = {name: 4 if args.smoke else TIMED[name][0] for name in args.only}
    models, loops, pieces = [], [], []
    for name, examples in sizes.items():
        models.append(measure(name, examples, rounds, args.cores))
        print(json.dumps(models[-1]), flush=True)
        jax.clear_caches()
    for name, examples in sizes.items():
        loops.append(measure_loop(name, examples, max(2, rounds // 3), args.smoke))
        print(json.dumps(loops[-1]), flush=True)
        jax.clear_caches()
    examples = 4 if args.smoke else 128
    if "ResNet-20" in args.only:
        pieces = _convolutions.measure(examples, rounds, args.cores)
    results = _report.found_with("python -m benchmarks.training")
    try:
        import torch

        version = torch.__version__
    except ImportError:
        version = None
    results |= {"cores": args.cores, "rounds": rounds, "torch": version, "models": models}
    results |= {"loops": loops, "pieces": pieces, "examples of pieces": examples}
    _report.write(results, page, args.out)


if __name__ == "__main__":
    main()
