"""Calibrated pruning: the authors' masks and weights, what layers are fed, whole models."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sparse_records as records
from flax import nnx

import bilevel
from bilevel import calibrated

ZEROS = [(2, 4), (4, 8), (1, 4)]


def record_of(name):
    record, h = records.load(name)
    return {k: v.astype(float) if v.dtype == np.float32 else v for k, v in record.items()}, h


def same(mask, reference):
    return np.array_equal(mask, reference.astype(bool))


@pytest.mark.fidelity
def test_wanda_and_gblm_of_the_authors():
    record, h = record_of("wanda")
    grads, g = record_of("gblm")
    with jax.enable_x64(True):
        w, norm = record["W"], calibrated.stats_of(record["X"]).norm
        np.testing.assert_allclose(norm**2, record["scaler_row"], rtol=1e-12)
        scores = calibrated.wanda(w, norm)
        for ratio in h["ratios"]:
            assert same(calibrated.row_masks(scores, 1 - ratio), record[f"row_{ratio}"])
            variant = calibrated.share_masks(scores, 1 - ratio)
            assert same(variant, record[f"variant_{ratio}"])
        for a, b in ZEROS:
            mask = calibrated.row_masks(scores, structure=f"{b - a}:{b}")
            assert same(mask, record[f"zeros{a}of{b}"])
        samples = len(grads["grads"])
        for name, mean, times in (
            ("l1", np.abs(grads["grads"]).mean(0), samples),
            ("l2", np.sqrt((grads["grads"] ** 2).mean(0)), np.sqrt(samples)),
        ):
            for inverse in (False, True):
                alpha = g["scale"] * times
                scores = calibrated.gblm(w, norm, mean, alpha=alpha, inverse=inverse)
                key = name + "_inv" * inverse
                for ratio in g["ratios"]:
                    mask = calibrated.row_masks(scores, 1 - ratio)
                    assert same(mask, grads[f"{key}_{ratio}"])
                mask = calibrated.row_masks(scores, structure="2:4")
                assert same(mask, grads[f"{key}_zeros2of4"])


@pytest.mark.fidelity
def test_sparsegpt_of_the_authors():
    record, h = record_of("sparsegpt")
    with jax.enable_x64(True):
        w, gram = record["W"], calibrated.stats_of(record["X"]).gram
        np.testing.assert_allclose(gram, record["H"], atol=1e-11)
        found = {f"row_{r}_block{b}": calibrated.sparsegpt(w, gram, 1 - r, block=b, strict=False)
                 for r, b in ((0.5, 8), (0.6, 128))}  # fmt: skip
        for a, b in ZEROS:
            found[f"zeros{a}of{b}"] = calibrated.sparsegpt(w, gram, structure=f"{b - a}:{b}")
        x = record["X"].copy()
        x[..., h["dead"]] = 0
        dead = calibrated.stats_of(x).gram
        found["dead_column"] = calibrated.sparsegpt(w, dead, 0.5, strict=False)
        for name, (new, mask, error) in found.items():
            np.testing.assert_allclose(new, record[name], atol=1e-12)
            assert same(mask, record[name] != 0) or name == "dead_column"
            assert abs(error - h["errors"][name]) < 1e-9
        assert not np.asarray(found["dead_column"][0])[:, h["dead"]].any()


@pytest.mark.fidelity
def test_dsnot_of_the_authors():
    record, h = record_of("dsnot")
    with jax.enable_x64(True):
        w, norm = record["W"], np.sqrt(record["scaler_row"])
        mean, var = record["sum_metric_row"], record["var"]
        given = (norm, mean, var)
        saliency = calibrated.sparsegpt_scores(w, calibrated.stats_of(record["X"]).gram)
        starts = {"wanda": calibrated.wanda(w, norm), "magnitude": np.abs(w), "sparsegpt": saliency}
        for start, scores in starts.items():
            mask = calibrated.row_masks(jnp.asarray(scores), 0.5)
            for kind in ("any", "same"):
                for cycles in (1, 8):
                    got = calibrated.dsnot(w, mask, *given, cycles=cycles, same_sign=kind == "same")
                    assert same(got, record[f"{start}_{kind}_c{cycles}"])
        mask = calibrated.row_masks(calibrated.wanda(w, norm), structure="2:4")
        for cycles in h["cycles"]:
            got = calibrated.dsnot(w, mask, *given, cycles=cycles, structure="2:4")
            assert same(got, record[f"nm_wanda_zeros2of4_c{cycles}"])
        # More cycles than a row has weights: the lists end, the counts stay.
        for structure in (None, "2:4"):
            got = np.asarray(calibrated.dsnot(w, mask, *given, cycles=99, threshold=0.0,
                                              same_sign=False, structure=structure))  # fmt: skip
            assert (got.sum(-1) == 16).all()
        assert (got.reshape(-1, 4).sum(-1) == 2).all()


@pytest.mark.fidelity
def test_flap_of_the_authors():
    record, _ = record_of("flap")
    with jax.enable_x64(True):
        for i in range(3):
            whole = calibrated.stats_of(record["XM"][i], gram=False)
            np.testing.assert_allclose(whole.mean, record["mean_mlp"][i], rtol=1e-12)
            norm = np.sqrt(record["scaler_mlp"][i])
            stats = whole._replace(norm=norm, var=record["fluc_mlp"][i])
            for metric in ("ifv", "wifv", "wifn"):
                scores = calibrated.flap(record["WM"][i], stats, metric)
                keep = calibrated.row_masks(scores[None], 0.6)[0]
                key = f"ULUM_{metric.upper()}"
                assert same(keep, record[f"{key}_neurons"][i])
                bias = record["WM"][i] @ np.where(keep, 0, stats.mean)
                np.testing.assert_allclose(bias, record[f"{key}_mlp_bias"][i], atol=1e-12)


@pytest.mark.fidelity
def test_heads_and_neurons_of_flap():
    record, h = record_of("flap")
    layers, size, hidden = h["layers"], h["head_dim"], h["hidden"]
    head, neuron = 4 * hidden * size, 3 * hidden
    remove = h["ratio"] * (neuron * h["inter"] + 4 * hidden**2)
    each = h["remove_heads"] // layers
    counts = {"UL-MM": (each, int((remove - each * head) / neuron)),
              "AL-MM": (h["remove_heads"],
                        int((layers * remove - h["remove_heads"] * head) / neuron))}  # fmt: skip
    for metric in ("ifv", "wifv", "wifn"):
        scores = []
        for kind, w in (("attn", record["WA"]), ("mlp", record["WM"])):
            parts = zip(w, record[f"scaler_{kind}"], record[f"fluc_{kind}"], strict=True)
            scores.append([
                calibrated.flap(m, calibrated.Stats(np.sqrt(square), None, fluc, 1), metric)
                for m, square, fluc in parts
            ])  # fmt: skip
        for structure in ("UL-UM", "UL-MM", "AL-MM", "AL-AM"):
            heads, neurons = counts.get(structure, (None, None))
            got = calibrated.flap_masks(
                *scores, 1 - h["ratio"], head_size=size, structure=structure,
                cost=4 * size // 3, heads=heads, neurons=neurons,
            )  # fmt: skip
            key = f"{structure.replace('-', '')}_{metric.upper()}"
            for kind, mask in zip(("heads", "neurons"), got, strict=True):
                assert same(mask, record[f"{key}_{kind}"]), (key, kind)
    for options, text in (
        ({"structure": "UL"}, "structure must be one of UL-UM"),
        ({"head_size": 3}, "head_size=3 does not divide 16 inputs"),
        ({"structure": "AL-MM"}, "needs heads and neurons, numbers to drop"),
        ({"structure": "UL-MM", "heads": 5, "neurons": 0}, "heads=5 of 4 cannot be dropped"),
    ):
        with pytest.raises(ValueError, match=text):
            calibrated.flap_masks(*scores, 0.5, **{"head_size": size, **options})


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(4, 8, (3, 3), feature_group_count=2, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, 8, decode=False, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        h = nnx.relu(self.conv(x)).reshape(len(x), -1, 8)
        return self.head(h + self.attention(h).reshape(h.shape)).mean(1)


class Dense(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(4, name="last")(jnp.tanh(linen.Dense(8, name="first")(x)))


def nnx_model():
    graph, params = nnx.split(Net(nnx.Rngs(0)), nnx.Param)
    return lambda params, x: nnx.merge(graph, params)(x), params, (3, 3, 4)


def linen_model():
    model = Dense()
    params = model.init(jax.random.key(0), jnp.ones((1, 8)))["params"]
    return lambda params, x: model.apply({"params": params}, x), params, (8,)


def torch_model():
    rng = np.random.default_rng(1)
    params = [{"kernel": jnp.asarray(rng.standard_normal(s, np.float32)), "bias": jnp.zeros(s[0])}
              for s in ((8, 8), (4, 8))]  # fmt: skip

    def forward(params, x):
        h = jnp.tanh(params[0]["kernel"] @ x.T).T + params[0]["bias"][None]
        return h @ params[1]["kernel"].T + params[1]["bias"][None]

    return forward, params, (8,)


def batches_of(shape, count=2, size=6):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((size, *shape)).astype(np.float32) for _ in range(count)]


def test_layers_are_the_products_of_the_model():
    for make in (nnx_model, linen_model, torch_model):
        forward, params, shape = make()
        found = bilevel.calibrate(forward, params, batches_of(shape))
        flat = jax.tree_util.tree_flatten_with_path(params)[0]
        kernels = {bilevel.masks.path_name(p): x for p, x in flat if jnp.ndim(x) > 1}
        for path, layer in found.items():
            kernel = next(x for name, x in kernels.items() if name.startswith(path))
            back = layer.kernel(layer.matrices(kernel), kernel)
            assert np.array_equal(back, kernel)
            # The norms are the diagonal of the Gram matrix, and means and variances add up to it.
            stats = layer.stats
            square = jnp.diagonal(stats.gram, axis1=1, axis2=2) / 2
            np.testing.assert_allclose(stats.norm**2, square, rtol=1e-4, atol=1e-4)
            total = stats.tokens * (stats.mean**2 + stats.var)
            np.testing.assert_allclose(total, square, rtol=1e-3, atol=1e-4)
        if make is nnx_model:
            assert [path.split("/")[0] for path in found] == ["conv", *["attention"] * 4, "head"]
            assert found[next(iter(found))].where.shape == (2, 4, 18)


def test_inputs_of_a_grouped_convolution_and_of_a_dense_layer():
    for groups, padding in ((1, "SAME"), (2, "VALID")):
        conv = nnx.Conv(4, 6, (3, 2), strides=2, padding=padding, feature_group_count=groups,
                        use_bias=False, rngs=nnx.Rngs(1))  # fmt: skip
        graph, params = nnx.split(conv)

        def forward(params, x, graph=graph):
            return nnx.merge(graph, params)(x)

        batches = batches_of((5, 5, 4))
        (layer,) = bilevel.calibrate(forward, params, batches).values()
        w = layer.matrices(params["kernel"][...])
        # What the matrices make of their inputs has the energy of the convolution's outputs.
        energy = jnp.einsum("goi,gij,goj->go", w, layer.stats.gram, w) / 2
        y = forward(params, np.concatenate(batches))
        want = jnp.square(y).sum((0, 1, 2)) / len(np.concatenate(batches))
        np.testing.assert_allclose(energy.ravel(), want, rtol=1e-4)
        mean = jnp.einsum("goi,gi->go", w, layer.stats.mean).ravel()
        np.testing.assert_allclose(mean, y.mean((0, 1, 2)), atol=1e-5)


def outputs(forward, params, batches):
    return np.concatenate([np.asarray(forward(params, x)) for x in batches])


@pytest.mark.parametrize("make", [linen_model, torch_model])  # NNX: test_own_models.
def test_every_method_prunes_models(make):
    forward, params, shape = make()
    batches = batches_of(shape)
    dense = outputs(forward, params, batches)
    error = {}
    for method in calibrated.METHODS:
        options = {"loss": lambda p, x: jnp.square(forward(p, x)).sum()} if method == "gblm" else {}
        new, masks = calibrated.prune(forward, params, batches, 0.5, method, **options)
        assert jax.tree.structure(new) == jax.tree.structure(params)
        for m, x in zip(*map(jax.tree.leaves, (masks, bilevel.masks.prunable(new))), strict=True):
            assert not np.asarray(x)[~np.asarray(m)].any()
            if method != "flap":
                assert abs(float(m.mean()) - 0.5) < 1 / 18
        error[method] = np.square(outputs(forward, new, batches) - dense).mean()
    assert error["sparsegpt"] < error["wanda"]
    new, masks = calibrated.prune(forward, params, batches, structure="2:4", sequential=False,
                                  rule=lambda path, x: "kernel" in path and "conv" not in path
                                  )  # fmt: skip
    for m in jax.tree.leaves(masks):
        assert float(m.mean()) == 0.5


def test_other_starts_and_scopes():
    forward, params, shape = linen_model()
    batches, kept = batches_of(shape), {}
    for start in ("wanda", "sparsegpt"):
        _, masks = calibrated.prune(forward, params, batches, 0.5, "dsnot", start=start,
                                    sequential=False)  # fmt: skip
        kept[start] = np.asarray(masks["first"]["kernel"])
        assert (kept[start].sum(0) == 4).all()
    assert not np.array_equal(*kept.values())
    # A row whose scores are in one weight keeps fewer than one of equal weights.
    kernel = np.ones((8, 8), np.float32)
    kernel[0, 0] = 100.0
    params = {**params, "first": {**params["first"], "kernel": jnp.asarray(kernel)}}
    _, masks = calibrated.prune(forward, params, batches, 0.5, scope="share", sequential=False)
    rows = np.asarray(masks["first"]["kernel"]).sum(0)
    assert rows[0] == 1
    assert (rows[1:] > 1).all()


def test_later_layers_are_fed_by_pruned_ones():
    forward, params, shape = linen_model()
    # Of equal weights those of the largest inputs are kept.
    params = {**params, "last": {**params["last"], "kernel": jnp.ones((8, 4))}}
    batches, masks = batches_of(shape), []
    for sequential in (True, False):
        new, _ = calibrated.prune(forward, params, batches, 0.25, sequential=sequential)
        source = new if sequential else params
        fed = bilevel.calibrate(forward, source, batches)["last/kernel"].stats.norm[0]
        want = np.argsort(np.argsort(fed)) >= 6
        masks.append(np.asarray(new["last"]["kernel"])[:, 0] != 0)
        assert np.array_equal(masks[-1], want)
    assert not np.array_equal(*masks)


def test_flap_keeps_the_mean_of_the_output():
    forward, params, shape = linen_model()
    batches = batches_of(shape)
    last = lambda path, x: path == "last/kernel"  # noqa: E731
    for scope in ("row", "layer"):
        new, masks = calibrated.prune(forward, params, batches, 0.5, "flap", rule=last, scope=scope)
        keep = np.asarray(masks["last"]["kernel"])
        assert (keep == keep[:, :1]).all()
        assert keep[:, 0].sum() == 4
        gap = outputs(forward, new, batches).mean(0) - outputs(forward, params, batches).mean(0)
        assert np.abs(gap).max() < 1e-6


def test_bad_input():
    forward, params, shape = linen_model()
    batches = batches_of(shape)
    for options, text in (
        ({"method": "wand"}, "nearest: wanda"), ({"density": None}, "one of density and structure"),
        ({"structure": "2:4"}, "one of density and structure"), ({"density": 0.0}, "density must"),
        ({"method": "gblm"}, "loss is needed by method='gblm'"), ({"scope": "all"}, "scope must"),
        ({"method": "dsnot", "scope": "layer"}, "scope must be 'row'"),
        ({"method": "dsnot", "start": "flap"}, "start must be one of wanda, magnitude, sparsegpt"),
        ({"method": "sparsegpt", "scope": "share"}, "scope 'share' is not of method 'sparsegpt'"),
        ({"batches": []}, "batches is empty"), ({"batches": [np.float32(1)]}, "leading axis"),
        ({"density": None, "structure": "3:5"}, "needs a multiple of 5 inputs: 8"),
    ):  # fmt: skip
        given = {"batches": batches, "density": 0.5, **options}
        with pytest.raises(ValueError, match=text):
            calibrated.prune(forward, params, **given)

    with pytest.raises(ValueError, match="the inputs of first/kernel are not finite"):
        calibrated.prune(forward, params, [np.full((6, *shape), np.nan, np.float32)], 0.5)

    def loop(params, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["kernel"])[0]

    with pytest.raises(ValueError, match="no product of the forward pass reads kernel"):
        bilevel.calibrate(loop, {"kernel": jnp.ones((2, 8, 8))}, batches)
    both = lambda params, x: x @ params["kernel"] @ params["kernel"].T  # noqa: E731
    with pytest.raises(ValueError, match="kernel is read in two ways"):
        bilevel.calibrate(both, {"kernel": jnp.ones((8, 8))}, batches)
    with pytest.raises(ValueError, match="needs a leaf bias beside kernel"):
        calibrated.prune(lambda p, x: x @ p["kernel"], {"kernel": jnp.ones((8, 2))}, batches, 0.5,
                         "flap")  # fmt: skip
    with pytest.raises(ValueError, match="gram is not positive definite with damp=0"):
        calibrated.sparsegpt(jnp.ones((2, 4)), -jnp.eye(4), 0.5, damp=0.0)
    with pytest.raises(ValueError, match=r"gram of shape \(3, 3\)"):
        calibrated.sparsegpt(jnp.ones((2, 4)), jnp.ones((3, 3)), 0.5)
