"""Sweep expressions: algebra, errors, round trip, overrides."""

import ml_collections
import pytest
from ml_collections import config_dict

from experiments.common import config_files
from experiments.tables import sweep


def _config():
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1e-3,
                "weight_decay": config_dict.placeholder(float),
            },
            "model": {"name": "mlp", "options": {}},
        }
    )


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("", [{}]),
        ("a=1", [{"a": 1}]),
        ("a=[1, 2.5, x, None, 'y z']", [{"a": v} for v in (1, 2.5, "x", None, "y z")]),
        ("a=1e-4", [{"a": 1e-4}]),
        ("a=-1", [{"a": -1}]),
        ("a=True", [{"a": True}]),
        ("a=(300, 100)", [{"a": (300, 100)}]),
        ("a=[(300, 100), (8,)]", [{"a": (300, 100)}, {"a": (8,)}]),
        ("a=range(3)", [{"a": 0}, {"a": 1}, {"a": 2}]),
        ("a=range(3, 5)", [{"a": 3}, {"a": 4}]),
        ("a=[1, 2], b.c=[x, y]", [{"a": a, "b.c": b} for a in (1, 2) for b in "xy"]),
        ("product(a=[1, 2], b=[x, y],)", [{"a": a, "b": b} for a in (1, 2) for b in "xy"]),
        ("zip(a=[1, 2], b=[x, y])", [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]),
        ("chain(a=[1, 2], b=x)", [{"a": 1}, {"a": 2}, {"b": "x"}]),
        (
            "product(chain(zip(a=[1, 2], b=[3, 4]), product(a=5, b=6)), seed=range(2))",
            [{"a": a, "b": b, "seed": s} for a, b in ((1, 3), (2, 4), (5, 6)) for s in (0, 1)],
        ),
    ],
)
def test_algebra(expression, expected):
    assert sweep.parse(expression) == expected


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("zip(a=[1, 2], b=[1, 2, 3])", "equal length: a has 2, b has 3"),
        ("product(a=1, a=2)", "key a is set twice"),
        ("a=[1, 2, 1]", "points 1 and 3 are the same: a=1"),
        ("chain(a=1, product(a=1))", "points 1 and 2 are the same"),
        ("prod(a=1)", "unknown word 'prod'; there are product, zip and chain"),
        ("a", "expected '='"),
        ("a=", "expected a value"),
        ("a=[]", "empty list"),
        ("a=1 b=2", "expected ',', at the mark in 'a=1 >>>  b=2'"),
        ("a=[1, 2", "expected ','"),
        ("a=range(x)", "range takes"),
        ("a='x", "unclosed quote"),
        ("(a=1)", "expected key=value"),
    ],
)
def test_errors_name_the_problem(expression, message):
    with pytest.raises(ValueError) as error:
        sweep.parse(expression)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "point",
    [{"a.b": 1e-05, "c": "x"}, {"a": (1, "y z"), "b": None}, {"a": "1"}, {"a": (0.5,), "b": True}],
)
def test_text_parses_back(point):
    assert sweep.parse(sweep.text(point)) == [point]


def test_override_copies_and_keeps_types():
    config = _config()
    new = config_files.override(config, {"optimizer.learning_rate": 1, "optimizer.weight_decay": 2})
    assert new.optimizer.to_dict() == {"name": "adamw", "learning_rate": 1.0, "weight_decay": 2.0}
    assert type(new.optimizer.weight_decay) is float
    assert config.optimizer.to_dict() == _config().optimizer.to_dict()


def test_options_take_new_keys():
    new = config_files.override(_config().lock(), {"model.options.widths": (8,), "model.name": "x"})
    assert new.model.to_dict() == {"name": "x", "options": {"widths": (8,)}}
    assert new.is_locked


def test_an_open_group_takes_new_keys():
    new = config_files.override(
        _config().lock(), {"optimizer.density": 0.25, "optimizer.name": "frugal"}
    )
    assert (new.optimizer.density, new.is_locked) == (0.25, True)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"model.nam": 1.0}, "no key 'model.nam'; nearest: model.name"),
        ({"learning_rate": 1.0}, "nearest: optimizer.learning_rate"),
        ({"optimizer": 1}, "no key 'optimizer'"),
        ({"optimizer.options.x": 1}, "no key 'optimizer.options.x'"),
        ({"seed": "x"}, "seed holds 0 and cannot be set to 'x'"),
    ],
)
def test_override_refuses(point, message):
    with pytest.raises(ValueError) as error:
        config_files.override(_config(), point)
    assert message in str(error.value)


def test_configs_of_one_main():
    named = sweep.configs(_config(), "optimizer.name=[adamw, lion], seed=range(2)")
    assert [(n, c.optimizer.name, c.seed) for n, c in named][-1] == (
        "optimizer.name=lion, seed=1",
        "lion",
        1,
    )
    # 1 and 1.0 are different points, but the field is a float and the configs are equal.
    with pytest.raises(ValueError, match="duplicate runs"):
        sweep.configs(_config(), "optimizer.learning_rate=[1, 1.0]")
