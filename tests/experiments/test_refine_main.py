"""Norm files, and the main that goes from a pilot to a comparison."""

import json
import re

import jax
import numpy as np
import pytest
from absl import flags

import optim
from configs.refine import digits
from experiments import refine
from experiments.common import checkpoints
from experiments.schedules.norm_files import read_norms
from experiments.supervised import curves

NORMS = np.array([9.0, 8.0, 1.5, 2.5, 3.5, 7.0, 6.0])


def test_wandb_export_is_read_as_the_authors_do(tmp_path):
    file = tmp_path / "rcnn_gnorm.csv"
    rows = ['"Step","run-1 - gnorm","run-1 - gnorm__MIN","run-1 - gnorm__MAX"']
    rows += [f'"{10 * i}","{v}","{v}","{v}"' for i, v in enumerate(NORMS)]
    rows.insert(3, '"15","Infinity","1","1"')
    file.write_text("\n".join(rows) + "\n")
    with pytest.warns(UserWarning, match="dropped 1 non-finite norms"):
        norms = read_norms(file)
    np.testing.assert_array_equal(norms, NORMS[2:-2])


def test_other_norm_files(tmp_path):
    np.save(tmp_path / "a.npy", NORMS)
    np.savez(tmp_path / "b.npz", pilot_norms=NORMS, other=NORMS[:2])
    rows = [json.dumps({"step": i, "gradient_norm": v}) for i, v in enumerate(NORMS)]
    (tmp_path / "c.jsonl").write_text("\n".join([*rows, '{"step": 9}']) + "\n")
    (tmp_path / "d.csv").write_text("\n".join(map(str, NORMS)))
    (tmp_path / "e.csv").write_text(
        "step,l1\n" + "\n".join(f"{i},{v}" for i, v in enumerate(NORMS))
    )
    for name, column in [("a.npy", None), ("b.npz", None), ("c.jsonl", None), ("d.csv", None)]:
        np.testing.assert_array_equal(read_norms(tmp_path / name, column), NORMS)
    np.testing.assert_array_equal(read_norms(tmp_path / "e.csv", "l1"), NORMS)
    with pytest.raises(ValueError, match=re.escape("columns step, l1: choose one with --column")):
        read_norms(tmp_path / "e.csv")
    with pytest.raises(ValueError, match="no column 'l2'"):
        read_norms(tmp_path / "e.csv", "l2")
    with pytest.raises(FileNotFoundError, match=r"there is no norm file .*f\.csv"):
        read_norms(tmp_path / "f.csv")
    (tmp_path / "g.csv").write_text("norm\n1.0\nx\n")
    with pytest.raises(ValueError, match="line 3: expected a number in 'norm'"):
        read_norms(tmp_path / "g.csv")
    (tmp_path / "n.jsonl").write_text('{"norm": 1.0}\n{"norm": null}\n')
    np.testing.assert_array_equal(read_norms(tmp_path / "n.jsonl"), [1.0, np.nan])


BROKEN = [
    ("h.npy", b"broken", r"h\.npy cannot be read"),
    ("i.npy", b"", r"i\.npy cannot be read"),
    ("j.npz", b"broken", r"j\.npz cannot be read"),
    ("k.jsonl", b'{"norm": 1.0}\n17\n', "line 2: expected an object"),
    ("l.jsonl", b'{"norm": 1.0}\n{"norm": "x"}\n', "line 2: expected a number in 'norm'"),
    ("m.csv", b"1.0\n\nx\n", "line 3: expected a number in '0'"),
    ("o.csv", b"a,norm\n1,2.0\n1\n", "line 3: expected a number in 'norm'"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN, ids=[b[0] for b in BROKEN])
def test_broken_norm_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*{message}" if "line" in message else message):
        read_norms(tmp_path / name)


def test_norms_of_several_runs_are_not_read_as_one(tmp_path):
    np.save(tmp_path / "runs.npy", np.ones((3, 5)))
    with pytest.raises(ValueError, match=r"norms of one run \[steps\], got shape \(3, 5\)"):
        read_norms(tmp_path / "runs.npy")
    np.save(tmp_path / "run.npy", np.ones((1, 5)))
    assert read_norms(tmp_path / "run.npy").shape == (5,)


def test_norms_come_back_from_a_checkpoint_of_eight_devices(tmp_path):
    replicated = jax.sharding.NamedSharding(
        optim.parallel.data_mesh(), jax.sharding.PartitionSpec()
    )
    state = optim.RecordNormsState(np.int32(8), np.arange(8, dtype=np.float32))
    store = checkpoints.Checkpoints(tmp_path / "run")
    store.save(8, jax.device_put(state, replicated))
    store.close()
    store = checkpoints.Checkpoints(tmp_path / "run")
    restored, step = store.restore(jax.tree.map(np.zeros_like, state))
    store.close()
    assert step == 8
    np.testing.assert_array_equal(optim.recorded_norms(restored), np.arange(8))


@pytest.fixture
def options():
    """Flags of the main, as if parsed."""
    values = flags.FlagValues()
    flags.DEFINE_string("norms", None, "", flag_values=values)
    flags.DEFINE_string("column", None, "", flag_values=values)
    flags.DEFINE_bool("train", True, "", flag_values=values)
    values(["test"])
    return values


def test_pilot_refinement_and_comparison(tmp_path, options, monkeypatch, capsys):
    monkeypatch.setattr(refine.flags, "FLAGS", options)
    monkeypatch.setattr(jax, "device_count", lambda: 1)  # One program instead of eight.
    monkeypatch.setattr(curves, "draw_curves", lambda rows, file, title: file.touch())
    config = digits.get_config("smoke")
    config.train.model.options = {"widths": (8,)}
    config.train.epochs = 1.0
    config.learning_rates = (0.3,)
    config.seeds = (0,)
    config.compare = ()
    assert refine.main(config, tmp_path / "run", None) == 0
    printed = capsys.readouterr().out
    assert "| refined | 0.3 (edge) |" in printed
    assert "warmup_polynomial_schedule" in printed
    norms = np.load(tmp_path / "run" / "norms.npy")
    multipliers = np.load(tmp_path / "run" / "multipliers.npy")
    assert norms.shape == multipliers.shape == (20,)
    assert (norms > 0).all()
    assert multipliers.max() == 1
    assert multipliers[-1] == 0
    assert (tmp_path / "run" / "refined.png").stat().st_size > 1000
    rates = [
        json.loads(line)["lr"]
        for line in (tmp_path / "run" / "refined" / "metrics.jsonl").read_text().split("\n")
        if '"lr"' in line
    ]
    assert rates[-1] == 0  # The last step of a refined schedule.

    # The same run from norms that were recorded elsewhere, without retraining.
    options.norms, options.train = str(tmp_path / "run" / "norms.npy"), False
    assert refine.main(config, tmp_path / "again", None) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "again" / "multipliers.npy"), multipliers)
