"""``--sharding`` and ``--plan`` of the main that trains."""

import shutil

import jax
import numpy as np
import pytest

import optim
from experiments import models, train
from experiments.common import config_files, launch
from experiments.supervised import plan, training


@pytest.fixture
def config():
    config = config_files.load("configs/digits.py:smoke")
    config.steps = 6
    config.batch_size = 96  # Not a width of the model.
    config.model.options.widths = (64,)
    config.log_every = config.eval_every = config.save_every = 3
    return config


def test_what_eight_devices_began_goes_on_on_two_and_on_one_as_on_one_alone(
    config, tmp_path, monkeypatch
):
    config.optimizer.name, config.optimizer.weight_decay = "sgd", None  # Factors show.
    config.optimizer.learning_rate = 0.1
    seen, run, mesh = [], optim.loop.run, optim.parallel.data_mesh

    def watched(step, state, *args, **options):
        kernel = state.params["layers_0"]["kernel"]
        seen.append([s.data.size for s in kernel.addressable_shards])
        return run(step, state, *args, **options)

    monkeypatch.setattr(optim.loop, "run", watched)
    half = tmp_path / "half"
    with pytest.raises(launch.Preempted):
        train.run_population([config], half, sharding="fsdp", stop=lambda step: True)
    shutil.copytree(half, tmp_path / "on 2")
    monkeypatch.setattr(optim.parallel, "data_mesh", lambda: mesh(jax.devices()[:2]))
    (two,) = train.run_population([config], tmp_path / "on 2", sharding="fsdp")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    one, alone = train.run(config, half), train.run(config, tmp_path / "alone")
    size = 64 * 64
    assert seen == [[size // 8] * 8, [size // 2] * 2, [size], [size]]
    for key, value in alone.final.items():
        for resumed in (two, one):
            np.testing.assert_allclose(resumed.final[key], value, rtol=1e-5, err_msg=key)


def test_plan_counts_bytes(config):
    job = training.job_of(config, None)
    state = jax.eval_shape(job.init, jax.random.key(0), 0.1, 0.0)
    kernels = (64 * 64 + 64 * 10) * 4
    biases = (64 + 10) * 4
    assert sum(4 * x.size for x in jax.tree.leaves(state.params)) == kernels + biases
    one = plan.sizes(config, None, 1, "replicated")
    eight = plan.sizes(config, None, 8)
    assert one["parameters"] == one["gradients"] == kernels + biases
    assert eight["parameters"] == 64 * 64 * 4 // 8 + 64 * 10 * 4 + biases
    # What backpropagation keeps for an example, from 96, 48 and 12 of them.
    kept = [plan.sizes(config, None, n)["activations"] for n in (1, 2, 8)]
    assert (kept[0] - kept[1]) / 48 == (kept[1] - kept[2]) / 36 > 64 * 4
    text = plan.markdown_of(config, None, [1, 8])
    assert "| 8 | 12 |" in text
    assert f"{sum(v for k, v in one.items() if k != 'whole') / 2**30:.3f} GiB" in text


def test_recomputed_blocks_keep_less_and_give_the_same_gradient():
    tokens = np.random.default_rng(0).integers(0, 65, (2, 16)).astype(np.int32)
    kept, gradients = [], []
    for remat in (False, True):
        model = models.build("llama", input_shape=(16,), num_classes=65, remat=remat)
        params, _ = model.init(jax.random.key(0))

        def loss(p, model=model):
            logits, _ = model.apply(p, {}, tokens, train=True)
            return (logits**2).mean()

        gradients.append(jax.jit(jax.grad(loss))(params))
        residuals = jax.eval_shape(lambda p, loss=loss: jax.vjp(loss, p)[1], params)
        kept.append(sum(x.size for x in jax.tree.leaves(residuals)))
    assert kept[1] < 0.8 * kept[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-8), *gradients)


def test_what_cannot_be_split(config, tmp_path):
    with pytest.raises(ValueError, match="batch_size must be a multiple of 7, got 96"):
        plan.sizes(config, None, 7)
    other = config.copy_and_resolve_references()
    other.seed = 1
    with pytest.raises(ValueError, match="splits one run"):
        train.run_population([config, other], sharding="fsdp")
    with pytest.raises(ValueError, match="sharding"):
        train.run_population([config], sharding="zero")
    with pytest.raises(ValueError, match="--plan must be numbers of devices"):
        plan.parse_devices("8,many")
    assert plan.parse_devices("8,64") == [8, 64]
