"""A training step of each model, data parallel or with its state split over all chips."""

import textwrap
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import _training
from benchmarks.tpu_compiler import chips
from experiments import models
from experiments.common import markdown as md
from experiments.models.llama import SIZES

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


def _training_step(name: str, devices: int) -> tuple[Any, Any, Any]:
    """A step with AdamW, and the shapes of its state and batch."""
    made = _training.program(name, devices * TRAINED[name])
    return made.step, jax.eval_shape(made.init, jax.random.key(0)), made.batch


def trained(name: str) -> dict[str, Any]:
    """Returns what is in a data-parallel training step of a model on four chips."""
    mesh = chips.mesh_of("2x2")
    whole, parts = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    step, state, batch = _training_step(name, mesh.size)
    found = chips.findings(
        step, chips.place(state, whole), chips.place(batch, parts), donate_argnums=0
    )
    return {
        "parameters": models.count(state.params),
        "examples": TRAINED[name],
        **{k: found[k] for k in ("collectives", *chips.ALWAYS)},
    }


def sharded(topology: str) -> dict[str, Any]:
    """Returns what is in a training step of the LLaMA with split parameters and states."""
    mesh = chips.mesh_of(topology)
    step, state, batch = _training_step("LLaMA 60M of 2 blocks", mesh.size)
    placed = chips.split(state, mesh)
    found = chips.findings(
        step,
        chips.place(state, placed),
        chips.place(batch, NamedSharding(mesh, PartitionSpec("data"))),
        donate_argnums=0,
        out_shardings=(placed, None),
    )
    return {
        "chips": mesh.size,
        "state_bytes": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)),
        **{k: found[k] for k in ("arguments", "temporaries", "collectives", *chips.ALWAYS)},
    }


def trained_table(rows):
    table = [
        [
            name,
            f"{r['parameters'] / 1e6:.2f}M",
            str(r["examples"]),
            chips.shown(r),
            f"{r['compiled_in']:.0f} s",
        ]
        for name, r in rows.items()
    ]
    head = ["", "parameters", "examples of a chip", "collectives", "compiled in"]
    title = ["## A training step with AdamW, data parallel on 4 chips", ""]
    found = [*title, *md.table(head, table, "lrrlr")]
    return [*found, "", *textwrap.wrap(_REDUCED, 100)]


_REDUCED = (
    "One all-reduce is that of the gradients, the loss and the accuracy. BatchNorm takes its"
    " statistics over the whole batch, whatever the number of chips: of each of ResNet-20's 19 and"
    " VGG-16's 13 that is one forward and one backward. The compiler puts 112 MiB of gradients into"
    " one all-reduce, and 128 MiB into two (matrices of 16 MiB): of the LLaMA's the head's are"
    " reduced by themselves."
)


def sharded_table(rows):
    table = [
        [
            f"LLaMA 60M of 2 blocks, {r['chips']} chips",
            f"{r['state_bytes'] / 2**20:.0f}",
            f"{r['arguments'] / 2**20:.1f}",
            f"{r['temporaries'] / 2**20:.0f}",
            chips.shown(r),
        ]
        for r in rows.values()
    ]
    head = ["", "state in all, MiB", "arguments of a chip, MiB", "temporaries of a chip, MiB"]
    title = ["## A training step with parameters and states split over all chips", ""]
    found = [*title, *md.table([*head, "collectives"], table, "lrrrl")]
    return [*found, "", *textwrap.wrap(_SCATTERED, 100)]


_SCATTERED = (
    "Over chips that are more than one row of the torus this compiler writes a reduce-scatter as an"
    " all-reduce of whole gradients and a slice, an explicit jax.lax.psum_scatter over 4x4 or 16x16"
    " too; over 2x2, 2x4 and one row of 16 it stays one. Wider matrices, constraints on the"
    " gradients, the chips in another order and the other partitioner change nothing. Whole"
    " gradients are then among the temporaries. An all-gather of shards of fewer than 16 rows, a"
    " tile in bfloat16, is written as an all-reduce as well."
)
