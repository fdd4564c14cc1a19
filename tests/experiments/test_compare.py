"""The comparison of optimizers: methods, workloads, targets, the whole way to the page."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.compare import common as declared
from experiments import compare
from experiments.comparing import methods, page, sections, targets, training, workloads

GENERATED = [name for name in workloads.NAMES if not workloads.needs_data(name)]


def _tiny(name, data_dir):
    """A quadratic in two unknowns.

    With noise in its batches.
    """
    x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    arrays = {"train": {"x": x}, "valid": {"x": x[:8]}, "test": {"x": x[8:16]}}

    def error(params, x):
        return jnp.square(params["w"] - x.mean(0)).sum() + 1.0

    return workloads.Workload(
        name,
        lambda key: ({"w": jax.random.normal(key, (2,)) + 2.0}, {}),
        lambda params, stats, batch, key: (error(params, batch["x"]), stats),
        lambda params, stats, examples: error(params, examples["x"]),
        arrays,
        metric="valid loss",
        batch_size=16,
        steps=30,
        evaluations=10,
    )


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Two workloads of milliseconds in the place of the real ones, and their targets."""
    names = ("tiny", "other")
    monkeypatch.setattr(workloads, "_WORKLOADS", dict.fromkeys(names, _tiny))
    monkeypatch.setattr(workloads, "NAMES", names)
    monkeypatch.setattr(workloads, "VARIANTS", {})
    monkeypatch.setattr(workloads, "_NEED_DATA", ())
    frozen = {
        name: {
            "target": 1.2,
            "metric": "valid loss",
            "baseline": "AdamW",
            "points": 20,
            "seeds": 10,
            "version": workloads.fingerprint(workloads.build(name)),
        }
        for name in names
    }
    monkeypatch.setattr(targets, "read", lambda path=None: {} if path else frozen)
    clock = {"AdamW": 2e-3, "SGDM": 1e-3}
    monkeypatch.setattr(training, "step_seconds", lambda name, data_dir, compared: dict(clock))
    costs = {"forward": 1.0, "gradient": 2.5, "JVP": 1.5, "HVP": 5.0}
    monkeypatch.setattr(training, "oracle_costs", lambda name, data_dir: dict(costs))
    return names  # The programs of one test serve the next: the workloads are the same.


def _run(tiny, out_dir, compared="AdamW, SGDM", **options):
    said = []
    found = methods.find(compared)
    options = {"studies": 2, "trials": 3} | options
    content = compare.compare(found, tiny, out_dir, say=said.append, **options)
    return content, "\n".join(said)


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """What the usual comparison of the two leaves and says; made once, and given as a copy."""
    kept = []

    def content(tiny):
        if not kept:
            kept.extend([tmp_path_factory.mktemp("compare"), ""])
            kept[1] = _run(tiny, kept[0])[1]
        return page.read(kept[0]), *kept

    return content


def test_from_runs_to_the_page(tiny, usual):
    content, out, said = usual(tiny)
    assert "24 runs = 2 methods x 2 workloads x 2 studies x 3 trials" in said
    text = (out / "compare.md").read_text()
    stored = json.loads((out / "compare.json").read_text())
    assert page.markdown(stored) == text == page.markdown(content)
    assert (out / "compare.png").read_bytes()[:4] == b"\x89PNG"
    # Seeds are paired: the same for both methods and all trials, another one for each study.
    seeds = {m: [r["seed"] for r in stored["runs"] if r["method"] == m] for m in ("AdamW", "SGDM")}
    assert seeds["AdamW"] == seeds["SGDM"] == 2 * [1, 1, 1, 2, 2, 2]
    # Steps on the page are those of the histories, by hand.
    for workload in tiny:
        medians = []
        for method in ("AdamW", "SGDM"):
            firsts = []
            for study in (0, 1):
                mine = [
                    r
                    for r in stored["runs"]
                    if (r["method"], r["workload"], r["study"]) == (method, workload, study)
                ]
                assert {len(r["history"]) for r in mine} == {
                    14
                }  # Every 3 of 40 steps, and the last.
                met = [s for r in mine for s, value in r["history"] if value <= 1.2]
                firsts.append(min(met, default=np.inf))
            medians.append(sum(firsts) / 2)
        found = page.scoring.of_workloads(page.times(stored))
        np.testing.assert_array_equal(found[:, tiny.index(workload)], medians)
    seconds = page.times(stored, clock=True)
    np.testing.assert_allclose(
        seconds, page.times(stored) * np.array([2e-3, 1e-3])[:, None, None, None]
    )


