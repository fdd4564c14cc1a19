"""A step of each solver on one chip: bilevel, pruning, without backpropagation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import bilevel
import optim
from benchmarks.tpu_compiler import chips
from experiments import models
from experiments.common import markdown as md


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


def solved(name: str, width: int = 256, batch: int = 128, samples: int = 1000) -> dict[str, Any]:
    """Returns the cost of a step of a solver on one chip.

    Bilevel solvers clean the data of a perceptron on images, a weight for each sample; those that
    prune, and those without backpropagation, train the perceptron.
    """
    shape, chip = jax.ShapeDtypeStruct, chips.chip()
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
    placed = chips.place(state, chip), chips.place(data if takes == "one" else (data, data), chip)
    found, count = chips.findings(solver.step, *placed, donate_argnums=0), models.count(y0)
    return {
        "bytes": found["bytes_accessed"] / count,
        "temporaries": found["temporaries"] / count,
        **{k: found[k] for k in chips.ALWAYS},
    }


def table(rows):
    cells = [[n, f"{r['bytes']:.0f}", f"{r['temporaries']:.1f}"] for n, r in rows.items()]
    title = ["## A step of a solver, bytes per parameter of the lower level", ""]
    return [*title, *md.table(["", "bytes accessed", "temporaries"], cells, "lrr")]
