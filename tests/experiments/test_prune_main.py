"""The pruning main: every method runs, rounds resume bit-identically, what it leaves is right."""

import json

import jax
import numpy as np
import pytest

import bilevel
from configs.pruning import digits
from experiments import prune
from experiments.common import launch, runs
from experiments.pruning import methods, pictures, saved_model


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    # The main spreads a run over all devices; here they are virtual and only cost time.
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def config(method, gradient="backprop", **changes):
    c = digits.get_config("smoke")
    c.gradient.name = gradient
    c.model.options = {"widths": (16, 8)}
    c.epochs, c.batch_size, c.log_every = 0.5, 128, 2
    c.prune.rewind_epochs = 0.2
    c.prune.method = method
    for key, value in changes.items():
        c.prune[key] = value
    return c


@pytest.fixture(scope="module")
def memo():
    return prune.Memo()


@pytest.mark.parametrize("method", [*methods.AFTER_TRAINING, *methods.AT_INIT])
def test_every_method_ends_at_its_density(method, memo):
    result = prune.run(config(method, density=0.5), quiet=True, memo=memo)
    total, goal = 64 * 16 + 16 * 8 + 8 * 10, 1.0 if method == "dense" else 0.5
    assert abs(result.final["density"] - goal) <= 3 / total
    assert 0 <= result.final["test/accuracy"] <= 1
    steps = {"dense": 0, "bip": 12, "gmp": 18, "granet": 18, "hydra": 12, "omp": 4}
    if method in steps:
        assert result.final["gradients"] == steps[method]
    if method in methods.AT_INIT:
        assert result.final["gradients"] == 6
    if method.startswith("imp"):
        assert result.final["gradients"] == 3 * 4


def test_a_memo_keeps_what_was_used_last_within_its_bytes():
    memo = prune.Memo(250)
    states = [{"w": np.full(10, i, np.float64)} for i in range(4)]  # 80 bytes each.
    for i, state in enumerate(states[:3]):
        memo.put((str(i),), state, {"seconds": float(i)})
    state, cost = memo.get(("0",))
    assert cost == {"seconds": 0.0}
    assert np.array_equal(state["w"], states[0]["w"])
    state["w"][:] = -1  # A copy: the loop donates it.
    memo.put(("3",), states[3], {})
    assert memo.nbytes == 240
    assert memo.get(("1",)) is None
    assert all(memo.get((k,))[0]["w"][0] == int(k) for k in "023")
    memo.put(("large",), {"w": np.zeros(100)}, {})
    assert memo.get(("large",)) is None
    assert memo.nbytes == 240


def test_eight_devices_prune_as_one(monkeypatch):
    # By estimates, whose directions are then the same on all.
    c = config("random", "rge", density=0.5)
    c.gradient.mu, c.gradient.samples = 0.1, 1
    one = prune.run(c, quiet=True).final
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    eight = prune.run(c, quiet=True).final
    assert eight["density"] == one["density"]
    np.testing.assert_allclose(eight["test/loss"], one["test/loss"], rtol=1e-4)
    assert one["forward_passes"] == 2 * one["gradients"] == 2 * 6


def test_lottery_tickets_and_their_control(memo):
    options = {"density": 0.512, "rewind_epochs": 0.0, "allocator": "lottery"}
    imp, control = (
        prune.run(config(m, **options), quiet=True, memo=memo) for m in ("imp", "imp_reinit")
    )
    got = [imp.final[f"density/layers_{i}/kernel"] for i in range(3)]
    np.testing.assert_allclose(got, [0.512, 0.512, 0.9**3], atol=1 / 80)
    # The same masks by the same rounds; the last is trained from other weights.
    assert imp.history[:-1] == control.history[:-1]
    assert imp.final["density"] == control.final["density"]
    assert imp.final["test/loss"] != control.final["test/loss"]


def test_filters_leave_a_smaller_model(tmp_path):
    c = config("bip", density=0.5, structure="filter")
    c.model = {"name": "cnn", "options": {"widths": (4, 5), "hidden": 6}}
    final = prune.run(c, tmp_path, quiet=True).final
    assert 0 <= final["small/accuracy"] <= 1
    with np.load(tmp_path / "small.npz") as small:
        assert small["params/conv_1/kernel"].shape == (3, 3, 2, 3)
        assert small["params/hidden/kernel"].shape == (2 * 2 * 3, 6)
        sizes = [small[name].size for name in small if name.startswith("params/")]
    dense = (9 * 4 + 4) + (36 * 5 + 5) + (20 * 6 + 6) + (60 + 10)
    assert final["small/parameters"] == pytest.approx(sum(sizes) / dense)


