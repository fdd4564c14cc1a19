"""The comparison on a model of one's own: files, successive halving, the verdict."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from scipy import stats as reference

import optim
from experiments import compare
from experiments.comparing import halving, methods, own_model, training, verdict

EXAMPLES = Path(__file__).parents[2] / "examples"
QUADRATIC = """
import jax, jax.numpy as jnp, numpy as np
steps = 36
def init(key):
    return {"w": 2.0 + jax.random.normal(key, (3,))}
def loss(params, batch, key):
    return jnp.sum((params["w"] - batch) ** 2), {"extra": 1.0}
def batches(step, seed):
    return np.random.default_rng([seed, step]).normal(size=3).astype(np.float32)
def evaluate(params):
    return {"z first": 1 + jnp.sum(params["w"] ** 2), "a second": jnp.float32(0)}
"""


@pytest.fixture
def quadratic(tmp_path):
    file = tmp_path / "quadratic.py"
    file.write_text(QUADRATIC)
    return str(file)


def _compare(path, out_dir, names="AdamW, SGDM, Lion", budget="6000"):
    found, said = methods.find(names), []
    budget = halving.parse_budget(budget)
    content = compare.compare_on_model(path, found, budget, out_dir, say=said.append)
    return content, "\n".join(said)


def test_from_a_file_to_the_verdict(quadratic, tmp_path, monkeypatch):
    clock = {"AdamW": 2e-3, "SGDM": 1e-3, "Lion": 1e-3}
    monkeypatch.setattr(training, "step_seconds", lambda *args, **options: dict(clock))
    content, said = _compare(quadratic, tmp_path / "out", budget="800")
    size = halving.sizes(3, 0, 36, 800)
    assert (size.settings, size.arms, size.seeds) == (6, (18, 6, 3), 5)
    assert f"{size.arms[0]} arms of 3 methods, {size.settings} settings each" in said
    runs = content["runs"]
    # Each round trains whole runs of its length, on one seed; the finals on others.
    for k, (steps, count) in enumerate(zip((4, 12, 36), size.arms, strict=True), 1):
        mine = [r for r in runs if r["round"] == k]
        assert len(mine) == count
        assert {r["seed"] for r in mine} == {0}
        assert {r["history"][-1][0] for r in mine if not r["diverged"]} == {steps}
    final = [r for r in runs if r["round"] == halving.FINAL]
    assert [r["seed"] for r in final] == [s for s in range(1, 6) for _ in range(3)]
    # Those that went on are the best third, and the best of every method.
    first, second = ([r for r in runs if r["round"] == k] for k in (1, 2))
    ranked = sorted(first, key=lambda r: r["best"])
    arms = [(r["method"], r["setting"]["learning_rate"]) for r in second]
    for method in ("AdamW", "SGDM", "Lion"):
        best = next(r for r in ranked if r["method"] == method)
        assert (method, best["setting"]["learning_rate"]) in arms
    others = [r for r in ranked if (r["method"], r["setting"]["learning_rate"]) not in arms]
    assert min(r["best"] for r in others) >= sorted(r["best"] for r in second)[-4]
    # The verdict, by hand.
    values = {m: [r["best"] for r in final if r["method"] == m] for m in clock}
    best = min(values, key=lambda m: np.mean(values[m]))
    p = {m: reference.ttest_rel(values[m], values[best]).pvalue for m in values if m != best}
    low, high = sorted(p.values())
    holm = {m: min(1.0, max(2 * low, high) if x == high else 2 * low) for m, x in p.items()}
    assert verdict.tests(content) == pytest.approx(holm)
    text = (tmp_path / "out" / "verdict.md").read_text()
    mean, std = np.mean(values[best]), np.std(values[best], ddof=1)
    assert f"**{best}** with the" in text
    assert f"z first {mean:.4g} ± {std:.2g} over 5 seeds" in text
    stored = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert verdict.markdown(stored) == text
    near = math.ceil(0.25 * len(first))
    for method in clock:
        count = sum(r["method"] == method for r in ranked[:near])
        assert f"{count} of {size.settings}" in next(
            line for line in text.splitlines()[20:] if line.startswith(f"| {method} | final")
        )
    # The same command again trains nothing, and writes the same page.
    monkeypatch.setattr(training, "run_population", lambda *args, **options: 1 / 0)
    again, _ = _compare(quadratic, tmp_path / "out", budget="800")
    assert verdict.markdown(again) == text


def test_runs_that_do_not_depend_on_the_seed_are_not_tested():
    runs = [
        {"round": halving.FINAL, "method": m, "seed": s, "best": x, "diverged": 0.0}
        for m, x in (("a", 1.0), ("b", 2.0), ("c", 3.0))
        for s in range(5)
    ]
    assert all(map(math.isnan, verdict.tests({"runs": runs}).values()))
    runs[0]["best"] = 1.1
    assert not any(map(math.isnan, verdict.tests({"runs": runs}).values()))
    runs[-1]["diverged"] = 1.0
    found = verdict.finals({"runs": runs})
    assert list(found) == ["a", "b", "c"]
    assert found["c"][-1] == math.inf


def test_a_changed_file_is_trained_anew(quadratic):
    first = own_model.fingerprint(quadratic)
    with open(quadratic, "a") as file:
        file.write("# A remark.\n")
    own_model.build.cache_clear()
    assert own_model.fingerprint(quadratic) != first


def test_a_time_becomes_gradients_once(quadratic, tmp_path, monkeypatch):
    paces = iter([(0.01, 1.0)])
    monkeypatch.setattr(halving, "_pace", lambda maker, compared: next(paces))
    found = methods.find("SGDM, Lion")
    version = own_model.fingerprint(quadratic)
    maker = halving._Maker(quadratic, version, {m.name: m for m in found}, tmp_path, print)
    budget = halving.parse_budget("20s")
    size, seconds = halving._plan(maker, found, budget, tmp_path)
    # Two methods compile twice in the worst case: (20 - 4) / 0.01 gradients are left.
    assert size == halving.sizes(2, 0, 36, 1600)
    assert seconds == pytest.approx(4 + 0.01 * size.gradients)  # 24 settings are the most.
    assert halving._plan(maker, found, budget, tmp_path)[0] == size
    with pytest.raises(StopIteration):  # Another budget is measured again.
        halving._plan(maker, found, halving.parse_budget("21s"), tmp_path)


def test_sizes():
    # 14 methods, one without tuning, 5 settings: 66 x 100, 22 x 300, 8 x 900, and 3 x 5 x 900.
    cost = 66 * 100 + 22 * 300 + 8 * 900 + 13500
    assert halving.sizes(13, 1, 900, cost) == (5, (66, 22, 8), 5, cost)
    assert halving.sizes(13, 1, 900, cost - 1).settings == 4
    fewest = 14 * 100 + 5 * 300 + 3 * 900 + 3 * 3 * 900
    assert halving.sizes(13, 1, 900, fewest) == (1, (14, 5, 3), 3, fewest)
    with pytest.raises(ValueError, match=f"--budget must be at least {fewest} gradients"):
        halving.sizes(13, 1, 900, fewest - 1)
    assert halving.sizes(2, 0, 1, 10**6).arms[0] == 2 * halving.MOST_SETTINGS


@pytest.mark.parametrize("text", ["", "ten", "0", "-5m", "inf", "nan", "5d"])
def test_budgets_that_are_none(text):
    with pytest.raises(ValueError, match="--budget must be a time"):
        halving.parse_budget(text)


def test_schedules_take_turns_unless_they_belong_to_the_method():
    schedules = {
        name: {a.schedule for a in halving._arms(methods.find(name)[0], 4)}
        for name in ("AdamW", "schedule-free AdamW", "Prodigy")
    }
    assert schedules == {
        "AdamW": {"cosine", "rex", "constant"},
        "schedule-free AdamW": {"constant"},
        "Prodigy": {"cosine"},
    }


@pytest.mark.parametrize(
    ("name", "schedule"), [("AdamW", "cosine"), ("SGDM", "rex"), ("cautious Lion", "constant")]
)
def test_the_pasted_lines_are_the_method(name, schedule):
    (method,) = methods.find(name)
    setting = methods.trials(method, 0, 3)[1]
    lines = methods.code(method, setting, schedule, 40)
    scope = {"optax": optax, "optim": optim}
    exec(lines, scope)
    pasted, ours = scope["tx"], methods.build(method)
    params = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]])}
    place = list(methods.SCHEDULES).index(schedule)

    @jax.jit
    def updates_of_both(a, b, grads):
        u, a = pasted.update(grads, a, params)
        v, b = ours.update(grads, b, params, 0.0)
        return u, v, a, b

    a, b = pasted.init(params), ours.init(params, setting, 40, 2, place)
    rng = np.random.default_rng(0)
    for _ in range(5):
        grads = {"w": rng.normal(size=(2, 2)).astype(np.float32)}
        u, v, a, b = updates_of_both(a, b, grads)
        np.testing.assert_allclose(u["w"], v["w"], rtol=2e-5)


def test_every_method_can_be_pasted():
    for method in methods.find(None):
        setting = (methods.trials(method, 0, 1))[0] or {"learning_rate": 1.0}
        lines = methods.code(method, setting, "cosine", 100)
        scope = {"optax": optax, "optim": optim}
        exec(lines, scope)
        assert callable(scope["tx"].update), method.name


def test_factor_of_the_rate():
    at = [float(methods.factor(t, 10, 2, 0)) for t in range(12)]
    cosine = [0.5 * (1 + math.cos(math.pi * min(t - 2, 8) / 8)) for t in range(2, 12)]
    np.testing.assert_allclose(at, [0.5, 1.0, *cosine], atol=1e-6)
    rex = [float(methods.factor(t, 10, 2, 1)) for t in range(2, 11)]
    np.testing.assert_allclose(rex, [optim.rex_schedule(1.0, 8)(t) for t in range(9)], atol=1e-6)
    assert [float(methods.factor(t, 10, 2, 2)) for t in (0, 5, 12)] == [0.5, 1.0, 1.0]


def test_settings_side_by_side_are_those_one_by_one(quadratic):
    (method,) = methods.find("SGDM")
    version = own_model.fingerprint(quadratic)
    settings = [
        {"learning_rate": lr, "one_minus_momentum": 0.2, "weight_decay": 0.0}
        for lr in (0.01, 1e4, 0.1)
    ]
    configs = [training.config_of(quadratic, version, method, s, 3, 200) for s in settings]
    together = training.run_population(configs)
    for one, config in zip(together, configs, strict=True):
        alone = training.run(config)
        assert one.final["diverged"] == alone.final["diverged"]
        assert [h["step"] for h in one.history][: len(alone.history)] == [
            h["step"] for h in alone.history
        ]
        if not one.final["diverged"]:
            np.testing.assert_allclose(one.final["best"], alone.final["best"], rtol=1e-5)
    assert [r.final["diverged"] for r in together] == [0.0, 1.0, 0.0]
    assert "best" not in together[1].final or np.isfinite(together[1].final["best"])


NNX = """
import numpy as np
from flax import nnx
inputs = np.arange(40, dtype=np.float32).reshape(20, 2) / 40
targets = np.arange(20, dtype=np.int32) % 3
batch_size = 5
def model(rngs):
    return nnx.Linear(2, 3, rngs=rngs)