def test_a_second_run_repeats_nothing_and_shards_give_the_same_page(
    tiny, usual, tmp_path, monkeypatch
):
    shutil.copytree(usual(tiny)[1], tmp_path / "whole")
    made, run = [], training.run_population

    def counted(configs, *args, **options):
        made.extend(config.to_json() for config in configs)
        return run(configs, *args, **options)

    monkeypatch.setattr(training, "run_population", counted)
    assert "; 0 to make" in _run(tiny, tmp_path / "whole")[1]
    assert made == []
    content, said = _run(tiny, tmp_path / "parts", shard=(1, 2))
    assert content is None
    assert "12 runs of other shards are missing" in said
    _run(tiny, tmp_path / "parts", shard=(2, 2))
    assert len(made) == len(set(made)) == 24
    pages = [(tmp_path / out / "compare.md").read_text() for out in ("whole", "parts")]
    assert pages[0] == pages[1]


def test_packs_are_studies_or_single_runs(tiny, tmp_path, monkeypatch):
    def alone(name, data_dir):
        return _tiny(name, data_dir)._replace(side_by_side=name == "tiny")

    packs = []
    monkeypatch.setattr(workloads, "_WORKLOADS", dict.fromkeys(tiny, alone))
    monkeypatch.setattr(compare.execution, "make", lambda job, runs, *_, **__: packs.extend(runs))
    workloads._built.cache_clear()
    _run(tiny, tmp_path)
    workloads._built.cache_clear()
    many = [(pack[0].column, len(pack), len({r.point["study"] for r in pack})) for pack in packs]
    assert sorted(set(many)) == [("other", 1, 1), ("tiny", 3, 1)]
    assert sum(n for _, n, _ in many) == 24


def test_killed_in_the_middle_it_goes_on(tiny, usual, tmp_path, monkeypatch):
    shutil.copytree(usual(tiny)[1], tmp_path / "whole")
    run, made = training.run_population, []

    def dies(configs, *args, **options):
        if len(made) == 6:
            raise KeyboardInterrupt
        made.extend(configs)
        return run(configs, *args, **options)

    monkeypatch.setattr(training, "run_population", dies)
    with pytest.raises(KeyboardInterrupt):
        _run(tiny, tmp_path / "killed")
    monkeypatch.setattr(training, "run_population", run)
    assert "; 18 to make" in _run(tiny, tmp_path / "killed")[1]
    pages = [(tmp_path / out / "compare.md").read_bytes() for out in ("whole", "killed")]
    assert pages[0] == pages[1]


def test_a_changed_workload_is_refused_with_the_old_target(tiny, tmp_path, monkeypatch):
    def other_data(name, data_dir):
        made = _tiny(name, data_dir)
        return made._replace(data={**made.data, "test": {"x": made.data["test"]["x"] + 1e-6}})

    def other_loss(name, data_dir):
        made = _tiny(name, data_dir)

        def loss(params, stats, batch, key):
            value, stats = made.loss(params, stats, batch, key)
            return 1.01 * value, stats

        return made._replace(loss=loss)

    def other_length(name, data_dir):
        return _tiny(name, data_dir)._replace(steps=31)

    for change, said in (
        (other_data, "data: "),
        (other_loss, "start: "),
        (other_length, "steps: 30"),
    ):
        monkeypatch.setattr(workloads, "_WORKLOADS", dict.fromkeys(tiny, change))
        workloads._built.cache_clear()
        with pytest.raises(ValueError, match="is not the one that its target was set for") as error:
            _run(tiny, tmp_path / "out")
        assert said in str(error.value)
        assert "--set_targets --workloads=tiny" in str(error.value)
    monkeypatch.setattr(targets, "read", lambda path=None: {})
    with pytest.raises(ValueError, match="workload tiny has no target yet"):
        _run(tiny, tmp_path / "out")
    workloads._built.cache_clear()


