"""What the TPU compiler makes of this code, on a machine without a TPU.

    pip install -e '.[tpu]'                                 # brings the compiler, libtpu
    python -m benchmarks.tpu_compiler --out=results/tpu     # all parts
    python -m benchmarks.tpu_compiler --parts=updates --only=lion,adamp

Programs are compiled ahead of time for chips of a TPU v5e: nothing runs, nothing is allocated.

updates   one update of each optimizer on a LLaMA 60M: bytes accessed and temporaries per parameter,
          beside those of the optimizer of Optax that a user would take instead
training  a training step of each model, data parallel on 4 chips (2x2): its collectives; and that
          it lowers for CUDA
sharded   a training step of the LLaMA with parameters and states split over 4 and over 256 chips
          (16x16): collectives and bytes on each chip
solvers   a step of each bilevel solver and of BiP, on one chip

Compilation fails on what a TPU cannot do. Two further things are looked for in each program and
named if they are there: a call back to the host, and float64.
"""

import collections
import importlib.metadata
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Read when libtpu is loaded: there is no machine to ask.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

import bilevel
import optim
from benchmarks import _training
from experiments import models
from experiments.common import files, launch, provenance
from experiments.common import markdown as md

STEM = "compiler"
COLLECTIVES = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "collective-permute")

# An optimizer, the one of Optax beside it, and how many times its bytes are thought right.
UPDATES: dict[str, tuple[Callable[[], Any], str, float | None]] = {
    "adamw (Optax)": (lambda: optax.adamw(1e-3), "adamw (Optax)", None),
    "lion (Optax)": (lambda: optax.lion(1e-3), "lion (Optax)", None),
    "momentum (Optax)": (lambda: optax.sgd(1e-3, 0.9), "momentum (Optax)", None),
    "lion": (lambda: optim.lion(1e-3), "lion (Optax)", 1.02),
    "cautious lion": (lambda: optim.cautious(optim.lion(1e-3)), "lion (Optax)", None),
    "adamp": (lambda: optim.adamp(1e-3), "adamw (Optax)", 2.7),
    "sgdp": (lambda: optim.sgdp(1e-3, momentum=0.9), "momentum (Optax)", 2.5),
    "diffgrad": (lambda: optim.diffgrad(1e-3), "adamw (Optax)", 1.6),
    "frugal block": (lambda: optim.frugal(1e-3, subspace="block"), "adamw (Optax)", 1.5),
    "frugal columns": (lambda: optim.frugal(1e-3, subspace="columns"), "adamw (Optax)", 2.0),
    "frugal rows": (lambda: optim.frugal(1e-3, subspace="rows"), "adamw (Optax)", 2.0),
    "frugal randk": (lambda: optim.frugal(1e-3, subspace="randk"), "adamw (Optax)", 4.0),
    "badam": (lambda: optim.badam(1e-3), "adamw (Optax)", None),
}


def mesh_of(topology: str) -> Mesh:
    """Returns a mesh of the chips of a topology such as ``"2x2"``, over one axis.

    Raises:
      ValueError: libtpu is missing.
    """
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=f"v5e:{topology}")
    except Exception as error:  # Of several kinds, by what is missing.
        text = " ".join(str(error).split())[:200]
        raise ValueError(f"no TPU compiler: pip install -e '.[tpu]' brings it ({text})") from error
    return Mesh(np.array(found.devices), ("data",))


def place(tree: Any, sharding: Any) -> Any:
    """Returns the shapes of a tree with a sharding, or with one for each leaf."""
    if not isinstance(sharding, dict | tuple | list):
        sharding = jax.tree.map(lambda _: sharding, tree)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, sharding
    )


