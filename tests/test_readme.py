"""The README's examples run as they stand there, and what it names exists."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TRAIN = (ROOT / "docs" / "mains" / "train.md").read_text(encoding="utf-8")
OWN = (ROOT / "docs" / "answers" / "own_model.md").read_text(encoding="utf-8")
PAGES = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "docs").glob("[agm]*s/*.md")}


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_the_optimizer_trains():
    names = {}
    exec(blocks(README)[0], names)
    assert names["losses"][-1] < 0.5 * names["losses"][0]


def test_the_bilevel_problem_is_solved():
    names = {}
    exec(blocks(README)[1], names)
    assert names["metrics"]["upper"][-1] < 0.1 * names["metrics"]["upper"][0]


def test_the_model_is_pruned_to_the_weights_that_count():
    names = {}
    exec(blocks(README)[2], names)
    assert np.flatnonzero(names["masks"]["w"]).tolist() == [0, 1]


@pytest.mark.parametrize("name", ["README.md", *sorted(PAGES)])
def test_files_and_commands_it_names_exist(name):
    text = README if name == "README.md" else PAGES[name]
    for path in re.findall(r"(?:configs|benchmarks|experiments|results|examples)/[\w/.]+\w", text):
        assert (ROOT / path).exists() or re.search("NAME|FILE|/compare/", path), path
    for module in re.findall(r"python -m ((?:experiments|benchmarks|docs)[\w.]+\w)", text):
        file = ROOT / module.replace(".", "/")
        assert file.with_suffix(".py").exists() or (file / "__main__.py").exists(), module
    for link in re.findall(r"\]\(([\w./-]+)(?:#\w+)?\)", text) if name == "README.md" else ():
        assert (ROOT / link).exists(), link


def test_models_and_data_run_as_they_stand_there():
    names = {}
    exec(blocks(TRAIN)[0], names)
    assert names["logits"].shape == (64, 10)
    assert 0.0 <= float(names["batch"]["x"].min()) <= float(names["batch"]["x"].max()) <= 1.0

    from experiments import data, models
    from experiments.supervised import optimizers, training

    x, y = np.zeros((80, 5)), np.arange(80) % 2
    mine = {"x": x, "y": y, "x_test": x, "y_test": y}
    mine |= {"MyModule": models.MODELS["logistic"], "my_optimizer": optimizers.OPTIMIZERS["adam"]}
    try:
        exec(blocks(OWN)[0], mine)
        job = training.job_of(mine["get_config"](), None)
    finally:
        for registry in (models.MODELS, data.DATASETS, optimizers.OPTIMIZERS):
            registry.pop("mine", None)
    assert job.epoch == 1
