"""Parameter sharing: the authors' runs, how often numbers are read, what is stored, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sparse_records as records

import bilevel
from bilevel.pruning import problem

MAPPING = {"pareto": "pareto", "roast": "roast", "hashednet": "hash", "random": "hash"}
TORCH = bilevel.masks.Cut(input_axis=1, output_axis=0)


@pytest.mark.fidelity
@pytest.mark.parametrize("name", [
    "rps_pareto_mlp", "rps_pareto_conv", "rps_hashednet_local_mlp", "rps_roast_mlp",
    "rps_random_mlp",
])  # fmt: skip
def test_runs_of_the_authors(name):
    record, h = records.load(name)
    one = h["is_global"]
    turn = np.transpose if h["mapper"] == "roast" else np.asarray  # Its blocks are of (in, out).

    def loss(params, batch):
        turned = [{**p, "kernel": p["kernel"].T} if h["mapper"] == "roast" else p for p in params]
        return records.loss(turned, batch)

    def of(key):
        return records.kernels([turn(record[f"{key}{i}"]) for i in range(3)])

    given = {"index": of("idx")}
    if h["mapper"] != "random":  # Theirs are drawn; the records have the numbers.
        given = {"hash_numbers": [record[f"hash_numbers{i}"] for i in range(3)]}
    with jax.enable_x64(True):
        params = [
            {"kernel": jnp.asarray(turn(record[f"orig_w{i}"])), "bias": record[f"b{i}"][0]}
            for i in range(3)
        ]
        shared, expand, _ = bilevel.share(
            params, h["sparsity"], jax.random.key(0), mapping=MAPPING[h["mapper"]],
            scope="global" if one else "layer", signs=of("sign"), block=tuple(h["block"]),
            std=h["init_std"] if one else None, cut=TORCH, authors=True, **given,
        )  # fmt: skip
        for got, want in zip(*map(jax.tree.leaves, (expand.index(), of("idx"))), strict=True):
            assert np.array_equal(got, want)
        pools = [record[f"array{i}"] for i in range(1 if one else 3)]
        assert jax.tree.map(jnp.shape, jax.tree.leaves(shared.pool)) == [p[0].shape for p in pools]
        start = tuple(jnp.asarray(p[0]) for p in pools)
        shared = shared._replace(pool=start[0] if one else start)
        first = [turn(record[f"W{i}_first"]) for i in range(3)]
        assert records.gap([p["kernel"] for p in expand(shared)], first) < 1e-14
        # The code scales no gradients of pools of one layer.
        tx = optax.chain(optax.add_decayed_weights(h["wd"]), optax.sgd(h["lr"], 0.9))
        solver = bilevel.sharing.training(tx, expand, rule=h["scaler"] if one else None)
        state = solver.init(problem(loss), None, shared)

        def step(state, batch):
            state, metrics = solver.step(state, batch)
            return state, (state.y, metrics["loss"])

        scan = jax.jit(lambda s: jax.lax.scan(step, s, records.batches(record)))
        _, (y, losses) = scan(state)
        assert records.gap(y.pool, [p[1:] for p in pools]) < 1e-12
        biases = [record[f"b{i}"][1:] for i in range(3)]
        assert records.gap([p["bias"] for p in y.rest], biases) < 1e-12
        assert records.gap(losses, record["loss"]) < 1e-12


RNG = np.random.default_rng(0)
PARAMS = {
    "conv": {"kernel": RNG.standard_normal((3, 3, 2, 8)).astype(np.float32)},
    "head": {"kernel": RNG.standard_normal((20, 7)).astype(np.float32) / 4, "bias": np.ones(7)},
}
N = 144 + 140


@pytest.mark.parametrize(("compression", "scope"), [
    (0.07, "global"), (0.3, "layer"), (1.0, "global"),
])  # fmt: skip
def test_every_number_is_read_about_equally_often(scope, compression):
    shared, expand, _ = bilevel.share(PARAMS, compression, jax.random.key(1), scope=scope)
    index = [np.ravel(x) for x in jax.tree.leaves(expand.index())]
    groups = [np.concatenate(index)] if scope == "global" else index
    for pool, read in zip(jax.tree.leaves(shared.pool), groups, strict=True):
        times = np.bincount(read, minlength=pool.size)
        assert pool.size == int(compression * read.size)
        assert set(times) <= {read.size // pool.size, -(-read.size // pool.size)}


@pytest.mark.parametrize("mapping", ["pareto", "roast", "hash"])
def test_weights_start_as_they_were_spread_and_are_hardly_stored(mapping):
    params = {**PARAMS, "conv": {"kernel": RNG.standard_normal((3, 3, 32, 64)).astype(np.float32)}}
    shared, expand, _ = bilevel.share(params, 0.05, jax.random.key(2), mapping=mapping)
    made = jax.jit(expand)(shared)
    for name in ("conv", "head"):
        assert made[name]["kernel"].shape == params[name]["kernel"].shape
        ratio = np.std(made[name]["kernel"]) / np.std(params[name]["kernel"])
        assert 0.8 < ratio < 1.2
    assert abs(np.mean(np.asarray(made["conv"]["kernel"]) > 0) - 0.5) < 0.02
    assert np.array_equal(made["head"]["bias"], np.ones(7))
    assert shared.rest["head"]["kernel"] is None
    size = int(0.05 * (9 * 32 * 64 + 140))
    chunks = 21 if mapping == "pareto" else 0
    assert expand.nbytes(shared) == 4 * (size + 7 + chunks + 2) + 8
    other = bilevel.share(params, 0.05, jax.random.key(3), mapping=mapping)[1]
    assert not np.array_equal(other.index()["conv"]["kernel"], expand.index()["conv"]["kernel"])


def test_scaled_gradients_move_weights_by_the_mean_of_their_gradients():
    shared, expand, scale = bilevel.share(PARAMS, 0.1, jax.random.key(4))
    positions, expand_of, expand = expand.index(), expand, jax.jit(expand)
    g = jax.tree.map(lambda x: jnp.asarray(RNG.standard_normal(x.shape), x.dtype), expand(shared))
    (by_pool,) = jax.vjp(expand, shared)[1](g)
    updates, _ = scale.update(by_pool, scale.init(shared))
    index = np.concatenate([np.ravel(i) for i in jax.tree.leaves(positions)])
    step = jax.tree.map(lambda a, b: np.asarray(a - b), expand(shared), expand(shared._replace(
        pool=shared.pool - updates.pool)))  # fmt: skip
    moved, old = ([np.ravel(t[k]["kernel"]) for k in ("conv", "head")] for t in (step, g))
    factors = [np.std(PARAMS[k]["kernel"], ddof=1) / 0.05 for k in ("conv", "head")]
    lam = np.repeat(factors, [144, 140])
    sign = np.concatenate([np.ravel(expand(shared._replace(pool=jnp.ones_like(shared.pool)))[k]
                                    ["kernel"]) for k in ("conv", "head")]) / lam  # fmt: skip
    total = np.bincount(index, lam * sign * np.concatenate(old))
    weight = np.bincount(index, lam) ** 2 / (np.bincount(index) + 1e-3)
    want = lam * sign * (total / (weight + 1e-6))[index]
    np.testing.assert_allclose(np.concatenate(moved), want, rtol=1e-3, atol=1e-5)
    counts = np.bincount(index)
    others = {"v3": np.bincount(index, lam) / (counts + 1e-3), "v5": np.bincount(index, lam**2)}
    for rule, q in others.items():
        got, _ = expand_of.scale_gradients(rule).update(by_pool, None)
        np.testing.assert_allclose(got.pool, by_pool.pool / (1e-6 + q), rtol=1e-4)
    np.testing.assert_array_equal(updates.rest["head"]["bias"], by_pool.rest["head"]["bias"])


@pytest.mark.parametrize(("options", "text"), [
    ({"compression": 0.0}, "compression must be in"), ({"mapping": "paretto"}, "nearest: pareto"),
    ({"scope": "net"}, "scope must be one of global, layer"), ({"block": (0, 4)}, r"block\[0\]"),
    ({"block": 4}, "block must be two integers"),
    ({"compression": 0.003}, "leaves a pool of 0 for conv/kernel"),
    ({"compression": 0.05, "mapping": "roast"}, "leaves a pool of 14 for conv/kernel: at least 17"),
    ({"index": {"w": np.zeros((2, 2))}}, "index must be of the 2 shared leaves, got 1"),
    ({"index": {"a": np.zeros((2, 2)), "b": np.zeros((20, 7))}}, r"shape \(2, 2\) for conv"),
    ({"index": {"a": np.full((3, 3, 2, 8), 99), "b": np.zeros((20, 7))}}, r"must be in \[0, 28\)"),
    ({"rule": lambda path, x: False}, "no leaf is prunable by this rule"),
])  # fmt: skip
def test_bad_input(options, text):
    given = {"params": PARAMS, "compression": 0.1, "key": jax.random.key(0), **options}
    with pytest.raises(ValueError, match=text):
        bilevel.share(**given)


def test_bad_input_of_training():
    constant = {"a": {"kernel": np.ones((4, 4), np.float32)}}
    with pytest.raises(ValueError, match="a/kernel is constant"):
        bilevel.share(constant, 0.5, jax.random.key(0))
    shared, expand, _ = bilevel.share(PARAMS, 0.1, jax.random.key(0))
    with pytest.raises(ValueError, match="rule must be one of v1, v3, v5"):
        bilevel.sharing.training(0.1, expand, rule="v2")
    with pytest.raises(ValueError, match=r"expand must be what bilevel\.share returns, got"):
        bilevel.sharing.training(0.1, lambda shared: shared)
    with pytest.raises(ValueError, match=r"shared must be what bilevel\.share returns"):
        expand(PARAMS)
    with pytest.raises(ValueError, match=r"pool of shape \(3,\) for conv/kernel, made for 28"):
        expand(shared._replace(pool=shared.pool[:3]))
    solver = bilevel.sharing.training(0.1, expand)
    loss = problem(lambda params, batch: jnp.sum(params["head"]["kernel"]))
    with pytest.raises(ValueError, match=r"y0 must be what bilevel\.share returns, got dict"):
        solver.init(loss, None, PARAMS)
    with pytest.raises(ValueError, match="x0 must be None"):
        solver.init(loss, PARAMS, shared)
