"""The logistic-regression suite against an independent implementation, on Fisher's iris."""

import json
from pathlib import Path

import jax
import pytest
from sklearn.datasets import load_iris

from configs import logreg as config_file
from experiments import logreg
from experiments.common import figures
from experiments.schedules import logreg_report

REFERENCE = Path(__file__).parents[1] / "reference" / "schedules" / "logreg_iris.json"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A folder with iris.scale: features scaled to [-1, 1], and the errata of the UCI file."""
    x = load_iris().data.copy()
    x[34, 3], x[37, 1], x[37, 2] = 0.1, 3.1, 1.5
    x = 2 * (x - x.min(0)) / (x.max(0) - x.min(0)) - 1
    rows = [
        f"{label + 1} " + " ".join(f"{i + 1}:{v:.6g}" for i, v in enumerate(row) if v != 0)
        for row, label in zip(x, load_iris().target, strict=True)
    ]
    folder = tmp_path_factory.mktemp("data") / "libsvm"
    folder.mkdir()
    (folder / "iris.scale").write_text("\n".join(rows) + "\n")
    return str(folder.parent)


@pytest.mark.fidelity
def test_runs_equal_the_independent_implementation(data_dir):
    config = config_file.get_config()
    reference = json.loads(REFERENCE.read_text())["iris.scale|sgd"]
    with jax.enable_x64(True):
        entry = logreg.run_set(config, "iris.scale", "sgd", data_dir)
    assert entry["pilot_lr"] == reference["pilot_lr"]
    results = {"iris.scale|sgd": entry}
    near, far = logreg_report.compare(results, {"iris.scale|sgd": reference}, 1e-7)
    assert near.size > 120
    assert far > 0
    assert near.max() < 1e-5
    refined = entry["schedules"]["refined"]
    # Its pilot is a stable run here, so its schedule is the same one.
    assert refined["loss_mean"] == pytest.approx(
        reference["schedules"]["refined"]["loss_mean"], rel=1e-5
    )
    text = logreg_report.report(results, {"iris.scale|sgd": reference}, ("wine.scale",))
    assert "| iris.scale | 900 | 0.0495 ± 0.0098 (10) |" in text
    assert "Against the reference" in text
    assert "median gap +8.0 %" in text


def test_ranks_and_a_reference_of_other_rates():
    def entry(*losses):
        names = ("linear", "rex", "refined")
        return {
            "schedules": {n: {"loss_mean": x} for n, x in zip(names, losses, strict=True)},
            "learning_rates": [0.1],
            "steps": 5,
        }

    sets = {"a": entry(1.0, 2.0, 3.0), "b": entry(2.0, 1.0, 3.0), "out": entry(3.0, 2.0, 1.0)}
    assert logreg_report.ranks(sets, ("out",)) == {"linear": 1.5, "rex": 1.5, "refined": 3.0}
    with pytest.raises(ValueError, match=r"other learning rates for a\|sgd"):
        logreg_report.compare({"a|sgd": sets["a"]}, {"a|sgd": {"lrs": [1], "T": 5}})


def test_the_worst_schedules_do_not_set_the_scale(tmp_path, monkeypatch):
    losses = {"linear": 1.0, "rex": 0.9, "constant": 50.0}
    entry = {"schedules": {k: {"loss_mean": x} for k, x in losses.items()}}
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
    separated = {"schedules": {k: {"loss_mean": 1e-9} for k in losses}}
    logreg_report.draw({"a|sgd": entry, "b|sgd": separated}, tmp_path / "losses.png")
    (axis,) = drawn[0].axes
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["a"]
    assert "without b, where linear decay ends below 1e-06" in axis.get_title()
    assert axis.get_ylim()[1] < 1.1 * logreg_report.FAR
    assert {line.get_linestyle() for line in axis.lines} == {"None", "-"}  # Dots, and linear.
