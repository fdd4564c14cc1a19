"""All that only an accelerator can show, in one command of at most eight minutes.

    python -m benchmarks.accelerator --out=results/accelerator
    python -m benchmarks.accelerator --smoke                       # small, on whatever is there

One JSON and one page, named after the device. A section that fails is reported, and the others run;
one that would begin after ``--limit`` seconds is left out, and the page says so.

updates      share of the bandwidth of a copy that each update of 1e9 parameters reaches, counting
             the least bytes that it has to move; goal .85
training     steps per second of ResNet-20 (CIFAR-10 images) and LLaMA 60M in bfloat16, beside
             PyTorch with compile and autocast if it is there; goals 2 and 1 times as many
memory       bytes on the device with AdamW and with FRUGAL for a LLaMA, before and in a step
population   time of a step of eight seeds over that of one; goal at most 1.5
solvers      steps per second of LV-HBA, of the penalty method and of BiP
"""

import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

import bilevel
import optim
from benchmarks import _training
from benchmarks._shapes import elements, transformer
from benchmarks._timing import donated_step, in_turns, ratio
from experiments.common import files, launch, provenance
from experiments.common import markdown as md

GOALS = {"share": 0.85, "ResNet-20": 2.0, "LLaMA 60M": 1.0, "population": 1.5}

# Optimizer, and the least bytes per parameter that an update of it moves: every array read and
# written once; AdamP and SGDP need two passes, the sums over p and g before the step.
UPDATES: dict[str, tuple[Callable[[], Any], float]] = {
    "adamw (Optax)": (lambda: optax.adamw(1e-3), 28),
    "lion (Optax)": (lambda: optax.lion(1e-3), 20),
    "momentum (Optax)": (lambda: optax.sgd(1e-3, 0.9), 20),
    "lion": (lambda: optim.lion(1e-3), 20),
    "cautious lion": (lambda: optim.cautious(optim.lion(1e-3)), 20),
    "adamp": (lambda: optim.adamp(1e-3, weight_decay=1e-2), 40),
    "sgdp": (lambda: optim.sgdp(1e-3, 0.9, weight_decay=1e-4), 32),
    "diffgrad": (lambda: optim.diffgrad(1e-3), 36),
    "frugal block .25": (lambda: optim.frugal(1e-3, density=0.25, subspace="block"), 16),
    "frugal columns .25": (lambda: optim.frugal(1e-3, density=0.25, subspace="columns"), 16),
}


def updates(smoke: bool) -> Iterator[dict[str, Any]]:
    """Yields the time of a copy, and of an update of each optimizer."""
    width = 64 if smoke else 4096
    shapes = transformer(width, 5, 8)
    size, rounds = elements(shapes), 3 if smoke else 10
    block = jnp.zeros(size, jnp.float32)
    copied = jax.jit(lambda x: x + 1, donate_argnums=0)

    def copy():
        nonlocal block
        block = copied(block)
        return block

    seconds = statistics.median(in_turns({"copy": copy}, rounds)["copy"])
    bandwidth = 8 * size / seconds
    block = None
    yield {"name": "copy", "parameters": size, "seconds": seconds, "bytes per second": bandwidth}
    for name, (make, least) in UPDATES.items():
        tx = make()
        keys = iter(range(10**6))

        def random(s, keys=keys):
            return jax.random.normal(jax.random.key(next(keys)), s.shape, s.dtype)

        params, grads = jax.tree.map(random, shapes), jax.tree.map(random, shapes)
        state = jax.jit(tx.init)(params)
        begin = time.perf_counter()
        step = donated_step(tx).lower(params, state, grads).compile()
        compiled_in = time.perf_counter() - begin

        def run(step=step, grads=grads):
            nonlocal params, state
            params, state = step(params, state, grads)
            return params

        seconds = statistics.median(in_turns({name: run}, rounds)[name])
        yield {
            "name": name,
            "seconds": seconds,
            "least bytes": least,
            "share": least * size / seconds / bandwidth,
            "temporaries": step.memory_analysis().temp_size_in_bytes / size,
            "compiled in": compiled_in,
        }
        del params, grads, state, run


def training(smoke: bool) -> Iterator[dict[str, Any]]:
    """Yields examples per second of ours, and of PyTorch if it is there, in turns."""
    for name, examples in (("ResNet-20", 128), ("LLaMA 60M", 32)):
        examples = 2 if smoke else examples
        if smoke and name == "LLaMA 60M":
            name = "character transformer"
        calls = {"ours": _training.runner(name, examples, dtype="bfloat16")}
        begin = time.perf_counter()
        jax.block_until_ready(calls["ours"]())
        row = {"name": name, "examples": examples, "compiled in": time.perf_counter() - begin}
        peer = _peer(name, examples, smoke)
        if peer is not None:
            calls["PyTorch"] = peer
        times = in_turns(calls, 3 if smoke else 30, warm_up=3)
        row["per second"] = {k: examples / statistics.median(v) for k, v in times.items()}
        if peer is not None:
            row["of PyTorch"] = ratio(times, "PyTorch", "ours")
        yield row


