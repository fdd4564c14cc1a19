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
    "linear": lambda: bilevel.nm_training(TX, "2:4", "linear", steps=4, prunable=not_depthwise),
}


def not_depthwise(path, leaf):
    """A depthwise convolution has one input: no group of four."""
    return bilevel.masks.default_rule(path, leaf) and "depthwise" not in path


NM = ("sr_ste", "linear")
RUN = ("nnx", "sr_ste")  # The others are traced, not compiled.
METHOD = {"nnx": "sparsegpt", "linen": "wanda"}


def kernels_of(tree):
    return {name for name, x in own_models.named(tree).items() if x is not None}


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_every_solver_takes_models(kind):
    forward, params = own_models.model(kind)
    given, tokens = problem(own_models.loss_of(forward)), own_models.TOKENS
    kernels = kernels_of(bilevel.masks.prunable(params))
    assert len(kernels) == 7  # The two convolutions, four of the attention, one that is tied.
    assert not any("mbed" in name for name in kernels)
    for name, make in SOLVERS.items():
        solver = make()
        batch = (tokens, tokens) if solver.batch == "pair" else tokens

        def first_step(params, solver=solver, batch=batch):
            state = solver.init(given, None, params)
            return state, solver.step(state, batch)[0]

        state, after = jax.eval_shape(first_step, params)
        assert jax.tree.structure(after) == jax.tree.structure(state), name
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state), name
        assert jax.tree.structure(after.y) == jax.tree.structure(params), name
        chosen = kernels_of(after.masks)
        assert chosen == {n for n in kernels if name not in NM or "depthwise" not in n}, name
        if (kind, name) == RUN:
            _, after = jax.jit(first_step)(params)
            new, masks = solver.export(after)
            assert jax.tree.structure(new) == jax.tree.structure(params)
            flat, masks = own_models.named(new), own_models.named(masks)
            assert all(np.isfinite(x).all() for x in flat.values())
            assert all(not np.asarray(flat[n])[~np.asarray(masks[n])].any() for n in chosen)
            kept = sum(int(masks[n].sum()) for n in chosen)
            assert abs(kept - DENSITY * sum(flat[n].size for n in chosen)) <= 1
            before = own_models.named(params)
            assert all(
                (np.asarray(flat[n]) != before[n]).any() for n in flat if "key/bias" not in n
            )
            # Groups run along what a product contracts.
            for part, axes in (("query", (0,)), ("/out/", (0, 1)), ("grouped", (1,))):
                (path,) = (n for n in chosen if part in n)
                last = np.moveaxis(np.asarray(masks[path]), axes, range(-len(axes), 0))
                assert (last.reshape(-1, 4).sum(1) == 2).all(), path


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_models_are_shared_and_calibrated(kind):
    forward, params = own_models.model(kind)
    given, tokens = problem(own_models.loss_of(forward)), own_models.TOKENS
    kernels = kernels_of(bilevel.masks.prunable(params))
    for mapping in {"nnx": ("pareto", "roast"), "linen": ("hash",)}[kind]:
        shared, expand, _ = bilevel.share(params, 0.2, jax.random.key(0), mapping=mapping)
        solver = bilevel.sharing.training(TX, expand, rule=None)
        state = jax.eval_shape(lambda s, solver=solver: solver.init(given, None, s), shared)
        after, _ = jax.eval_shape(solver.step, state, tokens)
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
        made = jax.eval_shape(expand, shared)
        assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, params)
        assert kernels_of(shared.rest) == kernels_of(params) - kernels
    everything = kernels | {n for n in kernels_of(params) if "mbed" in n}
    with jax.numpy_rank_promotion("allow"):
        new, masks = bilevel.calibrated.prune(
            forward, params, [tokens], DENSITY, METHOD[kind], sequential=False,
            rule=lambda path, leaf: any(path == n.removesuffix("/value") for n in everything),
        )  # fmt: skip
    flat, masks = own_models.named(new), own_models.named(masks)
    assert {n for n, m in masks.items() if m is not None} == everything
    for path in everything:
        mask = np.asarray(masks[path])
        assert not np.asarray(flat[path])[~mask].any()
        assert abs(mask.mean() - DENSITY) <= 1 / 6, path