def test_targets_are_the_median_of_the_best_baseline(tiny, tmp_path):
    path = tmp_path / "targets.json"
    found = targets.set_targets(("tiny",), tmp_path, None, path=path, points=2, seeds=3)["tiny"]
    stored = json.loads(path.read_text())["workloads"]["tiny"]
    assert (
        stored["target"] == found["target"] == pytest.approx(np.median(found["values"]), rel=1e-5)
    )
    assert len(found["values"]) == 3
    assert found["baseline"] in declared.BASELINES
    assert stored["version"] == workloads.fingerprint(workloads.build("tiny"))
    assert {"machine", "versions", "commit"} <= stored.keys()
    # The chosen setting has the best validation metric of all that were tried.
    records = [json.loads(p.read_text())["record"] for p in (tmp_path / "cache").glob("*.json")]
    tuning = [r for r in records if r["config"]["seed"] == 0]
    assert len(tuning) == 4 * 2
    best = min(tuning, key=lambda r: r["final"]["best"])
    assert best["config"]["setting"] == found["setting"]
    assert {r["config"]["steps"] for r in records} == {30}


@pytest.mark.parametrize("name", [name for name in GENERATED if name in targets.read()])
def test_committed_targets_are_of_these_workloads(name):
    frozen = targets.read()
    assert targets.check(name, workloads.fingerprint(workloads.build(name)), frozen) > 0
    assert (frozen[name]["points"], frozen[name]["seeds"]) == (targets.POINTS, targets.SEEDS)


@pytest.mark.parametrize("name", GENERATED)
def test_every_method_makes_a_step_on_every_workload(name, monkeypatch):
    training.check(name, None, methods.find("AdamW")[0])
    real = workloads.build(name)

    def same_parameters(
        name, data_dir
    ):  # Optimizers see no more of a model, and it is traced once.
        return real._replace(loss=lambda params, stats, *_: (optax.tree.norm(params), stats))

    monkeypatch.setitem(workloads._WORKLOADS, "same parameters", same_parameters)
    for method in methods.find(None):
        training.check("same parameters", None, method)
    workloads._built.cache_clear()
    training._job.cache_clear()
    assert workloads.about(name)


def test_convolution_is_jaxs():
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype(np.float32)
    kernel = np.random.default_rng(1).normal(size=(3, 3, 3, 5)).astype(np.float32)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(workloads._convolve(x, kernel), expected, rtol=1e-4, atol=1e-4)


def test_spaces_name_no_workload_and_all_methods_have_equal_trials():
    text = json.dumps({k: v for k, v in vars(declared).items() if k.isupper()})
    assert not any(name in text for name in workloads.NAMES)
    for method in methods.find(None):
        settings = methods.trials(method, 3, 5)
        assert len(settings) == (1 if method.self_tuning else 5), method.name
        for key, (low, high) in method.space.items():
            values = np.array([s[key] for s in settings])
            # A Latin hypercube: one of five in each fifth of the range, in logarithms.
            fifth = np.floor(5 * np.log(values / low) / np.log(high / low))
            assert sorted(fifth) == [0, 1, 2, 3, 4], (method.name, key)
    first, again, other = (methods.trials(methods.find("Lion")[0], s, 5) for s in (0, 0, 1))
    assert first == again != other


def test_tuned_arguments_reach_the_optimizer():
    (method,) = methods.find("AdamW")
    setting = {"learning_rate": 0.01, "one_minus_b1": 0.3, "weight_decay": 0.2}
    tx = methods.build(method)
    params, grads = {"w": np.float32([1.0, -2.0])}, {"w": np.float32([0.5, 1.0])}
    # Two steps of warm-up, 1/2 and 1 of the rate, then a cosine over 38.
    rates = [0.5, 1.0, 1.0, 0.5 * (1 + np.cos(np.pi / 38))]
    plain = optax.adamw(lambda t: 0.01 * jnp.array(rates)[t], b1=0.7, weight_decay=0.2)

    @jax.jit
    def updates():
        ours = tx.init(params, setting, 40, methods.warmup_steps(40), 0)
        theirs, found = plain.init(params), []
        for _ in range(4):
            a, ours = tx.update(grads, ours, params, 1.0)
            b, theirs = plain.update(grads, theirs, params)
            found.append((a["w"], b["w"]))
        return found

    for a, b in updates():
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_decay_of_optimizers_without_one_is_added_to_the_gradient():
    (method,) = methods.find("SGDM")
    setting = {"learning_rate": 1.0, "one_minus_momentum": 0.5, "weight_decay": 0.1}
    tx = methods.build(method)
    params, grads = jnp.array([2.0]), jnp.array([1.0])
    updates, _ = tx.update(grads, tx.init(params, setting, 2, 1, 0), params, 0.0)
    np.testing.assert_allclose(updates, [-(1.0 + 0.1 * 2.0)], rtol=1e-6)


