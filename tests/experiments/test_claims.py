"""The ledger says what the files of results say, by a rule with known answers."""

import functools
import importlib
import importlib.util
import inspect
import json
import re
import shlex
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from experiments import claims
from experiments.common import launch
from experiments.ledger import definition, derived, evidence, making, page, verdict
from experiments.tables import definition as tables

ROOT = Path(__file__).parents[2]
FAMILIES = definition.load()
CLAIMS = definition.select(FAMILIES, "")


def test_page_and_json_are_what_the_results_say():
    texts = page.texts(FAMILIES, evidence.Evidence(ROOT / "results"))
    for name, text in texts.items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, name
    assert (ROOT / page.PICTURE).read_bytes()[:4] == b"\x89PNG"


def test_studies_take_their_settings_and_committed_ones_were_made_with_them():
    for family in FAMILIES:
        used = {name for claim in family.claims for name in claim.studies}
        assert used == family.studies.keys()
        for name, study in family.studies.items():
            module = importlib.import_module(f"experiments.studies.{study.file or name}")
            data = {"data_dir": "DATA"} if study.data else {}
            for settings in study.settings():
                inspect.signature(module.measure).bind(study.seeds, **settings, **data)
            path = ROOT / "results" / "claims" / f"{name}.json"
            if path.exists():
                assert making.is_of(study, json.loads(path.read_text(encoding="utf-8"))), name


def _one(values, side, threshold, against=None, exact=False):
    return verdict.judge([verdict.Question(values, side, threshold, against, exact)])[0]


def test_a_number_over_seeds_is_judged_by_a_t_test():
    far, near = [1.0, 1.1, 0.9, 1.0], [1.0, 3.0, -1.5, 0.5]
    for values, side, bound, against, expected in [
        (far, "above", 0.5, 0.0, verdict.HOLDS),
        (far, "below", 1.5, 2.0, verdict.HOLDS),
        (far, "above", 1.5, 1.2, verdict.OPPOSITE),
        (far, "above", 1.5, 0.5, verdict.NOT_SEEN),  # Short of the bound, yet no evidence against.
        (far, "above", 1.5, None, verdict.NOT_SEEN),
        (far, "below", 0.5, 0.6, verdict.OPPOSITE),
        (near, "above", 0.5, 0.0, verdict.NOT_SEEN),  # On the side, but by chance as well.
        (near, "below", 0.5, 0.5, verdict.NOT_SEEN),
        ([0.1, -0.1, 0.05, 0.0], "within", 0.5, 0.5, verdict.HOLDS),
        ([-0.1, 0.6, 0.1, 0.1], "within", 0.5, 0.5, verdict.NOT_SEEN),
        ([-2.0, -2.1, -1.9], "within", 0.5, 0.5, verdict.OPPOSITE),
    ]:
        assert _one(values, side, bound, against).verdict == expected, (values, side, bound)
    answer = _one(far, "above", 0.5)
    np.testing.assert_allclose(answer.p, scipy.stats.ttest_1samp(far, 0.5).pvalue)
    low, high = scipy.stats.t.interval(0.95, 3, np.mean(far), scipy.stats.sem(far))
    np.testing.assert_allclose(answer.summary[3:], [low, high])
    both = [scipy.stats.ttest_1samp([0.1, -0.1, 0.05, 0.0], b).pvalue for b in (-0.5, 0.5)]
    np.testing.assert_allclose(_one([0.1, -0.1, 0.05, 0.0], "within", 0.5).p, max(both))


def test_the_numbers_of_a_claim_are_corrected_together():
    values = [0.4, 0.9, 0.2, 0.6, 0.1]
    alone = scipy.stats.ttest_1samp(values, 0.0).pvalue
    assert 0.025 < alone < 0.05
    one, noise = verdict.Question(values, "above", 0.0, 0.0), verdict.Question([1, -1], "above", 0)
    assert [a.verdict for a in verdict.judge([one])] == [verdict.HOLDS]
    assert [a.verdict for a in verdict.judge([one, noise])] == [verdict.NOT_SEEN] * 2
    np.testing.assert_allclose(verdict.judge([one, noise])[0].p, 2 * alone)


def test_a_single_number_decides_if_it_is_exact():
    assert _one([3.0], "above", 2.0, exact=True).verdict == verdict.HOLDS
    assert _one([1.0], "above", 2.0, 1.5, exact=True).verdict == verdict.OPPOSITE
    assert _one([1.7], "above", 2.0, 1.5, exact=True).verdict == verdict.NOT_SEEN
    assert _one([3.0], "above", 2.0).verdict == verdict.NOT_SEEN
    with pytest.raises(ValueError, match="side must be"):
        _one([1.0], "over", 2.0)


def test_the_verdict_on_a_claim():
    yes, no, open_ = verdict.HOLDS, verdict.OPPOSITE, verdict.NOT_SEEN
    for parts, expected in [
        ([yes, yes], yes),
        ([yes, open_], verdict.PART),
        ([yes, no], verdict.PART),
        ([open_, no], no),
        ([open_, open_, no], open_),
        ([open_], open_),
    ]:
        assert verdict.overall(parts) == expected


