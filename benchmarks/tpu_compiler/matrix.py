"""One update of one large matrix: what an optimizer moves where nothing fits on the chip.

The gradient is an argument, or it is made in the same program, by a product of matrices as in
backpropagation. The compiler then writes the update into the product, and an optimizer that keeps
the gradient needs no copy of it.
"""

import textwrap
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import optim
from benchmarks.tpu_compiler import chips
from experiments.common import markdown as md

SIDE = 4096
EXAMPLES = 256


def between_draws(name: str) -> optim.subspaces.Subspace:
    """Returns a subspace that draws nothing: the step of 199 in 200, as the compiler sees it.

    It counts both branches of a conditional. A basis of zeros costs nothing and is never used.
    """
    subspace = optim.subspaces.by_name(name)

    def select(key, grad, **about):
        basis = jax.eval_shape(lambda k, g: subspace.select(k, g, **about), key, grad)
        return jax.tree.map(lambda b: jnp.zeros(b.shape, b.dtype), basis)

    return subspace._replace(select=select)


# An optimizer, and the one of Optax beside it.
MATRIX: dict[str, tuple[Callable[[], Any], str]] = {
    "adamw (Optax)": (lambda: optax.adamw(1e-3), "adamw (Optax)"),
    "lion (Optax)": (lambda: optax.lion(1e-3), "lion (Optax)"),
    "momentum (Optax)": (lambda: optax.sgd(1e-3, 0.9), "momentum (Optax)"),
    "lion": (lambda: optim.lion(1e-3), "lion (Optax)"),
    "adamp": (lambda: optim.adamp(1e-3), "adamw (Optax)"),
    "sgdp": (lambda: optim.sgdp(1e-3, momentum=0.9), "momentum (Optax)"),
    "diffgrad": (lambda: optim.diffgrad(1e-3), "adamw (Optax)"),
    **{
        f"frugal {name} between draws": (
            lambda name=name: optim.frugal(1e-3, subspace=between_draws(name)),
            "adamw (Optax)",
        )
        for name in ("columns", "rows", "randk")
    },
}


def updated(name: str) -> dict[str, Any]:
    """Returns the cost of one update of a matrix by an optimizer."""
    make, peer = MATRIX[name]
    tx, one = make(), chips.chip()
    params = chips.place({"w": jax.ShapeDtypeStruct((SIDE, SIDE), jnp.float32)}, one)
    state = chips.place(jax.eval_shape(tx.init, params), one)
    rows = chips.place(jax.ShapeDtypeStruct((EXAMPLES, SIDE), jnp.float32), one)
    step = chips.update_with(tx)

    def with_product(params, state, inputs, errors):
        return step(params, state, {"w": inputs.T @ errors})

    given = chips.findings(step, params, state, params, donate_argnums=(0, 1))
    made = chips.findings(with_product, params, state, rows, rows, donate_argnums=(0, 1))
    return {
        "peer": peer,
        "given": given["bytes_accessed"] / SIDE**2,
        "made": made["bytes_accessed"] / SIDE**2,
        "temporaries": made["temporaries"] / SIDE**2,
        **{k: made[k] for k in chips.ALWAYS},
        "compiled_in": given["compiled_in"] + made["compiled_in"],
    }


def table(rows):
    lines = []
    for name, r in rows.items():
        peer = rows.get(r["peer"])
        ratios = ["", ""]
        if peer is not None and name != r["peer"]:
            ratios = [f"{r[k] / peer[k]:.2f}" for k in ("given", "made")]
        numbers = [f"{r[k]:.1f}" for k in ("given", "made")]
        against = r["peer"] if ratios[0] else ""
        lines.append([name, numbers[0], ratios[0], numbers[1], ratios[1], against])
    head = ["", "gradient given", "ratio", "gradient made", "ratio", "against"]
    title = [f"## One update of a matrix {SIDE} x {SIDE}, bytes accessed per parameter", ""]
    return [*title, *md.table(head, lines, "lrrrrl"), "", *textwrap.wrap(NOTE, 100)]


NOTE = (
    "The gradient is an argument of the program, or a product of matrices in it, as in a training"
    " step, where it is a temporary. diffGrad keeps the gradient: an argument it must copy."
    " FRUGAL's are steps between two draws of the subspace, 199 of 200; randk gathers and scatters"
    " single entries, which is nothing for a TPU."
)