def test_schedule_free_is_evaluated_at_its_average(tiny):
    (method,) = methods.find("schedule-free AdamW")
    setting = {"learning_rate": 0.1, "one_minus_b1": 0.1, "weight_decay": 1e-4}
    made = training.job("tiny", None, method)
    state = made.init(jax.random.key(0), setting, 20, 1, 2)
    batch = workloads.gather(made.workload.data["train"], np.arange(16), jax.random.key(1))
    for _ in range(5):
        state, _ = jax.jit(made.step)(state, batch)
    inner = state.opt_state.inner
    average = jax.tree.map(lambda y, z: (y - 0.1 * z) / 0.9, state.params, _free(inner).z)
    valid = made.workload.data["valid"]
    expected = made.workload.evaluate(average, {}, valid)
    np.testing.assert_allclose(made.evaluate(state, valid), expected, rtol=1e-5)
    at_params = float(made.workload.evaluate(state.params, {}, valid))
    assert abs(at_params - float(expected)) > 1e-4


def _free(state):
    kind = optax.contrib.ScheduleFreeState
    leaves = jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, kind))
    return next(s for s in leaves if isinstance(s, kind))


def test_a_run_that_diverges_keeps_what_it_reached_before(tiny):
    (method,) = methods.find("SGDM")
    version = workloads.fingerprint(workloads.build("tiny"))
    setting = {"learning_rate": 400.0, "one_minus_momentum": 0.01, "weight_decay": 0.0}
    result = training.run(training.config_of("tiny", version, method, setting, 0, 4000))
    assert result.final["diverged"] == 1.0
    assert 0 < len(result.history) < 1000
    assert all(np.isfinite(v) for v in result.final.values())


def test_the_same_program_serves_all_settings(tiny):
    (method,) = methods.find("AdamW")
    others = (method, method._replace(name="a"), method._replace(schedule="rex"))
    assert len({id(training.job("tiny", None, other)) for other in others}) == 1
    config = training.config_of("tiny", {}, method, methods.trials(method, 0, 5)[0], 0, 40)
    assert training._method(config)._replace(name="") == method._replace(
        name="", space=dict.fromkeys(sorted(method.space), (1.0, 1.0))
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("AdamV", "AdamW"),
        ("AdamW, AdamW", "names two methods 'AdamW'"),
        ("nowhere.py:f", "there is no file nowhere.py"),
        (" , ", "at least one method"),
    ],
)
def test_methods_that_are_none(names, message):
    with pytest.raises(ValueError) as error:
        methods.find(names)
    assert message in str(error.value)


def test_functions_of_a_file(tiny, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import optax\n\ndef mine(learning_rate):\n    return optax.sgd(learning_rate)\nnone = 1\n"
    )
    with pytest.raises(ValueError, match="has no function 'none'"):
        methods.find(f"{file}:none")
    (method,) = methods.find(f"{file}:mine")
    assert method.space == declared.SPACE
    training.check("tiny", None, method)


@pytest.mark.parametrize("name", ["sophia", "lbfgs"])
def test_methods_that_need_more_than_gradients(tiny, name):
    (method,) = methods.find(name)
    with pytest.raises(
        ValueError, match=f"{name} cannot be compared on tiny: all that it is given"
    ):
        training.check("tiny", None, method)


