"""Situations of users: zeros that are kept, odd layouts, copies of parameters, narrow dtypes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import bilevel
import optim
from bilevel import export, masks
from bilevel.pruning import problem


def quadratic(params, batch):
    return sum(jnp.sum((x - 1) ** 2) for x in jax.tree.leaves(params)) + 0 * jnp.sum(batch)


def regression(params, batch):
    hidden = jnp.tanh(batch[0] @ params["hidden"]["kernel"])
    return jnp.mean((hidden @ params["head"]["kernel"] - batch[1]) ** 2)


def network(seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    params = {"hidden": {"kernel": normal(6, 16) / 2}, "head": {"kernel": normal(16, 3) / 4}}
    return params, (normal(32, 6), normal(32, 3))


SOLVERS = {
    "bip": (bilevel.bip(0.05, 1.0, 0.3), True),
    "bip, authors": (bilevel.bip(0.05, 0.05, 0.3, authors=True), True),
    "hydra": (bilevel.hydra(0.1, 0.3), False),
    "sparse training": (bilevel.sparse_training(0.05), False),
    "gradual": (bilevel.sparse_training(0.05, gradual=bilevel.Gradual(0.3, 0, 3, 2)), False),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_solve_runs_every_method(name):
    params, batch = network()
    solver, pair = SOLVERS[name]
    assert solver.batch == ("pair" if pair else "one")
    feed = itertools.repeat((batch, batch) if pair else batch)
    given = problem(regression)
    found = bilevel.solve(given, solver, None, params, lambda step: feed, steps=8)
    assert int(found.state.count) == 8
    assert found.state.problem == problem(regression)
    assert jax.tree.structure(found.state.y) == jax.tree.structure(params)
    kept, mask = solver.export(found.state)
    assert jax.tree.structure(mask) == jax.tree.structure(found.state.x)
    assert all(not np.asarray(x)[~np.asarray(m)].any() for x, m in
               zip(*map(jax.tree.leaves, (kept, mask)), strict=True))  # fmt: skip
    density = 1.0 if name == "sparse training" else 0.3
    assert abs(float(found.metrics["density"][-1]) - density) < 0.03
    if name != "bip, authors":  # Its counts are Python's.
        traced = jax.jit(solver.export)(found.state)
        assert jax.tree.all(jax.tree.map(np.array_equal, traced, (kept, mask)))
    again = solver.export(found.state)[0]  # Exports are copies: the loop donates the state.
    bilevel.solve(given, solver, None, params, lambda step: feed, steps=9, state=found.state)
    assert np.isfinite(jax.tree.leaves(again)[0]).all()
    with pytest.raises(ValueError, match=r"problem must come from bilevel.pruning.problem\(loss\)"):
        solver.init(regression, None, params)


def test_masks_and_scores_that_do_not_fit():
    params, _ = network()
    turned = {name: {"kernel": np.ones(layer["kernel"].shape[::-1], bool)}
              for name, layer in params.items()}  # fmt: skip
    for solver in (bilevel.hydra(0.1, 0.5), bilevel.jackpot(0.1, 0.5), bilevel.sparse_training(0.1),
                   bilevel.dynamic.rigl(0.1, 0.5, every=1, steps=2), bilevel.retrain.training(0.1),
                   bilevel.dynamic.rigl_program(0.1, 0.5, end=2)):  # fmt: skip
        with pytest.raises(ValueError, match=r"\(x0\) do not fit .* \(3, 16\) for head/kernel"):
            solver.init(problem(regression), turned, params)
        with pytest.raises(ValueError, match=r"\(x0\) do not fit the parameters: .*head"):
            solver.init(problem(regression), {"hidden": turned["hidden"]}, params)
    solver = bilevel.sparse_training(0.1)
    half = jax.tree.map(lambda w: np.full(w.shape, 0.5), params)
    with pytest.raises(ValueError, match=r"\(x0\) must be booleans, got float32 in head/kernel"):
        solver.init(problem(regression), half, params)
    zero_or_one = jax.tree.map(lambda w: np.float32(w > 0), params)
    state = solver.init(problem(regression), zero_or_one, params)
    assert all(m.dtype == bool for m in jax.tree.leaves(state.masks))
    with pytest.raises(ValueError, match=r"masks \(x0\) have no leaf: nothing is pruned"):
        solver.init(problem(regression), jax.tree.map(lambda w: None, params), params)
    counted = problem(lambda p, b: jnp.sum(p["w"] ** 2))
    state = solver.init(counted, None, {"w": np.ones((2, 2), np.float32), "n": np.int32(3)})
    with pytest.raises(ValueError, match="params must be floating-point arrays: n is int32"):
        solver.step(state, None)


def test_a_start_inside_of_a_program_reads_arrays_that_are_closed_over():
    params, _ = network()
    params["head"]["kernel"][0] = 0  # Which BiP looks for.
    solver = bilevel.bip(0.05, 1.0, 0.3)
    start = jax.jit(lambda: solver.init(problem(regression), None, params))()
    for a, b in zip(
        *map(jax.tree.leaves, (start, solver.init(problem(regression), None, params))), strict=True
    ):
        assert np.array_equal(a, b)
    inside = jax.jit(lambda: masks.from_scores(params, 0.3))()
    assert float(masks.iou(inside, masks.from_scores(params, 0.3))) == 1
    params["head"]["kernel"][0] = np.nan
    with pytest.raises(ValueError, match="scores must be numbers: head/kernel has 3 NaN"):
        jax.jit(lambda: masks.from_scores(params, 0.3))()


def test_rounds_and_ramps_out_of_range():
    params, _ = network()
    solver = bilevel.sparse_training(0.1)
    state = solver.init(problem(regression), None, params)
    for drop, message in (
        (-1, "drop must be an integer >= 0, got -1"),
        (0.5, "drop must be an integer >= 0, got 0.5"),
        (145, "drop must be at most 144, the number of entries, got 145"),
        ({"hidden": {"kernel": 1}, "head": {"kernel": 0.2}}, r"drop\['head'\]\['kernel'\] must"),
    ):
        with pytest.raises(ValueError, match=message):
            bilevel.next_round(state, drop)
    with pytest.raises(ValueError, match=r"one of bilevel\.sparse_training, got a ScoreState"):
        bilevel.next_round(SOLVERS["hydra"][0].init(problem(regression), None, params), 1)
    with pytest.raises(ValueError, match=r"initial must be in \[final=0.9, 1\], got 0.5"):
        bilevel.sparse_training(0.1, gradual=bilevel.Gradual(0.9, 0, 3, 3, initial=0.5))
    for name in ("gradual", "exchange"):
        with pytest.raises(ValueError, match=f"{name} must be a bilevel\\.{name.title()}, got 0.5"):
            bilevel.sparse_training(0.1, **{name: 0.5})
    with pytest.raises(ValueError, match="density must be one number or a tree like the scores"):
        masks.drop_counts(params, {"hidden": 0.5}, scope="layer")


def test_random_scores_of_the_key_of_the_weights_are_said():
    key, other = jax.random.split(jax.random.key(0))
    drawn = {"a": jax.random.normal(jax.random.split(key, 2)[0], (9, 9)), "b": jnp.ones((9, 9))}
    with pytest.warns(UserWarning, match="scores of a are ordered as the weights"):
        bilevel.criteria.random(key, drawn)
    bilevel.criteria.random(other, drawn)


def test_a_pruned_weight_does_not_come_back_and_a_kept_zero_goes_first():
    old = {"w": jnp.array([[True, False, True, True, True]])}
    params = {"w": jnp.array([[0.0, 5.0, 1.0, -2.0, 0.0]])}
    solver = bilevel.sparse_training(0.1)
    state = solver.init(problem(quadratic), old, params)
    for drop, want in ((0, [1, 0, 1, 1, 1]), (1, [1, 0, 1, 1, 1]), (2, [0, 0, 1, 1, 1]),
                       (3, [0, 0, 1, 1, 0]), (4, [0, 0, 0, 1, 0])):  # fmt: skip
        got = bilevel.next_round(state, drop, style="finetune").masks["w"][0]
        assert np.array_equal(got, np.array(want, bool)), drop
    by_layer = bilevel.next_round(state, {"w": jnp.int32(2)}, style="finetune")
    assert np.array_equal(by_layer.masks["w"][0], np.array([0, 0, 1, 1, 1], bool))
    g = jnp.array([[0.0, 9.0, 0.0, 0.0, 0.0]])
    same = bilevel.granet(old["w"], params["w"], g, density=1.0, fraction=0.0)
    assert np.array_equal(same, old["w"])
    # One of four leaves and returns by its gradient, 9 where a pruned weight lies.
    swapped = bilevel.granet(old["w"], params["w"], g, density=1.0, fraction=0.25)
    assert np.array_equal(swapped[0], [False, True, True, True, True])


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_gradual_pruning_of_a_model_that_is_pruned_already(scope):
    params, batch = network()
    half = masks.from_scores(masks.prunable(params), 0.5, scope="layer")
    ramp = bilevel.Gradual(0.1, start=0, updates=4, every=2, initial=0.5, scope=scope)
    solver = bilevel.sparse_training(0.05, gradual=ramp)
    state, step, seen = solver.init(problem(regression), half, params), jax.jit(solver.step), []
    for _ in range(9):
        before = state.masks
        state, metrics = step(state, batch)
        seen.append(float(metrics["density"]))
        grown = jax.tree.map(lambda new, old: (new & ~old).any(), state.masks, before)
        assert not any(jax.tree.leaves(grown))
    want = [0.1 + 0.4 * (1 - t / 4) ** 3 for t in (0, 1, 2, 3, 4)]
    np.testing.assert_allclose(seen[::2], want, atol=0.02)
    each = [float(m.mean()) for m in jax.tree.leaves(state.masks)]
    assert (max(abs(d - 0.1) for d in each) < 0.02) == (scope == "layer")


def test_scores_of_zero_weights_learn():
    params, batch = network()
    tenth = masks.apply(masks.from_scores(masks.prunable(params), 0.1, scope="layer"), params)
    solver = bilevel.bip(optax.adam(1e-2), 1.0, 0.5)
    state, step = solver.init(problem(regression), None, tenth), jax.jit(solver.step)
    start = jax.tree.map(np.array, state.x)
    # Every score can move; zeros come after all others, and are taken from both layers alike.
    for score, weight, mask in zip(*map(jax.tree.leaves, (start, tenth, state.masks)), strict=True):
        assert (score != 0).all()
        assert np.array_equal(score[weight != 0], weight[weight != 0])
        assert np.asarray(mask)[np.asarray(weight) != 0].all()
        assert 0.3 < np.asarray(mask)[np.asarray(weight) == 0].mean() < 0.6
    kept = jax.tree.map(np.array, state.masks)
    state, _ = step(state, (batch, batch))
    leaves = map(jax.tree.leaves, (state.x, start, kept, tenth))
    for new, old, mask, weight in zip(*leaves, strict=True):
        among = mask & (np.asarray(weight) == 0)  # Half of the units are still silent.
        assert (np.asarray(new) != old)[among].mean() > 0.2
    # A score of exactly 0, given by the caller, can leave it too.
    given = jax.tree.map(jnp.zeros_like, params)
    solver = bilevel.bip(optax.adam(1e-2), 1.0, 0.5, scope="layer")
    state, _ = solver.step(solver.init(problem(regression), given, params), (batch, batch))
    assert all((np.asarray(x) != 0).any() for x in jax.tree.leaves(state.x))


def test_scores_that_are_no_numbers():
    params, batch = network()
    zero = {**params, "head": {"kernel": jnp.zeros((16, 3))}}
    hydra = bilevel.hydra(0.1, 0.5)
    state, _ = hydra.step(hydra.init(problem(regression), None, zero), batch)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.x))
    # A dead network: every saliency is zero.
    dead = lambda p, b: jnp.sum(jax.nn.relu(p["w"] - 9)) + 0 * b  # noqa: E731
    scores = bilevel.criteria.snip(dead, {"w": jnp.ones((2, 3))}, 0.0)
    assert np.array_equal(scores["w"], np.zeros((2, 3)))
    bad = {"a": {"kernel": jnp.array([[1.0, jnp.nan, 2.0]])}}
    with pytest.raises(ValueError, match="scores must be numbers: a/kernel has 1 NaN"):
        masks.from_scores(bad, 0.5)
    for solver in (bilevel.bip(0.1, 1.0, 0.5), hydra):
        with pytest.raises(ValueError, match="scores must be numbers: a/kernel has 1 NaN"):
            solver.init(problem(quadratic), None, bad)


def deep(layers, width):
    rng = np.random.default_rng(0)
    scale = np.float32(
        40 * np.sqrt(2 / width)
    )  # Grows as fast in few layers as usual weights do in many.
    return {
        f"layer_{i:02d}": {"kernel": scale * rng.standard_normal((width, width)).astype(np.float32)}
        for i in range(layers)
    }


def product(params, x):
    for layer in params.values():
        x = jax.nn.relu(x @ layer["kernel"])
    return x


def test_synflow_beyond_the_range_of_float32():
    params = deep(20, 12)
    ones = jnp.ones((1, 12))
    assert not np.isfinite(product(jax.tree.map(jnp.abs, params), ones)).all()
    scores = bilevel.criteria.synflow(product, params, ones)
    # In numpy: the score of a weight is what flows in, times the weight, times what flows out.
    weights = [np.abs(p["kernel"]).astype(float) for p in params.values()]
    into = list(itertools.accumulate(weights, lambda x, w: x @ w, initial=np.ones(12)))
    out = list(itertools.accumulate(weights[::-1], lambda y, w: w @ y, initial=np.ones(12)))[::-1]
    want = [a[:, None] * w * b for a, w, b in zip(into, weights, out[1:], strict=False)]
    ratio = [np.asarray(s, float) / w for s, w in zip(jax.tree.leaves(scores), want, strict=True)]
    np.testing.assert_allclose(ratio, np.full_like(ratio, ratio[0][0, 0]), rtol=1e-5)
    assert np.log2(ratio[0][0, 0]) == pytest.approx(round(np.log2(ratio[0][0, 0])), abs=1e-5)
    found = bilevel.criteria.synflow_masks(product, params, ones, 0.1, rounds=1)
    flat = np.concatenate([w.ravel() for w in want])
    cut = np.sort(flat)[int(0.9 * flat.size)]
    assert all(np.array_equal(m, w >= cut) for m, w in
               zip(jax.tree.leaves(found), want, strict=True))  # fmt: skip
    huge = jax.tree.map(lambda w: w * np.float32(1e20), params)
    with pytest.raises(ValueError, match=r"layer_\d\d/kernel are beyond the range"):
        bilevel.criteria.synflow(product, huge, ones)


def test_synflow_leaves_min_keep_in_every_layer():
    params = deep(4, 12) | {"narrow": {"kernel": np.full((12, 2), 1e-3, np.float32)}}
    found = bilevel.criteria.synflow_masks(
        product, params, jnp.ones((1, 12)), 0.02, rounds=5, min_keep=2
    )
    kept = [int(m.sum()) for m in jax.tree.leaves(found)]
    assert min(kept) >= 2
    total = 4 * 144 + 24
    assert sum(kept) == total - int(0.98 * total)


def test_structures_follow_the_contracted_axes():
    rng = np.random.default_rng(0)
    shapes = {"query": (8, 2, 4), "key": (8, 2, 4), "out": (2, 4, 6)}
    attention = {k: {"kernel": rng.standard_normal(s)} for k, s in shapes.items()}
    found = masks.from_scores(attention, structure="2:4")
    query = np.asarray(found["query"]["kernel"]).reshape(8, 8)  # (in, heads x head_dim)
    out = np.asarray(found["out"]["kernel"]).reshape(8, 6)  # (heads x head_dim, out)
    for mask, w in ((query, attention["query"]), (out, attention["out"])):
        groups = mask.T.reshape(-1, 4)
        assert (groups.sum(1) == 2).all()
        sizes = np.abs(w["kernel"]).reshape(8, -1).T.reshape(-1, 4)
        assert (np.where(groups, sizes, 9).min(1) >= np.where(groups, 0, sizes).max(1)).all()
    found = masks.from_scores(attention, 0.5, structure="filter")
    query = np.asarray(found["query"]["kernel"])
    assert np.array_equal(query.all(0), query.any(0))  # Whole columns of (heads, head_dim).
    norms = np.linalg.norm(attention["query"]["kernel"], axis=0)
    assert np.array_equal(query.any(0), norms >= np.sort(norms.ravel())[4])
    out = np.asarray(found["out"]["kernel"])
    assert np.array_equal(out.all((0, 1)), out.any((0, 1)))
    assert out.any((0, 1)).sum() == 3


@pytest.mark.parametrize("structure", ["weight", "filter", "channel"])
def test_layers_that_a_leaf_stacks_are_layers_of_their_own(structure):
    rng = np.random.default_rng(1)
    stack = rng.standard_normal((3, 6, 8)) * np.array([1, 10, 100])[:, None, None]
    together = masks.from_scores(
        {"layers": {"kernel": stack}}, 0.5, scope="layer", structure=structure
    )
    for i in range(3):
        alone = masks.from_scores({"w": stack[i]}, 0.5, scope="layer", structure=structure)
        assert np.array_equal(together["layers"]["kernel"][i], alone["w"])
    # By name a convolution; and whatever the caller says it is.
    window = masks.from_scores({"conv": {"kernel": stack}}, 0.5, scope="layer", structure="filter")
    assert np.array_equal(
        window["conv"]["kernel"].all((0, 1)), window["conv"]["kernel"].any((0, 1))
    )
    own = masks.from_scores(
        {"conv": {"kernel": stack}}, 0.5, scope="layer", structure=structure,
        axes=lambda path, leaf: masks.Axes((1,), (2,), stacked=1),
    )  # fmt: skip
    assert np.array_equal(own["conv"]["kernel"], together["layers"]["kernel"])


def test_paths_tell_the_axes():
    stacked = masks.Axes((1,), (2,), 1)
    window = masks.Axes((1,), (2,), 0)
    for path, want in {
        "layers/dense/kernel": stacked, "ScanBlocks/mlp/kernel": stacked, "layers_0/w": window,
        "layers/0/weight": window, "conv_1/kernel": window, "blocks_2/conv/kernel": window,
        "MultiHeadDotProductAttention_0/query/kernel": masks.Axes((0,), (1, 2), 0),
        "self_attn/out/kernel": masks.Axes((0, 1), (2,), 0), "out/kernel": window,
    }.items():  # fmt: skip
        assert masks.axes_of(path, 3) == want, path
    assert masks.axes_of("out/kernel", 3, siblings=["query"]) == masks.Axes((0, 1), (2,), 0)
    assert masks.axes_of("layers/attn/key/kernel", 4) == masks.Axes((1,), (2, 3), 1)
    assert masks.axes_of("layers/kernel", 2) == masks.Axes((0,), (1,), 0)


def test_export_of_concatenations_and_of_layers_that_several_read():
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape)  # noqa: E731
    params = {"a": normal(3, 4), "b": normal(3, 4), "c": normal(8, 2), "d": normal(4, 2)}
    keep = {"a": [0, 2], "b": [1, 2, 3]}
    mask = {k: np.isin(np.arange(4), keep[k])[None].repeat(3, 0) for k in keep}
    mask |= {"c": None, "d": None}

    def model(p, x):
        a, b = jax.nn.relu(x @ p["a"]), jax.nn.relu(x @ p["b"])
        return jnp.concatenate([a, b], -1) @ p["c"], b @ p["d"]

    chains = [export.Chain("a", (), "c", at=0), export.Chain("b", (), "c", at=4),
              export.Chain("b", (), "d")]  # fmt: skip
    small, _ = export.shrink(params, {}, mask, chains)
    assert {k: x.shape for k, x in small.items()} == {
        "a": (3, 2), "b": (3, 3), "c": (5, 2), "d": (3, 2)
    }  # fmt: skip
    x = normal(5, 3)
    for got, want in zip(model(small, x), model(masks.apply(mask, params), x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)
    with pytest.raises(ValueError, match="c has 8 inputs for the 4 channels of a"):
        export.shrink(params, {}, mask, [export.Chain("a", (), "c")])
    with pytest.raises(ValueError, match=r"at must be in \[0, 4\]"):
        export.shrink(params, {}, mask, [export.Chain("a", (), "c", at=5)])
    # A channel that one layer reads and another does not stays for the first.
    read = dict.fromkeys("ac") | {"b": None, "d": np.array([[True, True]] * 3 + [[False] * 2])}
    read["c"] = np.ones((8, 2), bool)
    small, _ = export.shrink(params, {}, read, chains[1:])
    assert small["b"].shape == (3, 4)
    params["norm"], mask["norm"] = np.ones(8), None
    with pytest.raises(ValueError, match="norm has 8 channels, b 4"):
        export.shrink(params, {}, mask, [export.Chain("b", ("norm",), "d")])


COPIES = {
    "momentum": optax.sgd(0.05, momentum=0.9),
    "adam": optax.adam(0.05),
    "schedule free": optax.contrib.schedule_free_sgd(0.3),
    "prodigy": optax.contrib.prodigy(1.0),
    "sam": optax.contrib.sam(optax.sgd(0.05), optax.sgd(0.01), sync_period=2),
    "ema": optax.chain(optax.adam(0.05), optax.ema(0.9)),
    "factored": optax.adafactor(0.05, min_dim_size_to_factor=4),
}


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("style", ["rewind", "finetune"])
def test_a_round_starts_as_a_fresh_optimizer_does(name, style):
    params, batch = network()
    solver = bilevel.sparse_training(COPIES[name])
    state, step = solver.init(problem(regression), None, params), jax.jit(solver.step)
    for _ in range(6):
        state, _ = step(state, batch)
    total = 6 * 16 + 16 * 3
    again = bilevel.next_round(state, total // 2, style=style)
    start = state.y if style == "finetune" else params
    fresh = solver.init(problem(regression), again.masks, start)
    for a, b in zip(*map(jax.tree.leaves, (again.opt, fresh.opt)), strict=True):
        np.testing.assert_allclose(a, b)
    for _ in range(6):
        again, got = step(again, batch)
        fresh, want = step(fresh, batch)
        np.testing.assert_allclose(got["loss"], want["loss"], rtol=1e-5)
    dead = jax.tree.map(lambda m, x: jnp.abs(jnp.where(m, 0, x)).max(), again.masks, again.y)
    assert not any(map(float, jax.tree.leaves(dead)))


def test_an_emptied_layer_and_a_missed_density_are_said():
    params = {"a": {"kernel": jnp.ones((8, 8))}, "b": {"kernel": jnp.full((2, 2), 0.1)}}
    with pytest.warns(UserWarning, match="no weight is left in b/kernel; min_keep="):
        masks.from_scores(params, 0.2)
    assert float(masks.density(masks.from_scores(params, 0.2, min_keep=1))) < 0.25
    ramp = bilevel.Gradual(0.5, start=0, updates=1, every=1)
    solver = bilevel.sparse_training(0.1, gradual=ramp)
    third = masks.from_scores(params, 1 / 3, min_keep=1)  # Fewer than the ramp ends with.
    state = solver.init(problem(quadratic), third, params)
    for _ in range(2):
        state, _ = solver.step(state, 0.0)
    with pytest.warns(UserWarning, match="density 0.5 was missed: 0.3382 of the weights are kept"):
        solver.export(state)


def test_narrow_floats():
    shape = (64, 64)
    scores = bilevel.criteria.random(jax.random.key(0), {"w": jnp.ones(shape, jnp.bfloat16)})
    kept = np.asarray(masks.from_scores(scores, 0.5)["w"])
    # Ties would favor the later half: 2048 places, standard deviation 23.
    assert abs(int(kept[:32].sum()) - 1024) < 100
    w = jnp.full((4, 3), 300.0, jnp.float16).at[:, 1].set(200.0).at[:, 2].set(100.0)
    assert np.isfinite(masks.groups(w, -1)).all()
    found = masks.from_scores({"w": w}, 0.4, structure="filter")["w"]
    assert np.array_equal(found[0], [True, True, False])
    tiny = jnp.array([[1e-4, 2e-4, 3e-4]], jnp.float16)
    loss = lambda p, b: jnp.sum(p["w"].astype(jnp.float32) ** 2) * 1e-4  # noqa: E731
    saliency = bilevel.criteria.snip(loss, {"w": tiny}, None)["w"]
    assert (np.diff(saliency[0]) > 0).all()


def test_masks_that_are_given_survive_the_loop():
    params, batch = network()
    given = masks.from_scores(masks.prunable(params), 0.5)
    solver = bilevel.sparse_training(0.05)
    for _ in range(2):
        state = solver.init(problem(regression), given, params)
        optim.loop.run(solver.step, state, lambda t: itertools.repeat(batch), 3)
    assert float(masks.density(given)) == 0.5


@pytest.mark.parametrize("structure", ["weight", "filter", "2:4"])
def test_scores_over_explicit_axes_of_a_mesh(structure):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    w = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    want = masks.from_scores({"w": w}, 0.5, structure=structure)["w"]
    with jax.set_mesh(mesh):
        for spec in (("data",), (None, "data")):
            split = NamedSharding(mesh, PartitionSpec(*spec))
            got = masks.from_scores({"w": jax.device_put(w, split)}, 0.5, structure=structure)["w"]
            assert np.array_equal(got, want)
            assert got.sharding.is_equivalent_to(split, 2)


def test_bip_with_parameters_over_explicit_axes():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    params, (x, y) = network()
    solver = bilevel.bip(0.05, 1.0, 0.3)

    def loss(params, batch):
        whole = jax.tree.map(lambda w: jax.sharding.reshard(w, PartitionSpec()), params)
        return regression(whole, batch)

    one = solver.init(problem(regression), None, params)
    with jax.set_mesh(mesh):
        split = {
            "hidden": NamedSharding(mesh, PartitionSpec(None, "data")),
            "head": NamedSharding(mesh, PartitionSpec("data")),
        }
        placed = {k: jax.device_put(params[k], s) for k, s in split.items()}
        many = solver.init(problem(loss), None, placed)
        many, _ = jax.jit(solver.step)(many, ((x, y), (x, y)))
        layout = many.masks["head"]["kernel"].sharding
        assert layout.is_equivalent_to(split["head"], 2)
    one, _ = jax.jit(solver.step)(one, ((x, y), (x, y)))
    for a, b in zip(*map(jax.tree.leaves, ((one.x, one.y), (many.x, many.y))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_positions_of_convolutions_and_of_layers_under_scan():
    params = {
        "conv": jnp.ones((3, 3, 2, 4)),
        "layers": jnp.ones((5, 4, 4)),
        "head": jnp.ones((4, 7)),
    }

    def forward(params, x):
        x = jax.lax.conv_general_dilated(
            x, params["conv"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["layers"])
        return jax.jit(lambda h: h @ params["head"])(x.mean((1, 2)))

    found = bilevel.pruning.output_positions(forward, params, jnp.ones((1, 10, 6, 2)))
    assert found == {"conv": 5 * 3, "layers": 5 * 3, "head": 1}
    report = bilevel.sparsity_report(params, masks.ones(params), positions=found)
    assert report.total.flops == 2 * (15 * 72 + 15 * 80 + 28)