"""
LINEN = """
import numpy as np
import flax.linen as nn
inputs = np.arange(40, dtype=np.float32).reshape(20, 2) / 40
targets = np.arange(20, dtype=np.float32)[:, None]
valid_inputs, valid_targets = inputs[:3], targets[:3] + 1
model = nn.Dense(1)
"""


def test_modules_with_arrays(tmp_path):
    (tmp_path / "net.py").write_text(NNX)
    made = own_model.build(str(tmp_path / "net.py"))
    train, valid = made.data["train"], made.data["valid"]
    assert (len(train["inputs"]), len(valid["inputs"]), made.batch_size) == (16, 4, 5)
    rows = np.concatenate([train["inputs"], valid["inputs"]])[:, 0]
    assert sorted(rows) == sorted(np.arange(0, 40, 2, dtype=np.float32) / 40)
    params, stats = made.init(jax.random.key(0))
    logits = valid["inputs"] @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(4), valid["targets"]]
    np.testing.assert_allclose(made.evaluate(params, stats, valid), expected.mean(), rtol=1e-5)

    (tmp_path / "dense.py").write_text(LINEN)
    made = own_model.build(str(tmp_path / "dense.py"))
    assert (len(made.data["train"]["inputs"]), len(made.data["valid"]["inputs"])) == (20, 3)
    params, stats = made.init(jax.random.key(0))
    valid = made.data["valid"]
    outputs = valid["inputs"] @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    expected = np.square(outputs - valid["targets"]).mean()
    np.testing.assert_allclose(made.evaluate(params, stats, valid), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["functions", "nnx", "linen"])
def test_the_examples_are_models(name):
    own_model.build.cache_clear()
    made = own_model.build(f"{EXAMPLES}/own_model_{name}.py")
    first, second = (made.init(jax.random.key(seed))[0] for seed in (0, 1))
    differ = jax.tree.map(lambda a, b: bool(np.any(a != b)), first, second)
    assert any(jax.tree.leaves(differ))


def test_without_evaluate_later_batches_decide_and_larger_can_be_better(tmp_path):
    text = QUADRATIC.replace("def evaluate", "def unused")
    (tmp_path / "later.py").write_text(text)
    made = own_model.build(str(tmp_path / "later.py"))
    params = {"w": jnp.array([0.0, 1.0, 2.0])}
    later = [np.random.default_rng([0, 36 + i]).normal(size=3).astype(np.float32) for i in range(8)]
    expected = np.mean([np.sum((np.array([0, 1, 2]) - b) ** 2) for b in later])
    found = made.evaluate(params, {}, made.data["valid"])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    (tmp_path / "large.py").write_text(QUADRATIC + "maximize = True\n")
    made = own_model.build(str(tmp_path / "large.py"))
    assert made.metric == "minus z first"
    assert float(made.evaluate(params, {}, {})) == -6.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("def loss", "def other"), "has no function loss: it needs init"),
        (("def batches", "def other"), "has no function batches"),
        (("jnp.sum((params", "((params"), r"loss of .* must be a scalar, got shape \(3,\)"),
        (("2.0 + jax", "jnp.nan + 0 * jax"), r"the loss of .* is nan at init"),
        (
            ("2.0 + jax.random.normal(key, (3,))", "jnp.full(3, 2)"),
            r"parameter \['w'\] of .* must be a floating",
        ),
        (("steps = 36", "steps = 0"), "steps of .* must be an integer >= 1, got 0"),
        (('{"z first": 1 +', '{"z first": np.sqrt(params["w"]) +'), "made of JAX functions"),
        (('return {"z first": 1 + jnp.sum', "return (jnp.sum"), "must return a dict of scalars"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, change, message):
    text = QUADRATIC.replace(*change)
    if "return (jnp.sum" in text:
        text = text.replace(', "a second": jnp.float32(0)}', ")")
    assert text != QUADRATIC
    (tmp_path / "bad.py").write_text(text)
    own_model.build.cache_clear()
    with pytest.raises(ValueError, match=message):
        own_model.build(str(tmp_path / "bad.py"))


def test_commands_that_cannot_be_run(quadratic, tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        own_model.build(str(tmp_path / "nowhere.py"))
    with pytest.raises(ValueError, match=r"sophia cannot be compared on .*quadratic"):
        _compare(quadratic, tmp_path, "AdamW, sophia")
    with pytest.raises(ValueError, match="at least two methods"):
        _compare(quadratic, tmp_path, "AdamW")
    with pytest.raises(ValueError, match="names two methods 'AdamW'"):
        _compare(quadratic, tmp_path, "AdamW, AdamW")
    with pytest.raises(ValueError, match="--budget must be at least"):
        _compare(quadratic, tmp_path, budget="10")
    (tmp_path / "broken.py").write_text(QUADRATIC + "model = 3\ninputs = targets = np.ones(4)\n")
    with pytest.raises(ValueError, match=r"`model` of .* must be a Linen module"):
        own_model.build(str(tmp_path / "broken.py"))
