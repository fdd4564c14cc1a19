"""One update of each optimizer on a LLaMA 60M: bytes beside those of the optimizer of Optax."""

import textwrap
from collections.abc import Callable
from typing import Any

import jax
import optax

import optim
from benchmarks.tpu_compiler import chips
from experiments import models
from experiments.common import markdown as md

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
    "badam": (lambda: optim.badam(1e-3), "adamw (Optax)", None),
}


def llama(size: str = "60M", length: int = 256) -> models.Model:
    """Returns a LLaMA of 32000 tokens."""
    return models.build("llama", input_shape=(length,), num_classes=32_000, size=size)


def update(name: str) -> dict[str, Any]:
    """Returns the cost of one update of an optimizer on a LLaMA."""
    make, peer, bound = UPDATES[name]
    tx, one = make(), chips.chip()
    params, _ = jax.eval_shape(llama().init, jax.random.key(0))
    params, count = chips.place(params, one), models.count(params)
    state = chips.place(jax.eval_shape(tx.init, params), one)
    found = chips.findings(chips.update_with(tx), params, state, params, donate_argnums=(0, 1))
    return {
        "peer": peer,
        "bound": bound,
        "bytes": found["bytes_accessed"] / count,
        "temporaries": found["temporaries"] / count,
        "state": optim.state_bytes(tx, params) / count,
        **{k: found[k] for k in chips.ALWAYS},
    }


def table(rows):
    lines = []
    for name, r in rows.items():
        peer = rows.get(r["peer"])
        ratio = "" if peer is None or name == r["peer"] else f"{r['bytes'] / peer['bytes']:.2f}"
        bound = "" if r["bound"] is None else f"{r['bound']:g}"
        if ratio and bound and r["bytes"] > r["bound"] * peer["bytes"]:
            bound += ", missed"
        cells = [f"{r['bytes']:.1f}", f"{r['temporaries']:.2f}", f"{r['state']:.2f}"]
        lines.append([name, *cells, r["peer"] if ratio else "", ratio, bound])
    head = ["", "bytes accessed", "temporaries", "state", "against", "ratio", "bound"]
    title = ["## One update of a LLaMA 60M, bytes per parameter", ""]
    note = (
        "The gradient is an argument of the program, which diffGrad, since it keeps it, must copy;"
        " the next table has it as a temporary too. randk is in that table alone: its draw sorts"
        " all entries of a matrix, and to compile that for every matrix takes an hour."
    )
    return [*title, *md.table(head, lines, "lrrrlrl"), "", *textwrap.wrap(note, 100)]
