"""What a training run would need on each of many devices; nothing is allocated."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

import optim
from experiments.common import markdown
from experiments.supervised import training

__all__ = ["markdown_of", "parse_devices", "sizes"]

GIB = 2.0**30


def parse_devices(text: str) -> list[int]:
    """Returns the numbers of devices of a text such as ``"8,64,256"``.

    Raises:
      ValueError: One of them is no integer above 0.
    """
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ValueError(f"--plan must be numbers of devices such as 8,64,256, got {text!r}")
    return found


def sizes(
    config: ConfigDict, data_dir: str | None, devices: int, sharding: str = "fsdp"
) -> dict[str, Any]:
    """Returns the bytes on one device.

    Args:
      config: As of ``experiments.train``; ``batch_size`` is that of all devices together.
      data_dir: Folder of the data sets.
      devices: Their number.
      sharding: ``"fsdp"`` or ``"replicated"``.

    Returns:
      Bytes of ``parameters``, ``state`` (the optimizer's), ``gradients`` and ``activations``, and
      ``whole``: the paths of the leaves above 1 MiB that every device holds whole. Activations are
      what backpropagation keeps by the program, before a compiler recomputes or reuses any of it.

    Raises:
      ValueError: The batch does not divide, or nothing of the model does.
    """
    if config.batch_size % devices:
        raise ValueError(f"batch_size must be a multiple of {devices}, got {config.batch_size}")
    job = training.job_of(config, data_dir)
    state = jax.eval_shape(job.init, jax.random.key(0), 0.1, 0.0)
    rules = (("", optim.parallel.LARGEST if sharding == "fsdp" else None),)
    held = {
        "parameters": optim.parallel.shares(state.params, devices, rules),
        "state": optim.parallel.shares(state.opt_state, devices, rules),
    }
    inputs = next(job.batches(0)(0))
    one = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((x.shape[0] // devices, *x.shape[1:]), x.dtype), inputs
    )
    batch = jax.eval_shape(job.prepare, job.resident, one, jax.random.key(0))

    def kept(params, stats, batch):
        return jax.vjp(lambda p: job.objective(p, stats, batch)[0], params)[1]

    residuals = jax.tree.leaves(jax.eval_shape(kept, state.params, state.stats, batch))
    # Parameters that it keeps too are counted above.
    held_by = Counter((x.shape, x.dtype) for x in residuals)
    held_by -= Counter((x.shape, x.dtype) for x in jax.tree.leaves(state.params))
    activations = sum(
        n * math.prod(shape) * dtype.itemsize for (shape, dtype), n in held_by.items()
    )
    bytes_of = {name: sum(s.size for s in found) for name, found in held.items()}
    whole = [
        f"{name}/{s.path}"
        for name, found in held.items()
        for s in found
        if s.size > 2**20 and all(part is None for part in s.spec)
    ]
    return {
        **bytes_of,
        "gradients": bytes_of["parameters"],
        "activations": activations,
        "whole": whole,
    }


def markdown_of(config: ConfigDict, data_dir: str | None, devices: Sequence[int]) -> str:
    """Returns a table: GiB on one device by the number of devices."""
    rows, whole = [], []
    for n in devices:
        found = sizes(config, data_dir, n)
        whole = found.pop("whole")
        numbers = [*found.values(), sum(found.values())]
        rows.append([n, config.batch_size // n, *(f"{x / GIB:.3f}" for x in numbers)])
    alone = sizes(config, data_dir, 1, "replicated")
    alone.pop("whole")
    head = ["devices", "examples on each", *(f"{name}, GiB" for name in alone), "in all"]
    lines = [
        f"One device would hold {sum(alone.values()) / GIB:.3f} GiB; split over devices:",
        "",
        *markdown.table(head, rows, "r" * len(head)),
        "",
        "Activations: what backpropagation keeps by the program, before the compiler saves any.",
        "Gradients: each device's part. A compiler may add them up whole before it splits them, as"
        " that of TPUs does for chips in more than one row (results/tpu/compiler.md): up to"
        f" {alone['gradients'] / GIB:.3f} GiB for a while.",
    ]
    if whole and devices[-1] > 1:
        lines += [f"Whole on every device of {devices[-1]}: {', '.join(whole)}."]
    return "\n".join(lines)