def _peer(name: str, examples: int, smoke: bool) -> Callable[[], Any] | None:
    try:
        import torch

        from benchmarks import _torch_training
    except ImportError:
        return None
    cuda = torch.cuda.is_available()
    if not cuda and jax.default_backend() != "cpu":
        return None
    # Compilation for a CPU wants a C++ compiler; it is no part of what is tested without a GPU.
    device = "cuda" if cuda else "cpu"
    return _torch_training.runner(name, examples, device, amp=True, compiled=cuda and not smoke)


def memory(smoke: bool) -> Iterator[dict[str, Any]]:
    """Yields bytes for AdamW and FRUGAL on one LLaMA: of the state, and of a whole step."""
    name, examples = ("character transformer", 2) if smoke else ("LLaMA 60M", 32)
    for label, tx in {
        "adamw (Optax)": optax.adamw(1e-3),
        "frugal .25": optim.frugal(1e-3, density=0.25),
        "frugal 0": optim.frugal(1e-3, density=0.0),
        "lion": optim.lion(1e-3),
    }.items():
        made = _training.program(name, examples, tx, dtype="bfloat16")
        shapes = jax.eval_shape(made.init, jax.random.key(0))
        count = elements(shapes.params)
        compiled = jax.jit(made.step, donate_argnums=0).lower(shapes, made.batch).compile()
        state, batch = jax.jit(made.init)(jax.random.key(0)), _training.random_batch(name, examples)
        held = jax.local_devices()[0].memory_stats() or {}
        state, _ = jax.block_until_ready(compiled(state, jax.device_put(batch)))
        yield {
            "name": label,
            "model": name,
            "state": optim.state_bytes(tx, shapes.params) / count,
            "temporaries": compiled.memory_analysis().temp_size_in_bytes,
            "in use": held.get("bytes_in_use"),
        }
        del state


def population(smoke: bool) -> Iterator[dict[str, Any]]:
    """Yields the time of a step of eight seeds over that of one."""
    for name in ("MLP",) if smoke else ("MLP", "ResNet-20"):
        examples = 8 if smoke else 128
        calls = {n: _training.runner(name, examples, s) for n, s in (("one", 1), ("eight", 8))}
        times = in_turns(calls, 3 if smoke else 30, warm_up=3)
        yield {"name": name, "examples": examples, "ratio": ratio(times, "eight", "one")}


def solvers(smoke: bool) -> Iterator[dict[str, Any]]:
    """Yields steps per second, taken a hundred at a time."""
    n = 8 if smoke else 2000
    key = jax.random.key(0)
    a = jax.random.normal(key, (n, n)) / np.sqrt(n)
    problem = bilevel.Problem(
        upper=lambda x, y, batch: jnp.mean((y - 1) ** 2) + 0.01 * jnp.mean(x**2),
        lower=lambda x, y, batch: 0.5 * jnp.sum((a @ y - x) ** 2) + 0.05 * jnp.sum(y**2),
    )
    weights = {"w": jax.random.normal(key, (n, 10))}
    data = jax.random.normal(key, (128, n))
    pruned = bilevel.pruning.problem(lambda p, x: jnp.mean((x @ p["w"] - 1) ** 2))
    runs = {
        "LV-HBA": (bilevel.lv_hba(0.02, 0.1, 0.02), problem, jnp.zeros(n), jnp.zeros(n), None),
        "penalty": (
            bilevel.penalty(0.1, 0.8, 0.02, 0.1, 1.0, momentum=0.5),
            problem,
            jnp.zeros(n),
            jnp.zeros(n),
            None,
        ),
        "BiP": (bilevel.bip(0.01, 1.0, density=0.5), pruned, None, weights, (data, data)),
    }
    for name, (solver, of, x, y, batch) in runs.items():
        state = solver.init(of, x, y)
        many = jax.jit(
            lambda state, batch, solver=solver: jax.lax.scan(
                lambda s, _: (solver.step(s, batch)[0], None), state, length=100
            )[0]
        )
        begin = time.perf_counter()
        jax.block_until_ready(many(state, batch))
        first = time.perf_counter() - begin
        times = in_turns({name: lambda m=many, s=state, b=batch: m(s, b)}, 3 if smoke else 10)
        seconds = statistics.median(times[name])
        yield {
            "name": name,
            "variables": n,
            "steps per second": 100 / seconds,
            "compiled in": first - seconds,
        }


SECTIONS = {
    "updates": updates,
    "training": training,
    "memory": memory,
    "population": population,
    "solvers": solvers,
}