def test_the_page_says_what_it_cannot_tell(tiny, usual):
    content, *_ = usual(tiny)
    assert "no difference can be told from chance" in page.markdown(content)
    three = json.loads(json.dumps(content))
    three["methods"]["slow"] = three["methods"]["SGDM"]
    for by in (three["clock"], three["state"]):
        for values in by.values():
            values["slow"] = values["SGDM"]
    copies = [{**r, "method": "slow"} for r in three["runs"] if r["method"] == "SGDM"]
    three["runs"] += copies
    assert "**No difference seen**" in page.markdown(three)
    for r in copies:  # One that misses everything.
        r["history"] = [[s, 9.0] for s, _ in r["history"]]
    text = page.markdown(three)
    assert "| slow | 0.000 |" in text
    assert "| slow | – | – |" in text
    assert "| slow | 0 % | 0 % |" in text
    whom = text[text.index("## For whom each is") :]
    rows = {name: whom[whom.index(f"| {name} |") :].split("\n")[0] for name in three["methods"]}
    assert "holds 4 bytes per parameter, AdamW 8" in rows["slow"]
    assert "none of its settings reaches a target; reaches 0 of 2 targets" in rows["slow"]
    at = page.scoring.of_workloads(page.times(three))
    for m, name in enumerate(three["methods"]):
        first = [c for w, c in enumerate(tiny) if at[m, w] == at[:, w].min() < np.inf]
        assert (f"first on {', '.join(first)}" in rows[name]) == bool(first)
    assert "the best" not in "".join(rows.values())  # Two workloads tell nothing.
    for i in range(8):  # Ten of them do.
        for by in (three["clock"], three["state"], three["workloads"], three["targets"]):
            by[f"tiny {i}"] = by["tiny"]
        three["runs"] += [
            {**r, "workload": f"tiny {i}"} for r in three["runs"] if r["workload"] == "tiny"
        ]
    whom = page.markdown(three).partition("## For whom each is")[2]
    rows = {name: whom[whom.index(f"| {name} |") :].split("\n")[0] for name in three["methods"]}
    assert "ranks behind the best" in rows["slow"].split(" | ")[2]
    assert sum("not told apart from the best rank" in row for row in rows.values()) in (1, 2)


def test_best_values_by_hand(tiny, usual):
    content, *_ = usual(tiny)
    for m, method in enumerate(("AdamW", "SGDM")):
        for w, name in enumerate(tiny):
            found = [
                [
                    min(v for _, v in r["history"])
                    for r in content["runs"]
                    if (r["method"], r["workload"], r["study"]) == (method, name, study)
                ]
                for study in (0, 1)
            ]
            expected = (min(found[0]) + min(found[1])) / 2
            assert sections.values(content)[m, w] == pytest.approx(expected, rel=1e-6)
    section = page.markdown(content).partition("## The best value within the budget")[2]
    over = np.median(sections.values(content) / 1.2, 1)
    assert section.count(f"| {over[0]:.2f} |") >= 1
    assert "| target | 1.2 | 1.2 | 1 |" in section
    assert "| median | 2.5 | 1.5 | 5.0 |" in section


def test_best_settings_are_tried_on_the_variants(tiny, tmp_path, monkeypatch):
    def shifted(name, data_dir):
        made = _tiny(name, data_dir)
        more = lambda *xs: made.evaluate(*xs) + 1.0  # noqa: E731
        return made._replace(evaluate=more)

    monkeypatch.setattr(workloads, "VARIANTS", {"tiny": "tiny_shifted"})
    monkeypatch.setitem(workloads._WORKLOADS, "tiny_shifted", shifted)
    content, _ = _run(tiny[:1], tmp_path / "out", "SGDM")
    (variant,) = content["variants"].values()
    assert len(variant["runs"]) == 2  # One of each study.
    base = {
        (r["method"], r["study"], r["trial"]): r for r in content["runs"] if r["workload"] == "tiny"
    }
    ratios = []
    for r in variant["runs"]:
        before = base[r["method"], r["study"], r["trial"]]
        same = ("setting", "seed", "steps")
        assert [r[k] for k in same] == [before[k] for k in same]
        study = [v for k, v in base.items() if k[:2] == (r["method"], r["study"])]
        assert before["final"]["best"] == min(v["final"]["best"] for v in study)
        # The variant changes what is measured, not what is trained.
        assert r["final"]["best"] == pytest.approx(before["final"]["best"] + 1.0, rel=1e-5)
        ratios.append(r["final"]["best"] / before["final"]["best"])
    text = page.markdown(content).partition("## The same settings on a changed problem")[2]
    assert f"| SGDM | {np.mean(ratios):.2f} |" in text


def test_costs_of_evaluations_are_in_forward_passes(monkeypatch):
    seconds = iter([2.0, 6.0, 4.0, 12.0])
    monkeypatch.setattr(
        training, "_in_turns", lambda clocks, rounds: {k: next(seconds) for k in clocks}
    )
    costs = training.oracle_costs("softmax", None, calls=2)
    assert costs == {"forward": 1.0, "gradient": 3.0, "JVP": 2.0, "HVP": 6.0}


