"""Config files, their arguments, and keys changed on the command line."""

import sys
from pathlib import Path

import pytest

from experiments.common import config_files, launch

FILES = [
    p
    for p in Path("configs").rglob("*.py")
    if p.name not in ("__init__.py", "common.py", "budgets.py", "loop_population.py")
    and not {"tables", "claims"} & set(p.parts)  # Not configs of a main, but rows of a page.
]
DIGITS = "configs/digits.py"


def changed(*arguments, file=DIGITS):
    rest, texts = config_files.overrides(arguments)
    assert not rest
    return config_files.override_texts(config_files.load(file), texts)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_an_unknown_argument_is_refused_with_the_known_ones(file):
    config_files.load(str(file))
    with pytest.raises(ValueError, match=r"argument must be .*, got 'smoek'"):
        config_files.load(f"{file}:smoek")


@pytest.mark.parametrize("file", [*FILES, Path("configs/loop_population.py")], ids=str)
def test_every_config_has_a_smoke_form(file):
    whole, smoke = config_files.load(str(file)), config_files.load(f"{file}:smoke")
    assert smoke.to_dict() != whole.to_dict()


def test_options_are_set_one_by_one():
    config = changed(
        "--config.model.options.dropout=0.3",
        "--config.schedule.d=0.9",
        "--config.optimizer.density",
        "0.25",
        "--config.optimizer.weight_decay=None",
        "--config.data.stream",
        "--config.data.name=123",
        "--config.data.options.standardize=true",
        "--config.epochs=3",
    )
    assert config.model.options.to_dict() == {"widths": (128, 64), "dropout": 0.3}
    assert (config.schedule.d, config.optimizer.density) == (0.9, 0.25)
    assert config.optimizer.weight_decay is None
    assert config.data.stream is config.data.options.standardize is True
    assert (config.data.name, config.epochs) == ("123", 3.0)


def test_a_choice_without_further_keys_goes_by_its_name():
    config = changed("--config.gradient=rge", "--config.gradient.samples=4")
    assert config.gradient.to_dict() == {"name": "rge", "samples": 4}


def test_another_model_starts_from_no_options():
    assert not changed("--config.model.name=resnet20").model.options
    assert changed("--config.model.name=mlp").model.options
    config = changed("--config.model.options.hidden=3", "--config.model.name=cnn")
    assert config.model.options.to_dict() == {"hidden": 3}
    refine = changed("--config.train.model.name=cnn", file="configs/refine/digits.py")
    assert not refine.train.model.options


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.model.nam=cnn", "no key 'model.nam'; nearest: model.name"),
        ("--config.widths=(3,)", "no key 'widths'; nearest: "),
        ("--config.learning_rate=1", "nearest: optimizer.learning_rate"),
        ("--config.optimizer=1", "no key 'optimizer'; nearest: optimizer.name"),
        ("--config.optimizer=lion", "no key 'optimizer'; nearest: optimizer.name"),
        ("--config.optimizer.name.x=1", "no key 'optimizer.name.x'; nearest: optimizer.name"),
        ("--config.batch_size", "batch_size holds 64 and cannot be set to True"),
        ("--config.model.name", "model.name holds 'mlp' and cannot be set to True"),
        ("--config.model.options.widths", r"widths holds \(128, 64\) and cannot be set to True"),
        ("--config.optimizer.learning_rate=true", "cannot be set to True"),
        ("--config.optimizer.name=None", "optimizer.name holds 'adamw' and cannot be set to None"),
        ("--config.batch_size=many", "batch_size holds 64 and cannot be set to 'many'"),
    ],
)
def test_bad_keys_and_values(argument, message):
    with pytest.raises(ValueError, match=message):
        changed(argument)


def test_a_key_of_one_group_comes_before_the_same_argument_of_an_optimizer():
    with pytest.raises(ValueError, match=r"no key 'density'; nearest: prune\.density"):
        changed("--config.density=0.1", file="configs/pruning/digits.py")


def test_a_model_of_ones_own_that_changed_is_another_run(tmp_path):
    config, mine = config_files.load(DIGITS), tmp_path / "mine.py"
    mine.write_text("import math\n")
    before = launch.default_workdir(config, mine)
    assert before == launch.default_workdir(config, mine)
    assert before != launch.default_workdir(config, mine, [3])
    mine.write_text("import math  # Another model.\n")
    assert before != launch.default_workdir(config, mine)
    assert before.startswith("runs/mine-")


def test_a_missing_file_or_function(tmp_path):
    with pytest.raises(ValueError, match=r"there is no config file .*nix\.py"):
        config_files.load("nix.py:smoke")
    (tmp_path / "a.py").write_text("")
    with pytest.raises(ValueError, match="has no get_config"):
        config_files.load(str(tmp_path / "a.py"))


def test_a_path_may_hold_colons_and_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "a:b.py:c"
    folder.mkdir()
    (folder / "mine.py").write_text("def get_config(arg=''): return arg")
    assert config_files.load(str(folder / "mine.py")) == ""
    assert config_files.load(f"{folder / 'mine.py'}:smoke,x:1") == "smoke,x:1"
    assert config_files.load("~/a:b.py:c/mine.py:smoke") == "smoke"


def test_a_configs_folder_of_ones_own_stands_beside_that_of_the_project(tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("")
    (tmp_path / "configs" / "words.py").write_text("SEED = 7")
    mine = tmp_path / "configs" / "mine.py"
    mine.write_text(
        "from configs import common, words\n"
        "def get_config():\n"
        "    config = common.supervised()\n"
        "    config.seed = words.SEED\n"
        "    return config\n"
    )
    for _ in range(2):
        assert config_files.load(DIGITS).data.name == "digits"
        assert config_files.load(str(mine)).seed == 7
    (tmp_path / "configs" / "common.py").write_text("raise ImportError('not mine')")
    assert config_files.load(DIGITS).data.name == "digits"
