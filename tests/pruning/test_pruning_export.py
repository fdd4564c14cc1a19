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