def test_variants_are_the_same_problems_but_for_one_thing():
    for base, name in workloads.VARIANTS.items():
        ours, theirs = workloads.build(name), workloads.build(base)
        jax.tree.map(np.testing.assert_array_equal, ours.data, theirs.data)
        assert ours[6:9] == theirs[6:9]  # Batch size, steps, evaluations.
    twice, once = (jax.jit(workloads.build(n).init)(jax.random.key(0))[0] for n in (name, base))
    for ours, theirs in zip(jax.tree.leaves(twice), jax.tree.leaves(once), strict=True):
        np.testing.assert_allclose(ours, 2 * theirs, rtol=1e-6)


def test_norms_behind_the_sums():
    attend = functools.partial(workloads._attend, heads=2, causal=False)

    @jax.jit
    def all_of_them(key):
        block = workloads._attention_block(key, 8)
        x = 3 + jax.random.normal(key, (2, 5, 8))
        silent = {**block, "out": block["out"] | {"kernel": jnp.zeros((8, 8))}}
        silent["down"] = block["down"] | {"kernel": jnp.zeros((32, 8))}
        after, normed = (attend(b, x, post_norm=True) for b in (block, silent))
        return x, after, attend(silent, x), normed, workloads._normed(workloads._norm(8), x)

    x, after, same, *normed = map(np.asarray, all_of_them(jax.random.key(0)))
    np.testing.assert_allclose(after.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(after.std(-1), 1, rtol=1e-3)
    np.testing.assert_allclose(same, x)
    np.testing.assert_allclose(*normed, atol=1e-4)


def test_published_rankings_are_held_against_the_scores(tiny, usual):
    places = methods.prediction()["rankings"][0]["places"]
    assert set(places) <= set(declared.METHODS)
    scores = {name: -float(place) for name, place in places.items()}
    assert page.scoring.agreement(scores, places)[0] == pytest.approx(1.0)
    # 1 - 6 sum d^2 / (n (n^2 - 1)) where nothing ties: d = (1, -1, 0, 0).
    rho, p, many = page.scoring.agreement(
        {"b": 0.9, "a": 0.8, "c": 0.2, "d": 0.1, "x": 1.0}, {"a": 1, "b": 2, "c": 3, "d": 4}
    )
    assert (round(rho, 9), many) == (0.8, 4)
    assert p == pytest.approx(8 / 24)  # Of 24 orders, four have at least 0.8, and four -0.8.
    assert np.isnan(page.scoring.agreement({"a": 1.0}, places)[0])
    content, *_ = usual(tiny)
    assert "published" not in page.markdown(content)  # Two methods are no ranking.
    content["prediction"]["rankings"][0]["places"] = {"AdamW": 1, "SGDM": 2, "p": 3, "q": 4}
    text = "\n".join(
        page._against_published(content["prediction"], {"AdamW": 4, "SGDM": 3, "p": 2, "q": 1})
    )
    assert "Spearman's correlation 1.00 over 4 methods" in text
    assert "not as predicted (-0.3 to 0.6)" in text


def test_list():
    text = compare.listing()
    for name in workloads.NAMES:
        assert f"  {name}: {workloads.about(name)}" in text
    assert "  Prodigy: prodigy, tunes nothing" in text
    usual, more = text.split("methods that are compared where named:\n")
    for name, method in methods.declared.MORE.items():
        assert f"  {name}: {method['optimizer']}, tunes {', '.join(method['space'])}\n" in more
        assert f"  {name}:" not in usual


def test_the_committed_page_is_that_of_its_json():
    folder = methods.FOLDER.parents[1] / "results" / "compare"
    content = page.read(folder)
    assert page.markdown(content) == (folder / "compare.md").read_text(encoding="utf-8")
    assert content["prediction"] == methods.prediction()  # Written down before the runs.
    frozen = json.loads(targets.FILE.read_text(encoding="utf-8"))["workloads"]
    for name, target in content["targets"].items():
        assert target == frozen[name]
        (made,) = {r["steps"] for r in content["runs"] if r["workload"] == name and r["trial"] == 4}
        assert made == -(-4 * target["version"]["steps"] // 3)
