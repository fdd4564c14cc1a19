"""The devices of a run, and where its state is on several of them."""

import sys
from collections.abc import Callable
from typing import Any

import jax
from absl import flags
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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


def mesh() -> Mesh | None:
    """Returns the mesh of all devices; ``None`` where there is one."""
    return optim.parallel.data_mesh() if jax.device_count() > 1 else None


def check_divides(name: str, size: int) -> None:
    """Raises ``ValueError`` unless each device gets as much of what is split over them."""
    count = jax.device_count()
    if size % count:
        raise ValueError(f"{name} must be a multiple of the {count} devices, got {size}")


def started(init: Callable[..., Any], mesh: Mesh | None, sharding: str, *arguments: Any) -> Any:
    """Returns ``init(*arguments)``, compiled; what is to be split is made in its parts.

    The split state takes the same steps as the whole one, but for rounding, and its checkpoints are
    those of the whole one: each is restored by the other, on any number of devices.

    Args:
      init: Makes the first state of a run.
      mesh: Of :func:`mesh`; without one there is nothing to split.
      sharding: ``"replicated"``, or ``"fsdp"`` to split large leaves over the mesh.
      *arguments: Of ``init``.

    Raises:
      ValueError: An unknown ``sharding``, or ``"fsdp"`` and no leaf that could be split.
    """
    if not _splits(mesh, sharding):
        return jax.jit(init)(*arguments)
    layout = _layout(jax.eval_shape(init, *arguments), mesh)
    return jax.jit(init, out_shardings=layout)(*arguments)


def placed(state: Any, mesh: Mesh | None, sharding: str) -> Any:
    """Returns a state that is there already as :func:`started` would have made it."""
    return jax.device_put(state, _layout(state, mesh)) if _splits(mesh, sharding) else state


def whole(tree: Any) -> Any:
    """Returns the arrays on the host; all processes take part."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def _splits(mesh: Mesh | None, sharding: str) -> bool:
    _checks.choice("sharding", sharding, SHARDINGS)
    return mesh is not None and sharding == "fsdp"


def _layout(state: Any, mesh: Any) -> Any:
    specs = optim.parallel.specs(state, mesh.size)
    if not any(any(spec) for spec in jax.tree.leaves(specs, is_leaf=_is_spec)):
        raise ValueError(
            f"sharding=fsdp splits nothing over {mesh.size} devices: no leaf of the state has as "
            "many as 1024 numbers"
        )
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=_is_spec)


def _is_spec(x: Any) -> bool:
    return isinstance(x, PartitionSpec)
