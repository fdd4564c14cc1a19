"""What the TPU compiler makes of this code, on a machine without a TPU.

    pip install -e '.[tpu]'                                 # brings the compiler, libtpu
    python -m benchmarks.tpu_compiler --out=results/tpu     # all parts
    python -m benchmarks.tpu_compiler --parts=updates --only=lion,adamp

Programs are compiled ahead of time for chips of a TPU v5e: nothing runs, nothing is allocated. Each
is lowered for CUDA too. A compilation takes seconds to minutes, so programs that the folder has
from an earlier run of the same versions are kept; --only compiles them anew.

updates     one update of each optimizer on a LLaMA 60M: bytes accessed and temporaries per
            parameter, beside those of the optimizer of Optax that a user would take instead
optimizers  one update of every optimizer on four small arrays split over 4 chips (2x2)
training    a training step of each model, data parallel on 4 chips: its collectives
sharded     a training step of the LLaMA with parameters and states split over 4 and over 256 chips
            (16x16): collectives and bytes on each chip
solvers     a step of each solver on one chip: bilevel, pruning, without backpropagation

Compilation fails on what a TPU cannot do. Two further things are looked for in each program and
named if they are there: a call back to the host, and float64.
"""

import importlib.metadata
import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterable
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
from experiments.models.llama import SIZES

STEM = "compiler"
COMMAND = "python -m benchmarks.tpu_compiler --out=results/tpu"
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

# Every optimizer of the project.
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "lion": lambda: optim.lion(1e-3),
    "lion_k": lambda: optim.lion_k(1e-3, optim.kappas.l2),
    "cautious": lambda: optim.cautious(optim.lion(1e-3)),
    "cautious_decay": lambda: optim.cautious_decay(optim.lion(1e-3, weight_decay=0), 1e-3, 0.1),
    "orthograd": lambda: optim.orthograd(optax.sgd(1e-3)),
    "adamp": lambda: optim.adamp(1e-3),
    "sgdp": lambda: optim.sgdp(1e-3, momentum=0.9),
    "diffgrad": lambda: optim.diffgrad(1e-3),
    "adagrad_norm": lambda: optim.adagrad_norm(1e-3),
    "scale_by_momentum": lambda: optax.chain(
        optim.scale_by_momentum(sign=True), optax.scale(-1e-3)
    ),
    "record_norms": lambda: optax.chain(optim.record_norms(100), optax.sgd(1e-3)),
    "masked_update": lambda: optim.masked_update(optax.adamw(1e-3)),
    "error_feedback": lambda: optax.chain(
        optim.error_feedback(optim.compressors.natural()), optax.sgd(1e-3)
    ),
    **{
        f"frugal {subspace}": lambda subspace=subspace: optim.frugal(1e-3, subspace=subspace)
        for subspace in ("block", "columns", "rows", "randk")
    },
    "badam": lambda: optim.badam(1e-3),
    "galore": lambda: optim.galore(1e-3),
}

# Models of benchmarks._training, and examples on a chip.
TRAINED = {
    "MLP": 32,
    "LeNet-5": 32,
    "LLaMA 60M of 2 blocks": 8,
    "CNN": 32,
    "ResNet-20": 32,
    "VGG-16": 32,
}

# Chips that a LLaMA is split over. All eight blocks would take the compiler ten minutes.
SHARDED = ("2x2", "16x16")

_hidden, _inner, _, _heads = SIZES["60M"]
SIZES["60M of 2 blocks"] = (_hidden, _inner, 2, _heads)
_training.MODELS["LLaMA 60M of 2 blocks"] = ("llama", (256,), 32_000, {"size": "60M of 2 blocks"})

