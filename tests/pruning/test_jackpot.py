"""Lottery jackpots and global cuts with a floor: the authors' runs, exact counts, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sparse_records as records

import bilevel
from bilevel.pruning import global_masks, problem


@pytest.mark.fidelity
def test_jackpots_of_the_authors():
    record, h = records.load("jackpot_conv")
    with jax.enable_x64(True):
        kernels = [jnp.asarray(record[key]) for key in ("w0", "w1", "fc")]

        def loss(params, batch):
            layers = [{"kernel": w, "bias": jnp.zeros(len(w))} for w in (*params, kernels[2])]
            return records.loss(layers, batch)

        solver = bilevel.jackpot(
            optax.sgd(h["lr"], 0.9), [1 - rate for rate in h["rates"]], authors=True,
            rule=lambda path, w: True,
        )  # fmt: skip
        state = solver.init(problem(loss), None, kernels[:2])
        assert records.gap(state.x, [record[f"score{i}"][0] for i in range(2)]) == 0

        def step(state, batch):
            state, metrics = solver.step(state, batch)
            return state, (state.x, state.masks, metrics["loss"], metrics["flips"])

        scan = jax.jit(lambda s: jax.lax.scan(step, s, records.batches(record)))
        _, (scores, masks, losses, flips) = scan(state)
        assert records.gap(scores, [record[f"score{i}"][1:] for i in range(2)]) < 1e-12
        assert records.gap(losses, record["loss"]) < 1e-12
        for i, mask in enumerate(masks):
            assert np.array_equal(mask, record[f"mask{i}"][1:].astype(bool))
        assert np.array_equal(flips, 2 * record["swapped"].sum(1))


def test_jackpots_keep_their_counts_and_leave_weights_alone():
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.standard_normal((6, 5)), jnp.float32), "bias": jnp.zeros(5)}
    batch = jnp.asarray(rng.standard_normal((16, 6)), jnp.float32)
    target = batch @ jnp.where(jnp.abs(params["w"]) < 0.7, params["w"], 0)
    loss = problem(lambda p, x: jnp.mean((x @ p["w"] + p["bias"][None] - target) ** 2))
    solver = bilevel.jackpot(0.1, 0.4)
    state, step = solver.init(loss, None, params), jax.jit(solver.step)
    start = state.masks["w"]
    losses = []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
        assert int(state.masks["w"].sum()) == 12
    assert losses[-1] < 0.7 * losses[0]
    assert not np.array_equal(start, state.masks["w"])
    assert np.array_equal(state.y["w"], params["w"])
    small = {"w": jnp.array([[-2.0], [1.0], [0.5]])}  # A negative score leaves first.
    kept = bilevel.jackpot(0.1, 1 / 3).init(loss, small, {"w": jnp.ones((3, 1))}).masks["w"]
    assert kept[:, 0].tolist() == [False, True, False]
    for options, text in (({"density": 0.0}, "density must be in"), ({"authors": 1}, "authors")):
        with pytest.raises(ValueError, match=text):
            bilevel.jackpot(0.1, **{"density": 0.5, **options})


@pytest.mark.fidelity
@pytest.mark.parametrize("name", ["global_mt_mlp", "global_mt_conv"])
def test_global_masks_with_a_floor_of_the_authors(name):
    record, h = records.load(name)
    with jax.enable_x64(True):
        for case, r in (("oneshot", 0), ("gradual", 0), ("gradual", len(h["sparsity"]) - 1)):
            w = [jnp.asarray(record[f"{case}_in{i}_r{r}"]) for i in range(3)]
            n = sum(x.size for x in w)
            sparsity = h["sparsity"][-1 if case == "oneshot" else r]
            least = int(h["mt"] * (n + 1) / 100)
            got = global_masks(w, 1 - sparsity, least, authors=True)
            for i, mask in enumerate(got):
                assert np.array_equal(mask, record[f"{case}_mask{i}_r{r}"].astype(bool))
            exact = [int(m.sum()) for m in global_masks(w, 1 - sparsity, least)]
            assert abs(sum(exact) - (1 - sparsity) * n) < 3
            assert min(exact) >= least
        with pytest.raises(ValueError, match="min_keep=200 in 3 layers keeps more than density"):
            global_masks(w, 0.2, 200)
