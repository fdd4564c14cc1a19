"""The devices of a run, and where its state is on several of them."""

import sys
from typing import Any

import jax
from absl import flags
from jax.sharding import Mesh

import optim
from optim import _checks

SHARDINGS = ("replicated", "fsdp")


def define_flag() -> None:
    """Defines ``--sharding``; a main calls it before ``launch.launch``."""
    flags.DEFINE_enum(
        "sharding",
        "replicated",
        SHARDINGS,
        "State of a run on several devices: whole on each, or split over them.",
        module_name=sys.argv[0],  # --help shows the flags of the main module alone.
    )


def mesh(batch_size: int = 0) -> Mesh | None:
    """Returns the mesh of all devices; ``None`` where there is one.

    Args:
      batch_size: Of the batch that is split over them; 0 where none is.

    Raises:
      ValueError: The batch does not divide.
    """
    count = jax.device_count()
    if batch_size % count:
        raise ValueError(
            f"a batch of {batch_size} examples does not divide over {count} devices: make "
            f"batch_size a multiple of {count}"
        )
    return optim.parallel.data_mesh() if count > 1 else None


def placed(state: Any, mesh: Mesh | None, sharding: str) -> Any:
    """Returns the state as ``sharding`` says: as it is, or its large leaves split over the mesh.

    The split state takes the same steps, but for rounding, and its checkpoints are those of the
    whole one: each is restored by the other, on any number of devices.

    Args:
      state: The first state of a run.
      mesh: Of :func:`mesh`; without one there is nothing to split.
      sharding: ``"replicated"`` or ``"fsdp"``.

    Raises:
      ValueError: An unknown ``sharding``, or ``"fsdp"`` and no leaf that could be split.
    """
    _checks.choice("sharding", sharding, SHARDINGS)
    if mesh is None or sharding == "replicated":
        return state
    split = optim.parallel.shard(state, mesh)
    if all(x.sharding.is_fully_replicated for x in jax.tree.leaves(split)):
        raise ValueError(
            f"sharding=fsdp splits nothing over {mesh.size} devices: no leaf of the state has as "
            "many as 1024 numbers"
        )
    return split