# What a solver is for, and the solver.
SOLVERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "f2sa": ("bilevel", lambda: bilevel.f2sa(0.01, 0.02, inner_steps=5)),
    "f3sa": ("bilevel", lambda: bilevel.f3sa(0.01, 0.02, 0.5)),
    "penalty, inner loop": ("bilevel", lambda: bilevel.penalty(0.1, 0.8, 0.02, 0.1, 1.0, 5)),
    "penalty, momentum": (
        "bilevel",
        lambda: bilevel.penalty(0.1, 0.8, 0.02, 0.1, 1.0, momentum=0.5),
    ),
    "lv_hba": ("bilevel", lambda: bilevel.lv_hba(0.02, 0.1, 0.02)),
    "implicit": ("bilevel", bilevel.implicit),
    "unrolled": ("bilevel", bilevel.unrolled),
    "soba": ("bilevel", bilevel.soba),
    "saba": ("bilevel", lambda: bilevel.saba(16, 16)),
    "bip": ("prune", lambda: bilevel.bip(0.1, 1.0, density=0.5)),
    "hydra": ("prune", lambda: bilevel.hydra(0.1, density=0.5)),
    "jackpot": ("prune", lambda: bilevel.jackpot(0.1, density=0.5)),
    "sparse_training": ("prune", lambda: bilevel.sparse_training(optax.sgd(0.1))),
    "dynamic_sparse": (
        "prune",
        lambda: bilevel.dynamic_sparse(optax.sgd(0.1), 0.2, every=100, steps=1000),
    ),
    "nm_training": ("prune", lambda: bilevel.nm_training(optax.sgd(0.1))),
    "mezo": ("train", lambda: optim.zeroth_order.mezo(_mean_loss, 1e-3)),
    "conservative": ("train", lambda: optim.zeroth_order.conservative(_mean_loss, optax.sgd(1e-3))),
    "block_descent": (
        "train",
        lambda: optim.zeroth_order.block_descent(_mean_loss, optax.sgd(1e-3), "(.*)/w"),
    ),
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
    if isinstance(sharding, jax.sharding.Sharding):
        sharding = jax.tree.map(lambda _: sharding, tree)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, sharding
    )


