"""The pruning main on sparse training and calibrated pruning: every method ends where it should."""

import jax
import numpy as np
import pytest

import bilevel
from configs.pruning import digits, sparse_digits
from experiments import prune
from experiments.pruning import methods, sparse_methods

FROM_START = {"static", "rigl", "set", "granet_sparse", "itop", "momentum"}
SHARED = {"rps", "roast", "hashednet"}
CALIBRATED = {"wanda", "gblm", "sparsegpt", "dsnot", "flap", "rd_dp", "evopress"}


def config(method, **changes):
    c = sparse_digits.get_config("smoke")
    c.model.options = {"widths": (16, 8)}
    c.epochs, c.batch_size, c.log_every = 0.5, 128, 3
    c.prune.rewind_epochs, c.prune.method, c.prune.every_epochs = 0.2, method, 0.1
    for key, value in changes.items():
        c.prune[key] = value
    return c


@pytest.fixture(scope="module")
def memo():
    return prune.Memo()


@pytest.mark.parametrize("method", sparse_methods.METHODS)
def test_every_method_has_a_plan(method):
    c = config(method, structure="2:4" if method in sparse_methods.NM else "weight", rounds=2)
    job = methods.job_of(c, None)
    dataset, _ = methods.data_of(c, None)
    state, stages = methods.plan(job, c, dataset)
    one = method in FROM_START | SHARED or method in sparse_methods.NM
    after = [s for s in stages if s.method]
    steps = {True: job.steps, False: 0}[method not in CALIBRATED]
    assert [s.steps for s in after] == [steps] * (
        1 if one or method in {*CALIBRATED, "jackpot"} else 2
    )
    assert len(stages) - len(after) == (0 if one else 2)
    assert len({s.key for s in stages}) == len(stages)
    if method in FROM_START:
        want = 0.5 * (64 * 16 + 16 * 8 + 8 * 10)
        assert abs(int(bilevel.masks.count(state.masks)) - want) < 1


@pytest.mark.parametrize(("method", "changes", "density"), [
    ("granet_sparse", {"density": 0.2}, 0.2), ("itop", {}, 0.5),
    ("sdgf", {"structure": "2:4"}, 0.5), ("global", {"min_keep": 60, "density": 0.2}, 0.2),
    ("lamp", {"rounds": 2}, 0.5), ("uniform_plus", {"length": 0}, 0.5), ("sap", {}, None),
    ("rps", {"density": 0.1}, 0.1), ("jackpot", {}, 0.5),
    ("global", {"rounds": 2, "retrain": "lora", "density": 0.4}, 0.4),
    ("wanda", {"structure": "2:4"}, 0.5), ("gblm", {}, 0.5), ("flap", {"length": 1}, None),
])  # fmt: skip
def test_runs_end_at_their_density(method, changes, density, memo):
    result = prune.run(config(method, **changes), quiet=True, memo=memo)
    total = 64 * 16 + 16 * 8 + 8 * 10
    if density is None:
        assert 0.3 < result.final["density"] < 1
    else:
        assert abs(result.final["density"] - density) <= 3 / total
    assert 0 <= result.final["test/accuracy"] <= 1
    if "min_keep" in changes:
        assert result.final["density/layers_2/kernel"] * 80 >= 60 - 1e-3
    steps = {"gblm": 0, "wanda": 0, "uniform_plus": 0, "lamp": 12, "sap": 4}
    assert result.final["gradients"] == steps.get(method, 6 * changes.get("rounds", 1))


def test_rounds_of_sap_cut_by_what_was_trained():
    c = config("sap")
    job, (dataset, _) = methods.job_of(c, None), methods.data_of(c, None)
    state, stages = methods.plan(job, c, dataset)
    # A quarter of equal weights, the others next to nothing: the index says a quarter.
    few = jax.tree.map(lambda w: np.float32(1e-6) + (np.arange(w.size) % 4 == 0).reshape(w.shape),
                       state.y)  # fmt: skip
    new = stages[-1].enter(state._replace(y=jax.tree.map(jax.numpy.float32, few)))
    assert 0.25 <= float(bilevel.masks.density(new.masks)) < 0.26
    kept = np.asarray(new.masks["layers_0"]["kernel"])
    assert np.array_equal(kept.ravel(), np.arange(kept.size) % 4 == 0)
    assert np.array_equal(np.asarray(new.y["layers_0"]["kernel"])[kept],
                          np.asarray(state.y["layers_0"]["kernel"])[kept])  # fmt: skip


def test_levels_that_are_searched_keep_to_the_density():
    c = config("rd_dp", density=0.3)
    job, (dataset, _) = methods.job_of(c, None), methods.data_of(c, None)
    state, stages = methods.plan(job, c, dataset)
    found = stages[-1].enter(state).masks
    sizes = np.array([64 * 16, 16 * 8, 8 * 10])
    kept = np.array([int(m.sum()) for m in jax.tree.leaves(found)])
    assert 0.2 < kept.sum() / sizes.sum() <= 0.3
    assert np.ptp(kept / sizes) > 0.02

    c = config("evopress", density=0.3)
    state, stages = methods.plan(job, c, dataset)
    found = stages[-1].enter(state).masks
    assert int(bilevel.masks.count(found)) == sizes.sum() - sum(int(0.7 * n) for n in sizes)
    batch = job.prepare(dataset.train, np.arange(500), jax.random.key(0))
    alike = bilevel.masks.from_scores(bilevel.masks.prunable(state.y), 0.3, scope="layer")
    loss = jax.jit(lambda masks: job.problem.lower(masks, state.y, batch, state.stats)[0])
    assert float(loss(found)) < float(loss(alike)) - 0.01


def test_what_a_config_must_have():
    c = digits.get_config("smoke")
    c.prune.method = "rigl"
    with pytest.raises(ValueError, match=r"needs the keys of configs\.pruning\.common\.sparse"):
        prune.run(c, quiet=True)
    for method, changes, text in (
        ("rigl", {"allocator": "layer"}, "prune.allocator must be one of global, erk, uniform"),
        ("rigl", {"length": 0}, "prune.length must be an integer >= 1"),
        ("ste", {}, "structure must be 'N:M'"), ("sap", {"rounds": 0}, "prune.rounds must"),
        ("wanda", {"calibration": 0}, "prune.calibration must"),
        ("wanda", {"retrain": "biases"}, "prune.retrain must be one of all, bias, lora"),
        ("global", {"retrain": "lora", "rank": 0}, "prune.rank must be an integer >= 1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            prune.run(config(method, **changes), quiet=True)


def test_uniform_plus_knows_the_first_convolution_and_the_classifier_by_their_shapes():
    shapes = {"classifier": (30, 10), "conv_0": (3, 3, 1, 4), "hidden": (36, 30)}
    rng = np.random.default_rng(0)
    chosen = {name: np.float32(rng.normal(size=shape)) for name, shape in shapes.items()}
    prune = sparse_digits.get_config().prune
    prune.method = "uniform_plus"
    masks = sparse_methods._magnitude_masks(chosen, 0.1, prune, classes=10)
    kept = {name: int(np.sum(mask)) for name, mask in masks.items()}
    # A tenth of 1416 in all, 141.6: all 36, a fifth of 300, and what is left.
    assert kept == {"conv_0": 36, "classifier": 60, "hidden": 46}