def measure(sections: list[str], smoke: bool, limit: float) -> dict[str, Any]:
    """Returns the rows of each section, or why there are none."""
    start, found = time.monotonic(), {}
    for name in sections:
        entry: dict[str, Any] = {"rows": [], "failed": ""}
        found[name], begin = entry, time.monotonic()
        if begin - start > limit:
            entry["failed"] = f"left out: it would have begun after {limit:g} s"
            continue
        try:
            for row in SECTIONS[name](smoke):
                print(f"{name}: {json.dumps(row)}", flush=True)
                entry["rows"].append(row)
        except Exception as error:  # The other sections do not depend on this one.
            traceback.print_exc()
            entry["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        entry["seconds"] = time.monotonic() - begin
        jax.clear_caches()
    return found


def page(content: dict[str, Any]) -> str:
    """Returns the page as Markdown."""
    lines = [
        f"# {content['device']}",
        "",
        f"`{content['command']}`, {content['devices']} device(s) of {content['platform']};"
        f" {', '.join(f'{k} {v}' for k, v in sorted(content['versions'].items()))}."
        " Medians; ratios are of runs in turns."
        + (" A smoke run at toy size: its times mean nothing." if content["smoke"] else ""),
        "",
    ]
    for name, entry in content["sections"].items():
        lines += [f"## {name.capitalize()}", ""]
        if entry["rows"]:
            lines += [*_TABLES[name](entry["rows"]), ""]
        if entry["failed"]:
            lines += [f"**Not whole**: {entry['failed']}", ""]
    return "\n".join(lines)


def _goal(value: float | None, goal: float, most: bool = False) -> str:
    if value is None:
        return f"{goal:g}"
    met = value <= goal if most else value >= goal
    return f"{goal:g}" + ("" if met else ", missed")


def _updates_table(rows):
    copy, table = rows[0], []
    for r in rows[1:]:
        table.append(
            [
                r["name"],
                f"{1e3 * r['seconds']:.2f}",
                f"{r['share']:.2f}",
                _goal(r["share"], GOALS["share"]),
                f"{r['temporaries']:.2f}",
                f"{r['compiled in']:.1f}",
            ]
        )
    head = ["", "ms", "share of copy", "goal", "temporary bytes per parameter", "compiled in, s"]
    said = (
        f"{copy['parameters'] / 1e9:.3g}e9 parameters; a copy moves"
        f" {copy['bytes per second'] / 1e12:.2f} TB/s."
    )
    return [said, "", *md.table(head, table, "lrrlrr")]


def _training_table(rows):
    table = []
    for r in rows:
        rates = [f"{x:.0f}" if x else "–" for x in map(r["per second"].get, ("ours", "PyTorch"))]
        speed = r.get("of PyTorch")
        goal = _goal(speed, GOALS[r["name"]]) if r["name"] in GOALS else ""
        shown = "–" if speed is None else f"{speed:.2f}"
        table.append([r["name"], r["examples"], *rates, shown, goal, f"{r['compiled in']:.1f}"])
    head = ["", "batch", "examples/s, ours", "PyTorch", "ratio", "goal", "compiled in, s"]
    return md.table(head, table, "lrrrrlr")


def _memory_table(rows):
    mib = lambda x: "–" if x is None else f"{x / 2**20:.0f}"  # noqa: E731
    table = [
        [r["name"], f"{r['state']:.2f}", mib(r["in use"]), mib(r["temporaries"])] for r in rows
    ]
    head = ["", "state, bytes per parameter", "in use, MiB", "temporaries of a step, MiB"]
    return [f"{rows[0]['model']}, bfloat16.", "", *md.table(head, table, "lrrr")]


def _population_table(rows):
    table = []
    for r in rows:
        goal = _goal(r["ratio"], GOALS["population"], most=True)
        table.append([r["name"], r["examples"], f"{r['ratio']:.2f}", goal])
    return md.table(["", "batch", "time of eight seeds / of one", "at most"], table, "lrrl")


def _solvers_table(rows):
    table = [
        [r["name"], r["variables"], f"{r['steps per second']:.0f}", f"{r['compiled in']:.1f}"]
        for r in rows
    ]
    return md.table(["", "variables", "steps/s", "compiled in, s"], table, "lrrr")


_TABLES = {
    "updates": _updates_table,
    "training": _training_table,
    "memory": _memory_table,
    "population": _population_table,
    "solvers": _solvers_table,
}


def main(argv) -> None:
    """Measures and writes."""
    del argv
    flag, device = flags.FLAGS, jax.devices()[0]
    content = {
        "command": "python -m benchmarks.accelerator" + " --smoke" * flag.smoke,
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "smoke": flag.smoke,
        "versions": provenance.versions(),
        "sections": measure(flag.sections, flag.smoke, flag.limit),
    }
    text = page(content)
    print(text)
    if flag.out:
        stem = "".join(c if c.isalnum() else "_" for c in device.device_kind.lower())
        files.write(Path(flag.out) / f"{stem}.json", json.dumps(content, indent=1) + "\n")
        files.write(Path(flag.out) / f"{stem}.md", text)


if __name__ == "__main__":
    flags.DEFINE_list("sections", list(SECTIONS), "Which sections.")
    flags.DEFINE_bool("smoke", False, "Toy sizes, to see that everything runs.")
    flags.DEFINE_float("limit", 420.0, "Seconds after which no section begins.", lower_bound=0)
    flags.DEFINE_string("out", "", "Folder for the JSON and the page, beside printing.")
    launch.use_compilation_cache()
    sys.exit(launch.guard(lambda: app.run(main)))
