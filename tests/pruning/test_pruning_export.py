"""Sparse storage, and models that are physically smaller with the same outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import bilevel
from bilevel import export
from experiments import models
from experiments.models import resnet
from experiments.pruning import saved_model


def test_csr_and_bcsr_equal_scipys():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((12, 20)).astype(np.float32) * (rng.random((12, 20)) < 0.1)
    ours, theirs = export.to_csr(w), scipy.sparse.csr_array(w)
    for field in ("data", "indices", "indptr"):
        assert np.array_equal(getattr(ours, field), getattr(theirs, field))
    assert np.array_equal(export.to_dense(ours), w)
    ours, theirs = export.to_bcsr(w, (3, 4)), scipy.sparse.bsr_array(w, blocksize=(3, 4))
    assert np.array_equal(ours.indptr, theirs.indptr)
    assert np.array_equal(export.to_dense(ours), w)
    assert export.to_csr(w).nbytes < w.nbytes / 2
    with pytest.raises(ValueError, match="matrix of blocks"):
        export.to_bcsr(w, (5, 4))


@pytest.mark.parametrize(("structure", "shape", "axis"), [
    ("2:4", (8, 3), -2), ("1:4", (3, 3, 8, 5), 2), ("5:8", (2, 4, 6), (0, 1)), ("2:3", (7, 9), 1),
    ("1:16", (5, 32), -1), ("4:4", (4, 2), 0), ("1:1", (2, 2), 0),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_packed_weights_come_back_and_take_the_bytes_they_say(structure, shape, axis, dtype):
    rng = np.random.default_rng(0)
    n, m = map(int, structure.split(":"))
    axes = (axis,) if isinstance(axis, int) else axis
    first = np.moveaxis(rng.standard_normal(shape).astype(dtype), axes, range(len(axes)))
    flat = first.reshape(-1, m, int(np.prod(first.shape[len(axes) :])))
    flat = np.where(np.argsort(rng.random(flat.shape), axis=1) < n, flat, np.zeros((), dtype))
    flat[0, :, 0] = 0  # A group that keeps nothing.
    w = np.moveaxis(flat.reshape(first.shape), range(len(axes)), axes)
    packed = export.to_nm(w, structure, axis)
    back = export.from_nm(packed)
    assert back.dtype == w.dtype
    assert np.array_equal(back, w)
    kept = w.size * n // m
    bits = kept * max(int(np.ceil(np.log2(m))), 1)
    assert packed.nbytes == kept * w.dtype.itemsize + -(-bits // 8)


def test_a_negative_zero_and_the_order_of_bits():
    w = np.array([[0.0, -0.0, 3.0, 0.0, 1.0, 2.0, 0.0, 0.0]], np.float32)
    packed = export.to_nm(w, "2:4", -1)
    assert np.array_equal(np.signbit(export.from_nm(packed)), np.signbit(w))
    product = np.array([[-3.0, -2.0, -1.0, 4.0]]) * np.array([[True, False, False, True]])
    assert np.array_equal(export.from_nm(export.to_nm(product, axis=-1)), [[-3, 0, 0, 4]])
    # Positions 1, 2, 0 and 1, two bits each, the first in the lowest.
    assert packed.positions.tolist() == [1 | 2 << 2 | 0 << 4 | 1 << 6]
    full = np.ones((4, 4), np.float32)
    for given, text in (
        (("2:4", 0), "w has 4 of 4 weights in group 0 of 4: not 2:4"),
        (("2:3", 0), "structure '2:3' needs a multiple of 3 entries: 4 along axis 0"),
        (("2:4", 5), r"axis must be axes of w, got 5 for shape \(4, 4\)"),
        (("2:4", (0, -2)), "axis names one axis twice"),
        (("filter", 0), "structure must be 'N:M'"),
    ):
        with pytest.raises(ValueError, match=text):
            export.to_nm(full, *given)
    with pytest.raises(ValueError, match="do not fit values of"):
        export.from_nm(packed._replace(positions=packed.positions[:0]))


def test_saved_nm_models_are_packed(tmp_path):
    rng = np.random.default_rng(0)
    params = {"a": {"kernel": rng.standard_normal((64, 32), np.float32), "bias": np.ones(32)}}
    masks = bilevel.masks.from_scores(bilevel.masks.prunable(params), structure="2:4")
    params = bilevel.masks.apply(masks, params)
    report = bilevel.sparsity_report(params, masks)
    for structure in ("2:4", "weight"):
        folder = tmp_path / structure.replace(":", "of")
        folder.mkdir()
        saved_model.save(folder, params, {}, masks, report, structure)
        again, _, kept = saved_model.load(folder)
        assert np.array_equal(again["a/kernel"], params["a"]["kernel"])
        assert np.array_equal(again["a/bias"], params["a"]["bias"])
        assert np.array_equal(kept["a/kernel"], masks["a"]["kernel"])
    sizes = [(tmp_path / name / "pruned.npz").stat().st_size for name in ("2of4", "weight")]
    assert sizes[0] < 0.9 * sizes[1]


@pytest.mark.parametrize(
    ("name", "structure"), [("cnn", "filter"), ("cnn", "channel"), ("resnet8", "filter")]
)
def test_smaller_model_has_the_masked_models_outputs(name, structure):
    make = {"cnn": models.MODELS["cnn"], "resnet8": resnet.resnet_cifar(8)}[name]
    model = models.from_nnx(lambda rngs: make((16, 16, 3), 5, rngs=rngs))
    params, stats = model.init(jax.random.key(0))
    chains = saved_model.chains(name, params, stats)
    assert len(chains) == {"cnn": 2, "resnet8": 3}[name]
    rng = np.random.default_rng(1)
    noisy = lambda x: np.asarray(x) + rng.uniform(0, 0.3, x.shape).astype(np.float32)  # noqa: E731
    params, stats = jax.tree.map(noisy, (params, stats))  # Biases and norms that matter.
    scores = bilevel.masks.prunable(params, structure=structure)
    masks = bilevel.masks.from_scores(scores, 0.5, structure=structure)
    masks = export.tie(params, masks, chains) if structure == "filter" else masks
    small, small_stats = export.shrink(params, stats, masks, chains)
    x = rng.standard_normal((4, 16, 16, 3), np.float32)
    forward = jax.jit(lambda p, s, x: model.apply(p, s, x, train=False)[0])
    masked = forward(bilevel.masks.apply(masks, params), stats, x)
    smaller = forward(small, small_stats, x)
    np.testing.assert_allclose(smaller, masked, rtol=1e-4, atol=1e-5 * np.abs(masked).max())
    count = lambda tree: sum(v.size for v in jax.tree.leaves(tree))  # noqa: E731
    assert count(small) < (0.75 if structure == "filter" else 0.95) * count(params)


CHAINS = {"vgg16_bn": 13, "wrn16_8": 6, "resnet18": 8, "resnet20": 9, "lenet5": 2, "mlp": 0}


@pytest.mark.parametrize("name", CHAINS)
def test_chains_of_the_other_models_fit(name):
    model = models.build(name, input_shape=(32, 32, 3), num_classes=10)
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    chains = saved_model.chains(name, params, stats)
    known = {**saved_model.named(params), **saved_model.named(stats)}
    assert len(chains) == CHAINS[name]
    for chain in chains:
        width = known[chain.producer].shape[-1]
        assert all(known[b].shape == (width,) for b in chain.between)
        assert known[chain.consumer].shape[-2] % width == 0
        assert len(chain.between) == {"vgg16_bn": 5, "lenet5": 1}.get(name, 4)


def test_a_filter_that_only_has_a_bias_left_is_silenced():
    params = {"a": jnp.ones((3, 4)), "b": jnp.arange(4.0), "c": jnp.ones((4, 2))}
    masks = {"a": jnp.array([[True, False, True, True]] * 3), "b": None, "c": None}
    chains = [export.Chain("a", ("b",), "c")]
    tied = export.tie(params, masks, chains)
    assert np.array_equal(tied["b"], [True, False, True, True])
    small, _ = export.shrink(params, {}, tied, chains)
    assert np.array_equal(small["b"], [0.0, 2.0, 3.0])


def test_bad_chains():
    params = {"a": jnp.ones((3, 4)), "c": jnp.ones((4, 2))}
    masks = {"a": jnp.zeros((3, 4), bool), "c": None}
    with pytest.raises(ValueError, match="no channel is left between a and c"):
        export.shrink(params, {}, masks, [export.Chain("a", (), "c")])
    with pytest.raises(ValueError, match="x is no leaf; there are a, c"):
        export.shrink(params, {}, masks, [export.Chain("a", (), "x")])
    with pytest.raises(ValueError, match="neither a nor c"):
        export.shrink(params, {}, {"a": None, "c": None}, [export.Chain("a", (), "c")])
