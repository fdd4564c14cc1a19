"""Masks, criteria, allocators, densities and indices against records; exactness and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pruning_records import load

import bilevel
from bilevel.pruning import _select
from experiments.pruning import methods


@pytest.mark.fidelity
@pytest.mark.filterwarnings("ignore:no weight is left")
def test_masks_equal_the_authors():
    record = load("masks_official")
    scores = [record[f"scores{i}"] for i in range(3)]
    torch = {"output_axis": 0, "input_axis": 1}
    with jax.enable_x64(True):
        for a, k in enumerate(record["ks"]):
            for scope in ("global", "layer"):
                got = bilevel.masks.from_scores(scores, k, scope=scope)
                for i in range(3):
                    assert np.array_equal(got[i], record[f"{scope}_k{a}_m{i}"])
            for structure in ("filter", "channel"):
                for p in (1, 2):
                    got = bilevel.masks.from_scores(
                        scores[1:2], k, structure=structure, p=p, **torch
                    )[0]
                    assert np.array_equal(got, record[f"{structure}_p{p}_k{a}_m1"])


def test_counts_are_python_floors():
    record = load("masks_official")
    for a, k in enumerate(record["j_k"]):
        for b, n in enumerate(record["j_n"]):
            shape = jax.ShapeDtypeStruct((int(n),), jnp.float32)
            assert bilevel.masks.drop_counts(shape, float(k)) == record["j_table"][a, b]


def stable(leaves, j, absolute):
    flat = np.concatenate([np.asarray(x).ravel() for x in leaves])
    mask = np.ones(flat.size, bool)
    mask[np.argsort(np.abs(flat) if absolute else flat, kind="stable")[:j]] = False
    return mask


@pytest.mark.parametrize("shapes", [[(5, 3), (40,), ()], [(150, 125), (2,), (130, 90)]])
def test_selection_is_the_stable_sorts(shapes):
    drop = jax.jit(_select.drop_smallest, static_argnums=2)
    rng = np.random.default_rng(0)
    normal = [rng.standard_normal(s, np.float32) for s in shapes]
    kinds = {
        "normal": normal,
        "ties": [np.round(2 * x) / 2 for x in normal],
        "zeros": [np.zeros_like(x) for x in normal],
        "half zero": [x * (x > 0) for x in normal],
        "heavy tails": [x**9 * np.float32(1e-20) for x in normal],
        "infinite": [np.where(x > 1, np.inf, x) for x in normal],
    }
    n = sum(x.size for x in normal)
    for kind, leaves in kinds.items():
        for j in (0, 1, n // 10, n - n // 50, n - 1, n):
            for absolute in (True, False):
                got = np.concatenate([np.ravel(m) for m in drop(leaves, j, absolute)])
                assert np.array_equal(got, stable(leaves, j, absolute)), (kind, j, absolute)
                got = _select.drop_smallest_on_host(leaves, j, absolute)
                got = np.concatenate([np.ravel(m) for m in got])
                assert np.array_equal(got, stable(leaves, j, absolute)), (kind, j, absolute)


def test_large_concrete_scores_take_the_partition_and_traced_ones_do_not():
    x = np.random.default_rng(0).standard_normal(2**20).astype(np.float32)
    assert _select.on_host([x])
    assert not _select.on_host([x[1:]])
    masks = bilevel.masks.from_scores({"w": x}, 0.1)
    assert int(masks["w"].sum()) == 2**20 - int(0.9 * 2**20)
    traced = jax.eval_shape(lambda w: bilevel.masks.from_scores({"w": w}, 0.1), x)
    assert traced["w"].shape == x.shape


def test_one_program_for_every_density_and_stacks_of_them():
    x = jnp.arange(24.0).reshape(4, 6)
    cut = jax.jit(jax.vmap(lambda j: bilevel.masks.from_counts({"w": x}, j)["w"]))
    assert np.array_equal(cut(jnp.array([3, 20])).sum((1, 2)), [21, 4])


def test_min_keep_is_a_floor_under_every_leaf():
    rng = np.random.default_rng(1)
    sizes = (5000, 300, 40, 8)
    scores = [
        rng.standard_normal(n, np.float32) * s
        for n, s in zip(sizes, (1, 1e-3, 1e-4, 1), strict=True)
    ]
    masks = bilevel.masks.from_scores(scores, 0.05, min_keep=20)
    kept = [int(m.sum()) for m in masks]
    assert kept[1:3] == [20, 20]
    assert kept[3] == 8
    assert sum(kept) == sum(sizes) - int(0.95 * sum(sizes))
    best = np.sort(np.abs(scores[0]))[-kept[0] :]
    assert np.abs(scores[0])[np.asarray(masks[0])].min() == best[0]


@pytest.mark.fidelity
def test_n_of_m_record():
    record = load("extras")
    for n, m in ((2, 4), (1, 4), (4, 8), (1, 8)):
        for name, key in (("nm_w", "nm"), ("nm_conv", "nm_conv")):
            got = bilevel.masks.from_scores(
                {"w": record[name].astype(np.float32)}, n / m, structure=f"{n}:{m}", input_axis=1
            )
            assert np.array_equal(got["w"], record[f"{key}_{n}_{m}"])


def test_imp_prunes_a_fifth_of_what_is_left():
    record = load("extras")
    alive = [record[f"mask_in{i}"].astype(bool) for i in range(2)]
    weights = [np.where(a, record[f"w{i}"], 0).astype(np.float32) for i, a in enumerate(alive)]
    kept = sum(int(a.sum()) for a in alive)
    total = sum(a.size for a in alive)
    drop = total - kept + int(np.ceil(0.2 * kept))
    masks = bilevel.masks.from_counts(weights, drop)
    openlth = bilevel.masks.from_counts(weights, drop + 1)  # It also drops its threshold.
    for i in range(2):
        assert np.array_equal(masks[i], record[f"imp_exact{i}"])
        assert np.array_equal(openlth[i], record[f"imp_openlth{i}"])


@pytest.mark.fidelity
def test_granet_and_n_of_m_decay_records():
    record = load("extras")
    masks, weights, grads = (
        {"a": record[f"{k}0"], "none": none, "b": record[f"{k}1"]}
        for k, none in (("mask_in", None), ("w", 1.0), ("granet_grad", 1.0))
    )
    masks = jax.tree.map(lambda m: m.astype(bool), masks)
    with jax.enable_x64(True):
        for fraction, name in ((0.0, "pruned"), (float(record["granet_drop"]), "out")):
            got = bilevel.granet(masks, weights, grads, float(record["granet_density"]), fraction)
            for i, leaf in enumerate("ab"):
                assert np.array_equal(got[leaf], record[f"granet_{name}{i}"])
        for kind, name in (("linear", "linear"), ("exponential", "exp")):
            got = bilevel.density.residue(record["nm_t"], float(record["nm_beta"]), kind=kind)
            np.testing.assert_allclose(got, record[f"nm_mdgf_{name}"], atol=1e-9)
    for kind in ("sparsify", "fine", "densify"):
        got = bilevel.density.n_of_m(1, 16, epochs=200, dense=10, finetune=20, kind=kind)
        assert np.array_equal(got, record[f"nm_sdgf_{kind}"])


@pytest.mark.fidelity
def test_erk_and_minimum_threshold_records():
    record = load("erk")
    for net in ("lenet", "r20ish"):
        shapes = [tuple(int(n) for n in row if n) for row in record[f"{net}_shapes"]]
        params = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
        for i, d in enumerate(record["densities"]):
            for power, name in ((1.0, "erk"), (0.5, "erk_pow0.5")):
                got = bilevel.allocate.erk(params, float(d), power=power)
                np.testing.assert_allclose(got, record[f"{net}_{name}_d{i}"], rtol=1e-9)
    extras = load("extras")
    params = [jax.ShapeDtypeStruct((int(n),), jnp.float32) for n in extras["mt_layer_weights"]]
    densities = list(1 - extras["mt_sparsity_in"])
    got = bilevel.allocate.min_threshold(
        params, densities, 1 - float(extras["mt_target"]), int(extras["mt_min_weights"])
    )
    np.testing.assert_allclose(1 - np.array(got), extras["mt_sparsity_out"], atol=1e-6)


@pytest.mark.fidelity
def test_density_records():
    record = load("schedules")
    ramp = dict(start=int(record["t0"]), updates=int(record["n"]), every=int(record["dt"]))
    final = 1 - float(record["s_f"])
    with jax.enable_x64(True):
        for held, name in ((True, "cubic_stepwise"), (False, "cubic_continuous")):
            got = 1 - bilevel.density.cubic(record["t"], final, held=held, **ramp)
            np.testing.assert_allclose(got, record[name], atol=1e-9)
        early = 1 - bilevel.density.cubic(record["t"] + 1, final, held=False, **ramp)
        np.testing.assert_allclose(early, record["jaxpruner_poly3"], atol=1e-9)
    imp = record["imp_density_20pct"]
    np.testing.assert_allclose(bilevel.density.geometric(len(imp) - 1), imp[1:], rtol=1e-9)
    got = bilevel.density.exponential(float(record["synflow_rho"]), 100)
    np.testing.assert_allclose(got, record["synflow_exp"], rtol=1e-9)
    got = bilevel.density.linear(float(record["synflow_rho"]), 100)
    np.testing.assert_allclose(got, record["synflow_linear"], rtol=1e-9)
    epochs, lr = int(record["bip_epochs"]), float(record["bip_lr"])
    got = [methods.mask_rate(lr, epochs)(e) for e in range(epochs)]
    np.testing.assert_allclose(got, record["bip_mask_lr_step"], rtol=1e-6)


def test_cubic_ends_on_its_last_update():
    # jaxpruner's polynomial schedule is one step early.
    ramp = dict(start=10, updates=5, every=4)

    def at(t):
        return float(bilevel.density.cubic(t, 0.1, **ramp))

    assert at(0) == at(10) == at(13) == 1.0
    assert at(14) < 1.0
    assert at(29) > 0.1 + 1e-6
    np.testing.assert_allclose([at(30), at(1000)], 0.1, rtol=1e-6)


def test_geometric_rounds_reach_the_target():
    got = bilevel.density.geometric_rounds(0.02)
    assert len(got) == 17
    assert got[-1] == 0.02
    assert len(bilevel.density.geometric_rounds(0.2)) == 7


@pytest.fixture(scope="module")
def saliency():
    record = load("saliency")
    names = ("c1", "c2", "fc")
    params = {
        n: {"kernel": record[f"param_{n}_weight"], "bias": record[f"param_{n}_bias"]} for n in names
    }

    def forward(params, x):
        for n, stride in (("c1", 1), ("c2", 2)):
            x = jax.lax.conv_general_dilated(
                x, params[n]["kernel"], (stride, stride), ((1, 1), (1, 1)),
                dimension_numbers=("NCHW", "OIHW", "NCHW"),
            )  # fmt: skip
            x = jax.nn.relu(x + params[n]["bias"][None, :, None, None])
        fc = params["fc"]
        return x.reshape(len(x), -1) @ fc["kernel"].T + fc["bias"][None]

    def loss(temperature):
        def ce(params, batch):
            logits = forward(params, batch[0]) / temperature
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

        return ce

    return record, params, forward, loss, [(n, i) for i, n in enumerate(names)]


@pytest.mark.fidelity
def test_snip_grasp_synflow_records(saliency):
    record, params, forward, loss, names = saliency
    with jax.enable_x64(True):
        x, y = record["x"].astype(float), record["y"]
        snip = jax.jit(lambda p: bilevel.criteria.snip(loss(1.0), p, (x, y)))(params)
        half = len(x) // 2
        halves = [(x[:half], y[:half]), (x[half:], y[half:])]
        grasp = jax.jit(
            lambda p: bilevel.criteria.grasp(loss(float(record["grasp_T"])), p, halves)
        )(params)
        one = np.ones((1, *x.shape[1:]))
        synflow = jax.jit(lambda p: bilevel.criteria.synflow(forward, p, one))(params)
        for n, i in names:
            for got, key, sign in (
                (snip, "snip", 1),
                (grasp, "grasp", -1),
                (synflow, "synflow", 1),
            ):
                reference = record[f"{key}{i}"]
                scale = np.abs(reference).max()
                assert np.abs(sign * got[n]["kernel"] - reference).max() < 1e-9 * scale
        raw = sum(record[f"snip_raw{i}"].sum() for _, i in names)
        for n, i in names:
            np.testing.assert_allclose(snip[n]["kernel"] * raw, record[f"snip_raw{i}"], rtol=1e-9)
        iterated = bilevel.criteria.synflow_masks(
            forward, params, one, float(record["synflow_density"]), int(record["synflow_iters"])
        )
        # The authors keep the boundary: one fewer is dropped.
        drop = int(float(record["grasp_ratio"]) * sum(g.size for g in jax.tree.leaves(grasp))) - 1
        kept = bilevel.masks.from_counts(grasp, drop, absolute=False)
        for n, i in names:
            assert np.array_equal(iterated[n]["kernel"], record[f"synflow_iter_mask{i}"])
            assert np.array_equal(kept[n]["kernel"], record[f"grasp_mask{i}"])


@pytest.mark.fidelity
def test_pq_index_records():
    record = load("pqi")
    with jax.enable_x64(True):
        for i in range(int(record["n_tensors"])):
            x, mask = record[f"x{i}"], record[f"mask{i}"]
            for a, (p, q) in enumerate(record["pq"]):
                index = bilevel.pq_index(x, mask, p, q)
                assert abs(float(index) - record[f"pqi_layer{i}_pq{a}"]) < 1e-9
                if x.ndim > 1:
                    rows = bilevel.pq_index(x, mask, p, q, axis=tuple(range(1, x.ndim)))
                    np.testing.assert_allclose(rows, record[f"pqi_neuron{i}_pq{a}"], atol=1e-9)
                for b, eta in enumerate(record["etas"]):
                    got = bilevel.sap_count(
                        index, mask.sum(), p, q, eta=eta,
                        gamma=float(record["gamma"]), beta=float(record["beta"]),
                    )  # fmt: skip
                    assert got == record[f"sap_numprune{i}_pq{a}_eta{b}"]


def test_uniform_plus_and_lamp():
    shapes = {"conv": (3, 3, 3, 16), "mid": (3, 3, 16, 64), "head": (64, 10)}
    params = {k: jnp.ones(s) for k, s in shapes.items()}
    got = bilevel.allocate.uniform_plus(params, 0.1, dense="conv", last="head")
    sizes = {k: x.size for k, x in params.items()}
    assert got["conv"] == 1
    assert got["head"] == 0.2
    assert sum(got[k] * sizes[k] for k in got) == pytest.approx(0.1 * sum(sizes.values()))
    w = np.random.default_rng(0).standard_normal((6, 7)).astype(np.float32)
    scores = bilevel.allocate.lamp({"w": jnp.asarray(w)})["w"]
    expected = w**2 / np.array([[(w[np.abs(w) >= abs(v)] ** 2).sum() for v in row] for row in w])
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_report_counts_what_is_kept_and_names_what_the_rule_left():
    params = {
        "conv": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)},
        "norm": {"scale": jnp.ones(4)},
        "none": None,
    }
    masks = bilevel.masks.from_scores(bilevel.criteria.magnitude(params), 0.25)
    report = bilevel.sparsity_report(params, masks, positions={"conv/kernel": 100})
    assert [r.path for r in report.layers] == ["conv/bias", "conv/kernel", "norm/scale"]
    assert report.prunable.kept == 18
    assert report.total.kept == 26
    assert report.total.flops == 2 * 18 * 100
    assert report.total.bytes == 26 * 4
    assert str(report).count("not prunable") == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: bilevel.masks.from_scores(s, 0.0), r"density must be in \(0, 1\], got 0.0"),
        (lambda s: bilevel.masks.from_scores(s, 1.5), r"density must be in \(0, 1\], got 1.5"),
        (lambda s: bilevel.masks.from_scores(s, 0.5, scope="tree"), "scope must be"),
        (lambda s: bilevel.masks.from_scores(s, 0.5, structure="row"), "structure must be"),
        (lambda s: bilevel.masks.from_scores(s, 0.5, structure="2:4"), "multiple of 4: a/kernel"),
        (lambda s: bilevel.masks.from_scores(s, 0.9, structure="1:2"), "has density 0.5"),
        (lambda s: bilevel.masks.from_scores({"v": jnp.ones(4)}, 0.5, structure="filter"), ": v "),
        (lambda s: bilevel.masks.from_scores({"a": None}, 0.5), "nothing is prunable"),
        (lambda s: bilevel.masks.prunable({"bias": jnp.ones(3)}), "the leaves are: bias"),
        (lambda s: bilevel.allocate.min_threshold(s, {"a": {"kernel": 0.1}}, 0.1, 5), "min_keep=5"),
        (lambda s: bilevel.allocate.uniform_plus(s, 0.5, dense="conv", last=None), "matches none"),
        (lambda s: bilevel.density.geometric(0), "rounds must be"),
        (lambda s: bilevel.masks.prunable(s, "kernel"), "rule must be a function of a path and a"),
        (
            lambda s: bilevel.masks.from_scores(s, 0.5, {"scope": "layer"}),
            "must be a bilevel.masks",
        ),
        (lambda s: bilevel.masks.apply({"b": None}, s), "masks do not fit the parameters: pytree"),
        (
            lambda s: bilevel.criteria.grasp(len, s, jnp.ones((2, 3))),
            "batches must be a list",
        ),
        (
            lambda s: bilevel.calibrate(len, s, jnp.ones((2, 3))),
            "list of batches, got an array",
        ),
        (lambda s: bilevel.pq_index(jnp.ones(2), p=2.0), "p must be"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call({"a": {"kernel": jnp.ones((6, 4))}})
