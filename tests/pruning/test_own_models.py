"""NNX and Linen models of a user's own through every method of pruning and sharing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import own_models
import pytest

import bilevel
from bilevel.pruning import problem

TX = optax.sgd(0.1, momentum=0.9)
DENSITY = 0.5
EVERY = {"every": 1, "steps": 4}
SOLVERS = {
    "bip": lambda: bilevel.bip(TX, 1.0, DENSITY),
    "hydra": lambda: bilevel.hydra(TX, DENSITY),
    "jackpot": lambda: bilevel.jackpot(TX, DENSITY),
    "gradual": lambda: bilevel.sparse_training(
        TX, gradual=bilevel.Gradual(DENSITY, 0, 1, 1), exchange=bilevel.Exchange(1, 4)
    ),
    "rigl": lambda: bilevel.dynamic.rigl(TX, DENSITY, **EVERY),
    "set": lambda: bilevel.dynamic.set_(TX, DENSITY, **EVERY),
    "momentum": lambda: bilevel.dynamic_sparse(TX, DENSITY, grow="momentum", **EVERY),
    "unfired": lambda: bilevel.dynamic_sparse(TX, DENSITY, grow="unfired", **EVERY),
    "granet": lambda: bilevel.dynamic.granet(TX, DENSITY, initial=0.8, cut_until=1, **EVERY),
    "gmp": lambda: bilevel.dynamic.gmp(TX, DENSITY, cut_until=1, **EVERY),
    "rigl program": lambda: bilevel.dynamic.rigl_program(TX, DENSITY, every=1, end=4),
    "sr_ste": lambda: bilevel.nm_training(TX, "2:4", prunable=not_depthwise),
    "linear": lambda: bilevel.nm_training(TX, "2:4", "linear", steps=2, prunable=not_depthwise),
}


def not_depthwise(path, leaf):
    """A depthwise convolution has one input: no group of four."""
    return bilevel.masks.default_rule(path, leaf) and "depthwise" not in path


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_every_solver_trains_models(kind):
    forward, params = own_models.model(kind)
    loss = own_models.loss_of(forward)
    given, tokens = problem(loss), own_models.TOKENS
    kernels = own_models.named(bilevel.masks.prunable(params))
    kernels = {name: np.shape(x) for name, x in kernels.items() if x is not None}
    assert len(kernels) == 7  # The two convolutions, four of the attention, one that is tied.
    for name, make in SOLVERS.items():
        solver = make()
        state = solver.init(given, None, params)
        batch = (tokens, tokens) if solver.batch == "pair" else tokens
        for _ in range(2):
            state, _ = solver.step(state, batch)
        new, masks = solver.export(state)
        assert jax.tree.structure(new) == jax.tree.structure(params), name
        assert np.isfinite(float(loss(new, tokens))), name
        flat, marks = own_models.named(new), own_models.named(masks)
        chosen = {n for n, m in marks.items() if m is not None}
        assert chosen == {n for n in kernels if name not in NM or "depthwise" not in n}, name
        for path in chosen:
            assert not np.asarray(flat[path])[~np.asarray(marks[path])].any(), (name, path)
        kept = sum(int(marks[path].sum()) for path in chosen)
        size = sum(np.size(flat[path]) for path in chosen)
        assert abs(kept - DENSITY * size) <= len(chosen), name
        still = name in ("hydra", "jackpot")
        embedding = next(n for n in flat if "mbed" in n)
        moved = np.asarray(flat[embedding]) != np.asarray(own_models.named(params)[embedding])
        assert moved.any() != still, name
        if name in NM:
            query = next(n for n in chosen if "query" in n and "kernel" in n)
            out = next(n for n in chosen if "/out/" in n)
            for path, axes in ((query, (0,)), (out, (0, 1))):
                last = np.moveaxis(np.asarray(marks[path]), axes, range(-len(axes), 0))
                assert (last.reshape(-1, 4).sum(1) == 2).all(), path


NM = ("sr_ste", "linear")
