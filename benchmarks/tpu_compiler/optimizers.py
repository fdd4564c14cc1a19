"""One update of every optimizer of the project on four small arrays split over four chips."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import optim
from benchmarks.tpu_compiler import chips
from experiments.common import markdown as md

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

SMALL = {
    "bias": (128,),
    "conv": (3, 3, 32, 128),
    "embedding": (1024, 128),
    "kernel": (128, 256),
}


def optimizer(name: str) -> dict[str, Any]:
    """Returns what is in one update of small arrays that are split over four chips."""
    tx, mesh = OPTIMIZERS[name](), chips.mesh_of("2x2")
    params = {k: jax.ShapeDtypeStruct(shape, jnp.float32) for k, shape in SMALL.items()}
    state = jax.eval_shape(tx.init, params)
    params, state = (chips.place(tree, chips.split(tree, mesh)) for tree in (params, state))
    found = chips.findings(chips.update_with(tx), params, state, params, donate_argnums=(0, 1))
    return {k: found[k] for k in ("collectives", *chips.ALWAYS)}


def table(rows):
    cells = [[name, chips.shown(r), f"{r['compiled_in']:.0f} s"] for name, r in rows.items()]
    title = ["## One update of every optimizer, four small arrays split over 4 chips", ""]
    return [*title, *md.table(["", "collectives", "compiled in"], cells, "llr")]