def split(tree: Any, mesh: Mesh) -> Any:
    """Returns how parameters and states are split over all chips, a sharding for each leaf."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        optim.parallel.specs(tree, mesh.size),
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )


def collectives(program: str) -> dict[str, int]:
    """Returns how many of each kind are in a compiled program; one may carry many arrays."""
    found, computation = set(), ""
    for line in program.splitlines():
        if header := re.match(r"\s*(ENTRY )?%(\S+) \(.*\{$", line):
            computation = "" if header[1] else header[2]
        called = re.search(rf"(\S+) = .*? ({'|'.join(COLLECTIVES)})(?:-start)?\(", line)
        if called:
            name, kind = called.groups()
            if computation.startswith("all-reduce-scatter"):  # So a TPU writes it.
                kind = "reduce-scatter"
            channel = re.search(r"channel_id=\d+", line)
            if computation and channel:  # An asynchronous one is in several of them.
                name = channel[0]
            found.add((kind, name))
    return {k: sum(kind == k for kind, _ in found) for k in COLLECTIVES if k in dict(found)}


def findings(step: Callable[..., Any], *arguments: Any, **options: Any) -> dict[str, Any]:
    """Compiles a step for the chips that its arguments are placed on, and lowers it for CUDA.

    Returns:
      What there is to know of the program for one chip.
    """
    start = time.perf_counter()
    traced = jax.jit(step, **options).trace(*arguments)
    compiled = traced.lower(lowering_platforms=("tpu",)).compile()
    compiled_in = time.perf_counter() - start
    anywhere = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    jax.jit(step).trace(*anywhere).lower(lowering_platforms=("cuda",))
    text, memory = compiled.as_text(), compiled.memory_analysis()
    return {
        "bytes_accessed": compiled.cost_analysis()["bytes accessed"],
        "temporaries": memory.temp_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "collectives": collectives(text),
        "host_calls": len(re.findall(r"custom_call_target=\"[^\"]*callback", text)),
        "float64": " f64[" in text,
        "cuda": True,
        "compiled_in": compiled_in,
    }


ALWAYS = ("compiled_in", "host_calls", "float64", "cuda")


def llama(size: str = "60M", length: int = 256) -> models.Model:
    """Returns a LLaMA of 32000 tokens."""
    return models.build("llama", input_shape=(length,), num_classes=32_000, size=size)


def _chip() -> SingleDeviceSharding:
    return SingleDeviceSharding(mesh_of("2x2").devices.flat[0])


def _update(tx: Any) -> Callable[..., Any]:
    """One update of parameters by gradients."""

    def step(params, state, grads):
        changes, state = tx.update(grads, state, params)
        return optax.apply_updates(params, changes), state

    return step


def update(name: str) -> dict[str, Any]:
    """Returns the cost of one update of an optimizer on a LLaMA."""
    make, peer, bound = UPDATES[name]
    tx, chip = make(), _chip()
    params, _ = jax.eval_shape(llama().init, jax.random.key(0))
    params, count = place(params, chip), models.count(params)
    state = place(jax.eval_shape(tx.init, params), chip)
    found = findings(_update(tx), params, state, params, donate_argnums=(0, 1))
    return {
        "peer": peer,
        "bound": bound,
        "bytes": found["bytes_accessed"] / count,
        "temporaries": found["temporaries"] / count,
        "state": optim.state_bytes(tx, params) / count,
        **{k: found[k] for k in ALWAYS},
    }


SMALL = {
    "bias": (128,),
    "conv": (3, 3, 32, 128),
    "embedding": (1024, 128),
    "kernel": (128, 256),
}


def optimizer(name: str) -> dict[str, Any]:
    """Returns what is in one update of small arrays that are split over four chips."""
    tx, mesh = OPTIMIZERS[name](), mesh_of("2x2")
    params = {k: jax.ShapeDtypeStruct(shape, jnp.float32) for k, shape in SMALL.items()}
    state = jax.eval_shape(tx.init, params)
    params, state = (place(tree, split(tree, mesh)) for tree in (params, state))
    found = findings(_update(tx), params, state, params, donate_argnums=(0, 1))
    return {k: found[k] for k in ("collectives", *ALWAYS)}


def _training_step(name: str, devices: int) -> tuple[Any, Any, Any]:
    """A step with AdamW, and the shapes of its state and batch."""
    made = _training.program(name, devices * TRAINED[name])
    return made.step, jax.eval_shape(made.init, jax.random.key(0)), made.batch


def trained(name: str) -> dict[str, Any]:
    """Returns what is in a data-parallel training step of a model on four chips."""
    mesh = mesh_of("2x2")
    whole, parts = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    step, state, batch = _training_step(name, mesh.size)
    found = findings(step, place(state, whole), place(batch, parts), donate_argnums=0)
    return {
        "parameters": models.count(state.params),
        "examples": TRAINED[name],
        **{k: found[k] for k in ("collectives", *ALWAYS)},
    }


def sharded(topology: str) -> dict[str, Any]:
    """Returns what is in a training step of the LLaMA with split parameters and states."""
    mesh = mesh_of(topology)
    step, state, batch = _training_step("LLaMA 60M of 2 blocks", mesh.size)
    placed = split(state, mesh)
    found = findings(
        step,
        place(state, placed),
        place(batch, NamedSharding(mesh, PartitionSpec("data"))),
        donate_argnums=0,
        out_shardings=(placed, None),
    )
    return {
        "chips": mesh.size,
        "state_bytes": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)),
        **{k: found[k] for k in ("arguments", "temporaries", "collectives", *ALWAYS)},
    }


def _losses(y: Any, data: Any) -> jax.Array:
    """Cross-entropies of a perceptron on images."""
    h = jax.nn.relu(data["image"] @ y[0]["w"] + y[0]["b"])
    logits = h @ y[1]["w"] + y[1]["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, data["label"])


def _mean_loss(y: Any, data: Any) -> jax.Array:
    return jnp.mean(_losses(y, data))


CLEANING = bilevel.Problem(
    upper=lambda x, y, data: _mean_loss(y, data),
    lower=lambda x, y, data: jnp.mean(jax.nn.sigmoid(x[data["row"]]) * _losses(y, data)),
)
PRUNING = bilevel.pruning.problem(_mean_loss)


def solved(name: str, width: int = 256, batch: int = 128, samples: int = 1000) -> dict[str, Any]:
    """Returns the cost of a step of a solver on one chip.

    Bilevel solvers clean the data of a perceptron on images, a weight for each sample; those that
    prune, and those without backpropagation, train the perceptron.
    """
    shape, chip = jax.ShapeDtypeStruct, _chip()
    sizes = ((784, width), (width, 10))
    y0 = [{"w": shape(s, jnp.float32), "b": shape(s[1:], jnp.float32)} for s in sizes]
    data = {
        "image": shape((batch, 784), jnp.float32),
        "label": shape((batch,), jnp.int32),
        "row": shape((batch,), jnp.int32),
    }
    kind, make = SOLVERS[name]
    solver = make()
    takes = solver.batch if isinstance(solver, bilevel.Solver) else "one"
    if kind == "bilevel":
        x0 = shape((samples,), jnp.float32)
        state = jax.eval_shape(lambda x, y: solver.init(CLEANING, x, y), x0, y0)
    elif kind == "prune":
        state = jax.eval_shape(lambda y: solver.init(PRUNING, None, y), y0)
    else:
        state = jax.eval_shape(lambda y: solver.init(y, jax.random.key(0)), y0)
    if takes == "components":
        data = (shape((), jnp.int32), data)
    placed = place(state, chip), place(data if takes == "one" else (data, data), chip)
    found, count = findings(solver.step, *placed, donate_argnums=0), models.count(y0)
    return {
        "bytes": found["bytes_accessed"] / count,
        "temporaries": found["temporaries"] / count,
        **{k: found[k] for k in ALWAYS},
    }


# What each part compiles by name, and the function of a name that does.
PARTS: dict[str, tuple[Iterable[str], Callable[[str], dict[str, Any]]]] = {
    "updates": (UPDATES, update),
    "optimizers": (OPTIMIZERS, optimizer),
    "training": (TRAINED, trained),
    "sharded": (SHARDED, sharded),
    "solvers": (SOLVERS, solved),
}


def page(content: dict[str, Any]) -> str:
    """Returns the page as Markdown."""
    lines = [
        "# What the TPU compiler makes of it",
        "",
        f"`{COMMAND}`, compiled ahead of time for a TPU v5e by"
        f" {', '.join(f'{k} {v}' for k, v in sorted(content['versions'].items()))}. Nothing ran on"
        " a TPU: bytes are the compiler's count, and times of compilation are this CPU's.",
        "",
    ]
    for part, rows in content["parts"].items():
        lines += [*_TABLES[part]({r["name"]: r for r in rows}), ""]
    every = [(part, row) for part, rows in content["parts"].items() for row in rows]
    bad = [f"{r['name']} ({part})" for part, r in every if r["host_calls"] or r["float64"]]
    lines += [
        f"{len(every)} programs, {sum('cuda' in r for _, r in every)} of them lowered for CUDA too."
        f" With a call to the host or float64: {', '.join(bad) or 'none'}.",
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
    note = (
        "diffGrad keeps the gradient of the last step. Of one matrix (4096 x 4096) its fusion moves"
        " 32 bytes a parameter; 24 more are counted for the copy of a gradient that the caller has"
        " too."
    )
    return [*title, *md.table(head, table, "lrrrlrl"), "", *textwrap.wrap(note, 100)]


def _collectives(row) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in row["collectives"].items()) or "none"


def _optimizers_table(rows):
    table = [[name, _collectives(r), f"{r['compiled_in']:.0f} s"] for name, r in rows.items()]
    title = ["## One update of every optimizer, four small arrays split over 4 chips", ""]
    return [*title, *md.table(["", "collectives", "compiled in"], table, "llr")]


def _training_table(rows):
    table = [
        [
            name,
            f"{r['parameters'] / 1e6:.2f}M",
            str(r["examples"]),
            _collectives(r),
            f"{r['compiled_in']:.0f} s",
        ]
        for name, r in rows.items()
    ]
    head = ["", "parameters", "examples of a chip", "collectives", "compiled in"]
    title = ["## A training step with AdamW, data parallel on 4 chips", ""]
    found = [*title, *md.table(head, table, "lrrlr")]
    if "ResNet-20" in rows:
        found += ["", *textwrap.wrap(_SYNCHRONIZED, 100)]
    return found


_SYNCHRONIZED = (
    "One all-reduce is that of the gradients. BatchNorm takes its statistics over the whole batch,"
    " whatever the number of chips: of each of ResNet-20's 19 that is one forward and one backward."
)


def _sharded_table(rows):
    table = [
        [
            f"LLaMA 60M of 2 blocks, {r['chips']} chips",
            f"{r['state_bytes'] / 2**20:.0f}",
            f"{r['arguments'] / 2**20:.1f}",
            f"{r['temporaries'] / 2**20:.0f}",
            _collectives(r),
        ]
        for r in rows.values()
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
    "optimizers": _optimizers_table,
    "training": _training_table,
    "sharded": _sharded_table,
    "solvers": _solvers_table,
}


def main(argv) -> None:
    """Compiles, and writes after each program."""
    del argv
    flag, out = flags.FLAGS, Path(flags.FLAGS.out)
    jax.config.update("jax_enable_compilation_cache", False)  # No TPU's program is read back here.
    versions = {**provenance.versions(), "libtpu": importlib.metadata.version("libtpu")}
    content = {"versions": versions, "parts": {}}
    if flag.out and (out / f"{STEM}.json").exists():
        before = json.loads((out / f"{STEM}.json").read_text(encoding="utf-8"))
        content = before if before["versions"] == versions else content
    for part in flag.parts:
        names, compiled = PARTS[part]
        rows = {row["name"]: row for row in content["parts"].get(part, ())}
        for name in flag.only or [name for name in names if name not in rows]:
            if name not in names:
                continue  # Of another part.
            rows[name] = {"name": name, **compiled(name)}
            print(f"{part}: {name}: {rows[name]['compiled_in']:.1f} s", flush=True)
            parts = {**content["parts"], part: [rows[name] for name in names if name in rows]}
            content["parts"] = {part: parts[part] for part in PARTS if part in parts}
            if flag.out:
                files.write(out / f"{STEM}.json", json.dumps(content, indent=1) + "\n")
                files.write(out / f"{STEM}.md", page(content))
    print(page(content))


if __name__ == "__main__":
    flags.DEFINE_list("parts", list(PARTS), "Which parts.")
    flags.DEFINE_list("only", [], "Rows of them by name; all that are missing by default.")
    flags.DEFINE_string("out", "", "Folder for the JSON and the page, beside printing.")
    sys.exit(launch.guard(lambda: app.run(main)))
