"""Programs for the chips of a TPU v5e that is not here: placed, compiled, and looked at."""

import re
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

import optim

COLLECTIVES = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "collective-permute")
ALWAYS = ("compiled_in", "host_calls", "float64", "cuda")


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


def chip() -> SingleDeviceSharding:
    """Returns a place on one chip."""
    return SingleDeviceSharding(mesh_of("2x2").devices.flat[0])


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


def update_with(tx: Any) -> Callable[..., Any]:
    """Returns the step of one update of parameters by gradients."""

    def step(params, state, grads):
        changes, state = tx.update(grads, state, params)
        return optax.apply_updates(params, changes), state

    return step


def shown(row: dict[str, Any]) -> str:
    """Returns the collectives of a row as words."""
    return ", ".join(f"{n} {kind}" for kind, n in row["collectives"].items()) or "none"
