"""The README's example runs as it stands there."""

import re
from pathlib import Path

import jax
import numpy as np

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_first_example_trains():
    (code, *_) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(code.strip().splitlines()) <= 10
    names = {}
    exec(code, names)
    first = names["loss"]({"kernel": jax.numpy.ones((3, 2))}, names["x"])
    assert names["loss"](names["params"], names["x"]) < 0.5 * first


def test_files_and_commands_it_names_exist():
    root = Path(__file__).parent.parent
    for name in re.findall(r"(?:configs|benchmarks|experiments|results)/[\w/.]+\w", README):
        assert (root / name).exists() or "NAME" in name, name
    for module in re.findall(r"python -m ((?:experiments|benchmarks)[\w.]+\w)", README):
        assert (root / (module.replace(".", "/") + ".py")).exists(), module


def test_its_models_and_data_run_as_they_stand_there():
    part = README[README.index("## Models and data") :]
    first, own = re.findall(r"```python\n(.*?)```", part, flags=re.DOTALL)[:2]
    names = {}
    exec(first, names)
    assert names["logits"].shape == (64, 10)
    assert 0.0 <= float(names["batch"]["x"].min()) <= float(names["batch"]["x"].max()) <= 1.0

    from experiments import data, models
    from experiments.supervised import optimizers, training

    x, y = np.zeros((80, 5)), np.arange(80) % 2
    mine = {"x": x, "y": y, "x_test": x, "y_test": y}
    mine |= {"MyModule": models.MODELS["logistic"], "my_optimizer": optimizers.OPTIMIZERS["adam"]}
    try:
        exec(own, mine)
        job = training.job_of(mine["get_config"](), None)
    finally:
        for registry in (models.MODELS, data.DATASETS, optimizers.OPTIMIZERS):
            registry.pop("mine", None)
    assert job.epoch == 1
