"""Trains small networks by the solvers of sparse training, with the batches of ``_sgd``."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bilevel
from experiments.studies import _networks as nets

__all__ = ["FASHION", "PROBLEM", "draw", "run", "sgd"]

FASHION = (784, 128, 64, 10)  # Widths of the MLP on 6,000 images of Fashion-MNIST.


def _loss(params: Any, batch: Any) -> jax.Array:
    return nets.cross_entropy(nets.mlp(params, batch[0]), batch[1])


PROBLEM = bilevel.pruning.problem(_loss)


def sgd(steps: int, rate: float = 0.05) -> optax.GradientTransformation:
    """SGD with momentum, whose rate falls linearly to zero, as in ``_sgd``."""
    return optax.sgd(optax.linear_schedule(rate, 0.0, steps), momentum=0.9)


def draw(split: Any, key: jax.Array, size: int) -> Any:
    """Returns a batch, drawn with replacement."""
    rows = jax.random.randint(key, (size,), 0, len(jax.tree.leaves(split)[0]))
    return jax.tree.map(lambda x: x[rows], split)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _run(step, state, split, key, size, prepare, steps):
    def one(i, state):
        own = jax.random.fold_in(key, i)
        return step(state, prepare(draw(split, own, size), own))[0]

    return jax.lax.fori_loop(0, steps, one, state)


def _same(batch: Any, key: jax.Array) -> Any:
    return batch


def run(
    solver: bilevel.Solver,
    state: Any,
    split: Any,
    seed: int,
    steps: int,
    size: int = 64,
    prepare: Callable[[Any, jax.Array], Any] = _same,
) -> Any:
    """Returns the parameters that a solver exports after ``steps``.

    A solver, and not its states, is compiled: the same serves all seeds.
    """
    split = jax.tree.map(jnp.asarray, split)
    key = jax.random.key(seed)
    state = _run(solver.step, state, split, key, size, prepare, steps)
    export: Any = solver.export
    return jax.tree.map(np.asarray, export(state)[0])