@pytest.mark.parametrize("method", ["imp", "bip"])
def test_a_stopped_run_resumes_bit_identically(method, tmp_path):
    c = config(method, density=0.5)
    whole = prune.run(c, tmp_path / "whole", quiet=True)
    stops = [7, 9]  # In the dense stage's successor: a round of IMP, the steps of BiP.
    for stop in stops:
        with pytest.raises(launch.Preempted):
            prune.run(c, tmp_path / "parts", quiet=True, stop=lambda t, s=stop: t >= s)
    parts = prune.run(c, tmp_path / "parts", quiet=True)
    for name in ("test/accuracy", "test/loss", "density"):
        assert whole.final[name] == parts.final[name]
    with (
        np.load(tmp_path / "whole" / "pruned.npz") as a,
        np.load(tmp_path / "parts" / "pruned.npz") as b,
    ):
        assert sorted(a) == sorted(b)
        assert all(np.array_equal(a[k], b[k]) for k in a)
    params, _, masks = saved_model.load(tmp_path / "whole")
    assert float(bilevel.masks.density(masks)) == pytest.approx(whole.final["density"])
    for x, mask in zip(params.values(), masks.values(), strict=True):
        assert mask is None or (np.count_nonzero(x) and not x[~mask].any())
    if method == "imp":
        for file in pictures.of_runs([tmp_path / "whole", tmp_path / "parts"], tmp_path):
            assert file.stat().st_size > 1000
    with pytest.raises(ValueError, match="is no finished run"):
        saved_model.load(tmp_path)
    torn = (tmp_path / "whole" / "pruned.npz").read_bytes()[:-9]
    (tmp_path / "pruned.npz").write_bytes(torn)
    with pytest.raises(ValueError, match=r"pruned\.npz cannot be read .*; the command of its run"):
        saved_model.load(tmp_path)
    left = {p.name for p in (tmp_path / "whole").iterdir()}
    assert left >= {"config.json", "layers.png", "pruned.npz", "report.txt", "stages"}
    final = json.loads((tmp_path / "whole" / "result.json").read_text())["final"]
    assert final == whole.final
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == whole.history


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "bip", "structure": "2:5:1"}, "prune.structure='2:5:1': structure must be"),
        ({"method": "imp", "structure": "2:4"}, "prune.method=imp has no prune.structure=2:4"),
        ({"method": "bip", "inverse_gamma": -1.0}, r"prune\.inverse_gamma must be >= 0, got -1"),
        (
            {"method": "bip", "mask_learning_rate": None},
            r"prune\.mask_learning_rate must be a number, >= 0, got None",
        ),
        ({"method": "bip", "through": (0.5, 0.0)}, r"prune\.through must be in \(0, 1\], got 0"),
        ({"method": "bip", "authors": "implict"}, r"prune\.authors must be .*; nearest: implicit"),
        ({"method": "bop"}, "method must be one of dense, .*, got 'bop'; nearest: omp"),
        ({"method": "imp", "rewind_epochs": 9.0}, r"rewind_epochs must be in \[0, 0.5\), got 9"),
        ({"method": "omp", "allocator": "erk"}, "must be global or lottery, got 'erk'"),
        ({"method": "imp", "density": 0.0}, r"prune\.density must be in \(0, 1\], got 0"),
        ({"method": "snip", "gradient": "rge"}, "snip scores weights by backpropagation: it needs"),
        ({"method": "imp", "gradient": "rg"}, "gradient.name must be one of .*; nearest: rge"),
        ({"method": "imp", "gradient": "hybrid"}, "gradient 'hybrid' needs gradient.rule"),
    ],
)
def test_bad_configs(changes, message):
    with pytest.raises(ValueError, match=message):
        prune.run(config(**changes), quiet=True)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    prune.run(config("omp", density=0.5), tmp_path, quiet=True)
    other = config("omp", density=0.5)
    other.model.options = {"widths": (16, 9)}
    with pytest.raises(ValueError, match="holds a run of another config"):
        prune.run(other, tmp_path, quiet=True)
    file = tmp_path / "config.json"
    file.write_text(file.read_text()[:-9])
    with pytest.raises(ValueError, match=r"config\.json cannot be read, and there are checkpoints"):
        prune.run(other, tmp_path, quiet=True)
    file.unlink()
    with pytest.raises(ValueError, match=r"holds checkpoints, but no config\.json"):
        prune.run(other, tmp_path, quiet=True)
    runs.claim(tmp_path, other, "prune")
    with pytest.raises(ValueError, match="of another model or optimizer"):
        prune.run(other, tmp_path, quiet=True)


def test_path_hits_its_stops():
    got = methods.path(0.02, (0.2, 0.1, 0.05, 0.02))
    assert len(got) == 17
    assert {0.2, 0.1, 0.05, 0.02} <= set(got)
    assert got[:7] == methods.path(0.2, (0.2, 0.1, 0.05, 0.02))


def test_pictures(tmp_path):
    masks = {
        k: {"w": jax.random.bernoulli(jax.random.key(i), 0.5, (9, 9))} for i, k in enumerate("ab")
    }
    values = pictures.overlap(masks, tmp_path / "overlap.png")
    assert values[0, 0] == 1
    assert values[0, 1] == values[1, 0] < 1
    params = {"w": np.ones((9, 9), np.float32)}
    reports = {k: bilevel.sparsity_report(params, m) for k, m in masks.items()}
    pictures.layers(reports, tmp_path / "layers.png")
    finals = [{"density": d, "seconds": 3.0, "test/accuracy": 0.5 + d} for d in (0.2, 0.1, 0.1)]
    runs = [
        {"row": "BiP", "column": c, "status": "done", "final": f}
        for c, f in zip("xyy", finals, strict=True)
    ]
    table = {"name": "digits", "rows": {"BiP": ""}, "columns": dict.fromkeys("xyz")}
    files = pictures.of_table({"table": table, "runs": runs}, tmp_path)
    assert [f.name for f in files] == ["digits_sparsity.png", "digits_seconds.png"]
    assert all(f.stat().st_size > 1000 for f in tmp_path.iterdir())
