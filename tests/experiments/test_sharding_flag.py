"""``--sharding`` of the mains, and ``--plan`` of the one that trains."""

import shutil

import jax
import numpy as np
import pytest

import optim
from experiments import models, prune, solve, train
from experiments.common import config_files, launch
from experiments.models import llama
from experiments.supervised import plan, training


@pytest.fixture
def config():
    config = config_files.load("configs/digits.py:smoke")
    config.steps = 6
    config.batch_size = 96  # Not a width of the model.
    config.model.options.widths = (64,)
    config.log_every = config.eval_every = config.save_every = 3
    config.optimizer.name, config.optimizer.weight_decay = "sgd", None  # Factors show.
    config.optimizer.learning_rate = 0.1
    return config


@pytest.fixture
def held(monkeypatch):
    """What one device has of the large leaves of each state that goes into the loop."""
    seen, run = [], optim.loop.run

    def watched(step, state, *args, **options):
        large = [x for x in jax.tree.leaves(state) if x.size >= 1024]
        own = sum(x.addressable_shards[0].data.nbytes for x in large)
        seen.append(own / sum(x.nbytes for x in large))
        return run(step, state, *args, **options)

    monkeypatch.setattr(optim.loop, "run", watched)
    for module, draw in ((train.curves, "draw_curves"), (solve.curves, "draw")):
        monkeypatch.setattr(module, draw, lambda *arguments: None)  # Seconds of matplotlib.
    monkeypatch.setattr(prune.pictures, "layers", lambda *arguments: None)
    return seen


def _check_resumed(main, config, folder, monkeypatch, held, *, after, on, rtol=1e-9):
    """What eight devices began goes on on so many, the last is one, as on one alone."""
    mesh = optim.parallel.data_mesh
    with pytest.raises(launch.Preempted):
        main(config, folder / "8", quiet=True, sharding="fsdp", stop=lambda step: step >= after)
    assert {*held} == {1 / 8}
    found = []
    for count in on:
        held.clear()
        monkeypatch.setattr(jax, "device_count", lambda count=count: count)
        monkeypatch.setattr(
            optim.parallel, "data_mesh", lambda count=count: mesh(jax.devices()[:count])
        )
        shutil.copytree(folder / "8", folder / str(count))
        found.append(main(config, folder / str(count), quiet=True, sharding="fsdp").final)
        assert {*held} == {1 / count}
    alone = main(config, folder / "alone", quiet=True).final
    for resumed in found:
        for key in [k for k in alone if "seconds" not in k]:
            np.testing.assert_allclose(resumed[key], alone[key], rtol=rtol, err_msg=key)


def test_training_goes_on_on_another_number_of_devices(config, tmp_path, monkeypatch, held):
    def main(config, folder, **options):
        return train.run_population([config], folder, **options)[0]

    with jax.enable_x64(True):
        _check_resumed(main, config, tmp_path, monkeypatch, held, after=3, on=(2, 1))


def test_pruning_goes_on_on_another_number_of_devices(tmp_path, monkeypatch, held):
    config = config_files.load("configs/pruning/digits.py:smoke")
    config.epochs, config.batch_size, config.log_every = 0.3, 128, 2
    config.prune.rewind_epochs, config.prune.density = 0.0, 0.5
    config.model.options.widths, config.prune.method = (32,), "bip"
    with jax.enable_x64(True):  # After 5 steps BiP has begun.
        _check_resumed(prune.run, config, tmp_path, monkeypatch, held, after=5, on=(1,))
    with np.load(tmp_path / "1" / "pruned.npz") as a, np.load(tmp_path / "alone/pruned.npz") as b:
        assert all(np.array_equal(a[k] != 0, b[k] != 0) for k in b)


def test_solving_goes_on_on_another_number_of_devices(tmp_path, monkeypatch, held):
    config = config_files.load("configs/bilevel/cleaning_digits.py:soba,smoke")
    config.problem.options = {"train": 1024, "valid": 200, "hidden": (32,)}
    _check_resumed(solve.run, config, tmp_path, monkeypatch, held, after=2, on=(1,), rtol=1e-6)


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
    assert f": up to {one['gradients'] / 2**30:.3f} GiB for a while." in text
    assert f"{sum(v for k, v in one.items() if k != 'whole') / 2**30:.3f} GiB" in text


def test_recomputed_blocks_keep_less_and_give_the_same_gradient(monkeypatch):
    monkeypatch.setitem(llama.SIZES, "tiny", (16, 40, 1, 2))
    tokens = np.random.default_rng(0).integers(0, 65, (2, 16)).astype(np.int32)
    kept, gradients = [], []
    for remat in (False, True):
        model = models.build("llama", input_shape=(16,), num_classes=65, size="tiny", remat=remat)
        params, _ = jax.jit(model.init)(jax.random.key(0))

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
        train.run_population([config, other], tmp_path / "run", sharding="fsdp")
    with pytest.raises(ValueError, match="convolutions"):
        train.run_population([config], tmp_path / "run", convolutions="XLA")
    with pytest.raises(ValueError, match="--plan must be numbers of devices"):
        plan.parse_devices("8,many")
    assert plan.parse_devices("8,64") == [8, 64]
    cleaning = config_files.load("configs/bilevel/cleaning_digits.py:smoke")
    cleaning.batch_size = 12
    pruning = config_files.load("configs/pruning/digits.py:smoke")
    pruning.model.options.widths = (8,)
    config.model.options.widths = ()
    three = [config.copy_and_resolve_references() for _ in range(3)]
    for i, one in enumerate(three):
        one.optimizer.learning_rate = 0.1 + i
    for main, own, sharding, message in (
        (train.run_population, three, "replicated", "runs must be a multiple of the 8 devices"),
        (train.run_population, [config], "zero", "sharding must be one of replicated, fsdp, got"),
        (train.run_population, [config], "fsdp", "fsdp splits nothing over 8 devices: no leaf"),
        (prune.run, pruning, "fsdp", "fsdp splits nothing over 8 devices"),
        (solve.run, cleaning, "fsdp", "batch_size must be a multiple of the 8 devices, got 12"),
    ):
        with pytest.raises(ValueError, match=message):
            main(own, tmp_path / "run", sharding=sharding)
    assert not any(tmp_path.iterdir())  # It stopped before it left anything.


def test_the_flag_of_convolutions_reaches_the_loop(config, monkeypatch):
    def run(*args, convolutions, **more):
        raise InterruptedError(convolutions)

    monkeypatch.setattr(optim.loop, "run", run)
    with pytest.raises(InterruptedError, match="xla"):
        train.run_population([config], convolutions="xla")