def test_a_study_of_several_settings_is_read_at_the_best(tmp_path):
    def unit(name, rate, valid, test):
        rows = [{"valid": v, "test": t} for v, t in zip(valid, test, strict=True)]
        return {"settings": {"name": name, "rate": rate}, "rows": rows}

    units = [
        unit("a", 0.1, [0.5, 0.5], [0.9, 0.9]),
        unit("a", 0.2, [0.7, 0.6], [0.8, 0.7]),  # The best of "a", though not on the test data.
        unit("b", 0.1, [0.6, 0.6], [0.5, 0.6]),
        unit("b", 0.2, [0.4, 0.4], [0.9, 0.9]),
    ]
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "s.json").write_text(json.dumps({"units": units}))
    read = evidence.Evidence(tmp_path).read
    how = {"study": "s", "metric": "test", "where": {"name": "a"}, "select": "valid"}
    assert read(how) == [0.8, 0.7]
    np.testing.assert_allclose(read({**how, "minus": {"name": "b"}}), [0.3, 0.1])
    np.testing.assert_allclose(read({**how, "over": {"name": "b"}}), [0.8 / 0.5, 0.7 / 0.6])
    assert read({**how, "where": {"name": "a", "rate": 0.1}}) == [0.9, 0.9]
    with pytest.raises(ValueError, match="2 units"):
        read({"study": "s", "metric": "test", "where": {"name": "a"}})
    with pytest.raises(ValueError, match="no unit"):
        read({"study": "s", "metric": "test", "where": {"name": "c"}})


def test_a_stopped_study_goes_on_where_it_was(tmp_path, monkeypatch):
    made = []

    def measure(seeds, width):
        if width == 3 and len(made) == 2:
            made.append("killed")
            raise KeyboardInterrupt
        made.append(width)
        return [{"score": 10.0 * width + seed} for seed in range(seeds)]

    module = types.ModuleType("experiments.studies.fake")
    module.measure = measure  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "experiments.studies.fake", module)
    monkeypatch.setattr(making, "FOLDER", tmp_path)
    (tmp_path / "fake.py").write_text("")
    part = {
        "what": "score",
        "read": {"study": "fake", "metric": "score", "where": {"width": 3}},
        "side": "above",
        "threshold": 25.0,
    }
    texts = dict.fromkeys(("paper", "claim", "source", "scale", "title"), "x")
    claim = definition.Claim(id="F1", set="before", parts=(part,), **texts)  # type: ignore
    study = definition.Study("fake", {"width": [1, 2, 3]}, seeds=3)
    family = definition.Family("f", "F", (claim,), {"fake": study})
    said = []

    def make(**options):
        claims.make([family], [claim], tmp_path / "out", say=said.append, **options)

    with pytest.raises(KeyboardInterrupt):
        make()
    make()
    assert made == [1, 2, "killed", 3]
    make()
    assert len(made) == 4
    (entry,), missing = page.entries([family], evidence.Evidence(tmp_path / "out"))
    assert (entry.verdict, entry.values, missing) == ("holds", ([30.0, 31.0, 32.0],), [])
    (tmp_path / "fake.py").write_text("# Another experiment.")
    (tmp_path / "out" / "claims" / "fake.json").unlink()
    make(shard=(1, 2))
    assert made[4:] == [1, 3]
    assert "units of other shards are missing" in said[-1]
    make(shard=(2, 2))
    assert made[4:] == [1, 3, 2]
    assert (tmp_path / "out" / "claims" / "fake.json").is_file()


@pytest.mark.parametrize("command", sorted({claim.made_by for claim in CLAIMS}))
def test_commands_parse(command):
    """Each is a module of this project with flags that it has, a table or a claim that exists."""
    for one in command.split(" && "):
        python, dash_m, module, *arguments = shlex.split(one)
        assert (python, dash_m) == ("python", "-m")
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).read_text(encoding="utf-8")
        for argument in arguments:
            if not argument.startswith("--"):
                assert module == "experiments.ranks"
                assert argument in tables.names()
                continue
            name, _, value = argument[2:].partition("=")
            shared = "launch.launch(" in source and name in launch.SHARED_FLAGS
            assert shared or re.search(rf'["\'](--)?{name}["\']', source), argument
            if name == "table":
                assert value in tables.names()
            if name == "only":
                definition.select(FAMILIES, value)


def test_bad_claims_are_refused():
    with pytest.raises(ValueError, match="nearest: C9"):
        definition.select(FAMILIES, "C99")
    with pytest.raises(ValueError, match="set must be"):
        definition.Claim("x", "", "", "", "", (), "during", "")
    with pytest.raises(ValueError, match="nothing decides"):
        definition.Claim("x", "", "", "", "", ({"what": "", "read": {}},), "after", "")  # type: ignore
    bad = {"what": "", "read": {}, "side": "above", "tresh": 1}
    with pytest.raises(ValueError, match="unknown field 'tresh'; nearest: threshold"):
        definition.Claim("x", "", "", "", "", (bad,), "after", "")  # type: ignore


def test_a_matrix_of_rank_one_is_recovered():
    from experiments.studies import robust_recovery

    problem = {"rank": 1, "size": 4, "samples": 80, "outliers": 0.1, "steps": 300}
    (row,) = robust_recovery.measure(1, searched=1, **problem)
    assert row["error"] < 0.01
    assert 0 < row["below"] < 300


def test_rankings_by_few_and_by_many_settings():
    """Method a wins with its first setting, b with its second; c is never tuned."""
    values = {"a": (1.0, 1.0), "b": (2.0, 0.5), "d": (3.0, 3.0), "c": (0.1,)}
    runs = [
        {
            "method": method,
            "workload": workload,
            "study": 0,
            "trial": trial,
            "final": {"best": value, "diverged": 0.0},
        }
        for method, both in values.items()
        for trial, value in enumerate(both)
        for workload in ("w", "v")
    ]
    by = functools.partial(derived.ranking_agreement, {"runs": runs})
    assert by(settings=(1, 2)) == pytest.approx(0.5)  # (1, 2, 3) against (2, 1, 3).
    assert by(settings=(2, 2)) == pytest.approx(1.0)
    runs[0]["final"]["diverged"] = 1.0  # a's first setting on one workload: b leads from the start.
    assert by(settings=(1, 2)) == pytest.approx(1.0)