def compile_for_tpu(step: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Returns a step compiled for the chips that its arguments are placed on."""
    traced = jax.jit(step, **options).trace(*arguments)
    return traced.lower(lowering_platforms=("tpu",)).compile()


def findings(compiled: Any) -> dict[str, Any]:
    """Returns what there is to know of a program for one chip."""
    text, memory = compiled.as_text(), compiled.memory_analysis()
    counted = collections.Counter(
        m.group(1)
        for m in re.finditer(rf"= [^=\n]*?\b({'|'.join(COLLECTIVES)})(?:-start)?\(", text)
    )
    return {
        "bytes_accessed": compiled.cost_analysis()["bytes accessed"],
        "temporaries": memory.temp_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "collectives": {k: counted[k] for k in COLLECTIVES if counted[k]},
        "host_calls": len(re.findall(r"custom_call_target=\"[^\"]*callback", text)),
        "float64": " f64[" in text,
    }


def llama(size: str = "60M", length: int = 256) -> models.Model:
    """Returns a LLaMA of 32000 tokens."""
    return models.build("llama", input_shape=(length,), num_classes=32_000, size=size)


def updates(only: list[str]) -> Iterator[dict[str, Any]]:
    """Yields the cost of one update of each optimizer."""
    chip = SingleDeviceSharding(mesh_of("2x2").devices.flat[0])
    params, _ = jax.eval_shape(llama().init, jax.random.key(0))
    params, count = place(params, chip), models.count(params)
    for name, (make, peer, bound) in UPDATES.items():
        if only and name not in only:
            continue
        tx = make()

        def step(params, state, grads, tx=tx):
            changes, state = tx.update(grads, state, params)
            return optax.apply_updates(params, changes), state

        state = place(jax.eval_shape(tx.init, params), chip)
        start = time.perf_counter()
        compiled = compile_for_tpu(step, params, state, params, donate_argnums=(0, 1))
        found = findings(compiled)
        yield {
            "name": name,
            "peer": peer,
            "bound": bound,
            "bytes": found["bytes_accessed"] / count,
            "temporaries": found["temporaries"] / count,
            "state": optim.state_bytes(tx, params) / count,
            "compiled_in": time.perf_counter() - start,
            **{k: found[k] for k in ("host_calls", "float64")},
        }


# Models of benchmarks._training, and examples on a chip.
TRAINED = {
    "MLP": 32,
    "LeNet-5": 32,
    "CNN with BatchNorm": 32,
    "ResNet-20": 32,
    "VGG-16": 32,
    "LLaMA 60M": 8,
}


def _training_step(name: str, devices: int) -> tuple[Any, Any, Any]:
    """A step with AdamW, and the shapes of its state and batch."""
    made = _training.program(name, devices * TRAINED[name])
    return made.step, jax.eval_shape(made.init, jax.random.key(0)), made.batch


def trained(only: list[str]) -> Iterator[dict[str, Any]]:
    """Yields what is in a data-parallel training step of each model on four chips."""
    mesh = mesh_of("2x2")
    whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    for name in TRAINED:
        if only and name not in only:
            continue
        step, state, batch = _training_step(name, mesh.size)
        jax.jit(step).trace(state, batch).lower(lowering_platforms=("cuda",))
        start = time.perf_counter()
        compiled = compile_for_tpu(step, place(state, whole), place(batch, split), donate_argnums=0)
        found, count = findings(compiled), models.count(state.params)
        yield {
            "name": name,
            "parameters": count,
            "compiled_in": time.perf_counter() - start,
            **{k: found[k] for k in ("collectives", "host_calls", "float64")},
        }


def sharded(only: list[str]) -> Iterator[dict[str, Any]]:
    """Yields a training step of the LLaMA with split parameters and states."""
    for topology in ("2x2", "16x16"):
        if only and topology not in only:
            continue
        mesh = mesh_of(topology)
        step, state, batch = _training_step("LLaMA 60M", mesh.size)
        placed = jax.tree.map(
            lambda spec, mesh=mesh: NamedSharding(mesh, spec),
            optim.parallel.specs(state, mesh.size),
            is_leaf=lambda x: isinstance(x, PartitionSpec),
        )
        split = NamedSharding(mesh, PartitionSpec("data"))
        start = time.perf_counter()
        compiled = compile_for_tpu(
            step,
            place(state, placed),
            place(batch, split),
            donate_argnums=0,
            out_shardings=(placed, None),
        )
        found = findings(compiled)
        held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
        yield {
            "name": f"LLaMA 60M, {mesh.size} chips",
            "chips": mesh.size,
            "state_bytes": held,
            "compiled_in": time.perf_counter() - start,
            **{k: found[k] for k in ("arguments", "temporaries", "collectives", "host_calls")},
            "float64": found["float64"],
        }


def _cleaning(width: int = 256, batch: int = 128):
    """Weights of samples for a perceptron on images: two problems, x0, y0, a pair of batches."""
    shape = jax.ShapeDtypeStruct
    x0 = shape((1000,), jnp.float32)
    sizes = ((784, width), (width, 10))
    y0 = [{"w": shape(s, jnp.float32), "b": shape(s[1:], jnp.float32)} for s in sizes]
    data = {
        "image": shape((batch, 784), jnp.float32),
        "label": shape((batch,), jnp.int32),
        "row": shape((batch,), jnp.int32),
    }

    def losses(y, data):
        h = jax.nn.relu(data["image"] @ y[0]["w"] + y[0]["b"])
        logits = h @ y[1]["w"] + y[1]["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, data["label"])

    problem = bilevel.Problem(
        upper=lambda x, y, data: jnp.mean(losses(y, data)),
        lower=lambda x, y, data: jnp.mean(jax.nn.sigmoid(x[data["row"]]) * losses(y, data)),
    )
    pruned = bilevel.pruning.problem(lambda y, data: jnp.mean(losses(y, data)))
    return problem, pruned, x0, y0, (data, data)


SOLVERS: dict[str, Callable[[], Any]] = {
    "f2sa": lambda: bilevel.f2sa(0.01, 0.02, inner_steps=5),
    "f3sa": lambda: bilevel.f3sa(0.01, 0.02, 0.5),
    "penalty, inner loop": lambda: bilevel.penalty(0.1, 0.8, 0.02, 0.1, 1.0, 5),
    "penalty, momentum": lambda: bilevel.penalty(0.1, 0.8, 0.02, 0.1, 1.0, momentum=0.5),
    "lv_hba": lambda: bilevel.lv_hba(0.02, 0.1, 0.02),
    "implicit": bilevel.implicit,
    "unrolled": bilevel.unrolled,
    "soba": bilevel.soba,
    "bip": lambda: bilevel.bip(0.1, 1.0, density=0.5),
}


def solved(only: list[str]) -> Iterator[dict[str, Any]]:
    """Yields a step of each bilevel solver on data hyper-cleaning, and of BiP on its network."""
    chip = SingleDeviceSharding(mesh_of("2x2").devices.flat[0])
    problem, pruned, x0, y0, batch = _cleaning()
    count = models.count(y0)
    for name, make in SOLVERS.items():
        if only and name not in only:
            continue
        solver = make()
        if name == "bip":
            state = jax.eval_shape(lambda y, s=solver: s.init(pruned, None, y), y0)
        else:
            state = jax.eval_shape(lambda x, y, s=solver: s.init(problem, x, y), x0, y0)
        jax.jit(solver.step).trace(state, batch).lower(lowering_platforms=("cuda",))
        start = time.perf_counter()
        placed = place(state, chip), place(batch, chip)
        found = findings(compile_for_tpu(solver.step, *placed, donate_argnums=0))
        yield {
            "name": name,
            "bytes": found["bytes_accessed"] / count,
            "temporaries": found["temporaries"] / count,
            "compiled_in": time.perf_counter() - start,
            **{k: found[k] for k in ("host_calls", "float64")},
        }


PARTS = {"updates": updates, "training": trained, "sharded": sharded, "solvers": solved}


def page(content: dict[str, Any]) -> str:
    """Returns the page as Markdown."""
    lines = [
        "# What the TPU compiler makes of it",
        "",
        f"`{content['command']}`, compiled ahead of time for a TPU v5e by"
        f" {', '.join(f'{k} {v}' for k, v in sorted(content['versions'].items()))}. Nothing ran on"
        " a TPU: bytes are the compiler's count, and times of compilation are this CPU's.",
        "",
    ]
    for part, rows in content["parts"].items():
        lines += [*_TABLES[part]({r["name"]: r for r in rows}), ""]
    every = [row for rows in content["parts"].values() for row in rows]
    bad = [r["name"] for r in every if r["host_calls"] or r["float64"]]
    lines += [
        f"{len(every)} programs. With a call to the host or float64: {', '.join(bad) or 'none'}.",
        "",
    ]
    return "\n".join(lines)


def _updates_table(rows):
    table = []
    for name, r in rows.items():
        peer = rows.get(r["peer"])
        ratio = "" if peer is None or name == r["peer"] else f"{r['bytes'] / peer['bytes']:.2f}"
        bound = "" if r["bound"] is None else f"{r['bound']:g}"
        if ratio and bound and r["bytes"] > r["bound"] * peer["bytes"]:
            bound += ", missed"
        cells = [f"{r['bytes']:.1f}", f"{r['temporaries']:.2f}", f"{r['state']:.2f}"]
        table.append([name, *cells, r["peer"] if ratio else "", ratio, bound])
    head = ["", "bytes accessed", "temporaries", "state", "against", "ratio", "bound"]
    title = ["## One update of a LLaMA 60M, bytes per parameter", ""]
    return [*title, *md.table(head, table, "lrrrlrl")]


def _collectives(row) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in row["collectives"].items()) or "none"


def _training_table(rows):
    table = [
        [name, f"{r['parameters'] / 1e6:.2f}M", _collectives(r), f"{r['compiled_in']:.0f} s"]
        for name, r in rows.items()
    ]
    title = ["## A training step with AdamW, data parallel on 4 chips", ""]
    return [*title, *md.table(["", "parameters", "collectives", "compiled in"], table, "lrlr")]


def _sharded_table(rows):
    table = [
        [
            name,
            f"{r['state_bytes'] / 2**20:.0f}",
            f"{r['arguments'] / 2**20:.1f}",
            f"{r['temporaries'] / 2**20:.0f}",
            _collectives(r),
        ]
        for name, r in rows.items()
    ]
    head = ["", "state in all, MiB", "arguments of a chip, MiB", "temporaries of a chip, MiB"]
    title = ["## A training step with parameters and states split over all chips", ""]
    return [*title, *md.table([*head, "collectives"], table, "lrrrl")]


def _solvers_table(rows):
    table = [[n, f"{r['bytes']:.0f}", f"{r['temporaries']:.1f}"] for n, r in rows.items()]
    title = ["## A step of a solver, bytes per parameter of the lower level", ""]
    return [*title, *md.table(["", "bytes accessed", "temporaries"], table, "lrr")]


_TABLES = {
    "updates": _updates_table,
    "training": _training_table,
    "sharded": _sharded_table,
    "solvers": _solvers_table,
}


def main(argv) -> None:
    """Compiles, and writes after each program: compilations take minutes."""
    del argv
    flag = flags.FLAGS
    versions = {**provenance.versions(), "libtpu": importlib.metadata.version("libtpu")}
    command = "python -m benchmarks.tpu_compiler"
    command += "" if flag.parts == list(PARTS) else f" --parts={','.join(flag.parts)}"
    command += f' --only="{", ".join(flag.only)}"' if flag.only else ""
    content = {"command": command, "versions": versions, "parts": {}}
    for part in flag.parts:
        rows = content["parts"][part] = []
        for row in PARTS[part](flag.only):
            print(f"{part}: {row['name']}: {row['compiled_in']:.1f} s", flush=True)
            rows.append(row)
            if flag.out:
                out = Path(flag.out)
                files.write(out / f"{STEM}.json", json.dumps(content, indent=1) + "\n")
                files.write(out / f"{STEM}.md", page(content))
    print(page(content))


if __name__ == "__main__":
    flags.DEFINE_list("parts", list(PARTS), "Which parts.")
    flags.DEFINE_list("only", [], "Rows of them by name; all by default.")
    flags.DEFINE_string("out", "", "Folder for the JSON and the page, beside printing.")
    sys.exit(launch.guard(lambda: app.run(main)))
