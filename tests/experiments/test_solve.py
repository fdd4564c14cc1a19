"""The bilevel main: every config runs, resumes bit for bit, and says what is wrong."""

import contextlib
import importlib.util
import inspect
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel
from experiments import problems, solve
from experiments.problems import constrained, task
from experiments.solving import curves, solvers

CONFIGS = Path(__file__).parents[2] / "configs" / "bilevel"


SHARED = ("__init__", "common")


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    # The main spreads a run over all devices; here they are virtual and only cost time.
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def module_of(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config_of(name, arg=""):
    return module_of(name).get_config(arg)


@pytest.mark.parametrize(
    ("name", "arg"),
    [
        ("closed_form", "p3,penalty"),
        ("constrained", "llsc"),
        ("svm", "digits,flip,lv_hba"),
        ("svm", "digits,implicit"),
        ("regularization", "implicit"),
        ("hyper_representation", "unrolled"),
    ],
)
def test_problems_and_solvers_of_the_configs_fit(name, arg):
    config = config_of(name, f"{arg},smoke")
    kind, options = config.solver.name, dict(config.solver.options)
    t = problems.build(config.problem.name, **dict(config.problem.options))
    solver = solvers.build(kind, options, t, config.batch_size)
    batches, prepare = solvers.feed(solver, t, config.batch_size, 0)

    def two_steps():
        state = solver.init(t.problem, t.x0, t.y0)
        inputs = None if batches is None else next(batches(0))
        batch = None if prepare is None else prepare(t.data, inputs, None)
        state, metrics = solver.step(*(state, batch))
        return t.evaluate(t.data, state.x, state.y), metrics, solver.step(state, batch)[0]

    scores, metrics, state = jax.eval_shape(two_steps)
    assert all(v.shape == () for v in (*scores.values(), *metrics.values()))
    assert "objective" in scores
    if t.groups is not None:
        x, y = (jax.tree.map(lambda a: np.zeros(a.shape), part) for part in (state.x, state.y))
        assert all(np.ndim(v) == 1 for v in t.groups(t.data, x, y).values())


@pytest.mark.parametrize(
    ("name", "arg"), [("closed_form", "p1,noisy,saba"), ("loss_tuning", "f2sa")]
)
def test_smoke_runs_of_the_configs(name, arg, monkeypatch):
    config = config_of(name, f"{arg},smoke")
    if name == "loss_tuning":
        monkeypatch.setattr(jax, "device_count", lambda: 8)
        assert config.batch_size % 8 == 0
    result = solve.run(config, quiet=True)
    assert result.final["steps"] == 4
    assert all(np.isfinite(v) for v in result.final.values())
    assert [row["step"] for row in result.history if "objective" in row] == [0, 2, 4]
    assert result.final["gradients"] == {"saba": 4 * 4, "f2sa": 4 * 33}[config.solver.name]


def test_every_solver_of_every_config_can_be_built():
    nothing = task.Task(None, None, None, None)
    for name in (file.stem for file in CONFIGS.glob("*.py") if file.stem not in SHARED):
        table = module_of(name).SOLVERS
        for solver in table:
            config = config_of(name, f"{solver},smoke")
            assert config.steps == 4
            assert solvers.build(config.solver.name, config.solver.options, nothing).step


@pytest.mark.parametrize(
    ("name", "arg", "key", "value"),
    [
        ("loss_tuning", "mnist", "data", "mnist"),
        ("cleaning_mnist", "mlp,fashion", "data", "fashion_mnist"),
        ("svm", "fourclass,flip", "flip", 0.4),
        ("closed_form", "p1,noisy", "noisy", True),
        ("constrained", "llsc_long", "orthonormal", True),
    ],
)
def test_words_of_the_configs(name, arg, key, value):
    config = config_of(name, arg)
    assert config.problem.options[key] == value
    taken = inspect.signature(problems.PROBLEMS[config.problem.name]).parameters
    assert set(config.problem.options) <= set(taken)


def test_cleaning_learns_resumes_and_leaves_its_files(tmp_path):
    config = config_of("cleaning_digits", "penalty")
    config.problem.options.train = config.problem.options.valid = 200
    config.steps, config.log_every = 40, 20
    whole = solve.run(config, tmp_path / "a", quiet=True)
    assert whole.final["auc"] > 0.9
    assert whole.final["test/accuracy"] > 0.8

    class Stopped(Exception):
        pass

    def stop(step):
        if step >= 20:
            raise Stopped

    with pytest.raises(Stopped):
        solve.run(config, tmp_path / "b", quiet=True, stop=stop)
    again = solve.run(config, tmp_path / "b", quiet=True)
    assert whole.final | {"seconds": 0} == again.final | {"seconds": 0}

    def text(folder):
        return (folder / "metrics.jsonl").read_text().splitlines()

    rows = [[json.loads(line) | {"seconds": 0} for line in text(tmp_path / d)] for d in "ab"]
    assert rows[0] == rows[1]
    assert (tmp_path / "a" / "curves.png").stat().st_size > 1000
    config.steps = 50
    with pytest.raises(ValueError, match="another config"):
        solve.run(config, tmp_path / "a", quiet=True)


def test_stops_at_the_given_seconds():
    config = config_of("closed_form", "p1,noisy,saba,smoke")
    config.steps, config.seconds = 10**6, 0.01
    final = solve.run(config, quiet=True).final
    assert final["steps"] < 10**6
    assert final["gradients"] == 4 * final["steps"]


def test_batches_are_a_function_of_seed_and_step_and_differ_between_oracles():
    t = problems.build("loss_tuning", seed=0)
    batches, prepare = solvers.feed(bilevel.f2sa(0.1, 0.1, inner_steps=3), t, 8, 5)
    first, second = (next(batches(s)) for s in (0, 1))
    np.testing.assert_array_equal(next(iter(batches(1))).f_x, second.f_x)
    assert first.g_y.shape == (8, 3)
    assert not np.array_equal(first.g_y, first.g_z)
    batch = prepare(t.data, first, None)
    assert batch.g_y["x"].shape == (3, 8, 64)
    np.testing.assert_array_equal(batch.g_z["label"][1], t.data["train"]["label"][first.g_z[:, 1]])
    np.testing.assert_array_equal(batch.f_x["label"], t.data["valid"]["label"][first.f_x])
    pair, take = solvers.feed(bilevel.soba(), t, 8, 5)
    assert take(t.data, next(pair(0)), None)[1]["x"].shape == (8, 64)
    blocks, take = solvers.feed(bilevel.saba(1, 1), t, 8, 5)
    (i, part), _ = take(t.data, next(blocks(3)), None)
    np.testing.assert_array_equal(part["x"], t.data["valid"]["x"][8 * i : 8 * i + 8])
    whole, take = solvers.feed(bilevel.soba(), t, 0, 5)
    assert whole is None
    assert take(t.data, None, None)[0]["x"].shape == t.data["valid"]["x"].shape


def test_svm_keeps_its_weights_in_their_interval():
    for form in ("hinge", "constrained"):
        t = problems.build("svm", data="digits", form=form, bounds=(-5.5, -5.2))
        assert -5.5 <= t.x0.min() < t.x0.max() <= -5.2
        far = t.x0 + np.where(np.arange(t.x0.size) % 2, 1.0, -1.0).astype(np.float32)
        if form == "hinge":
            x = t.problem.project_x(far)
        else:
            x, y = jax.jit(t.problem.project_xy)(far, t.y0)
            assert float(jnp.max(t.problem.constraint(x, y))) < 1e-5
        np.testing.assert_array_equal(x, np.where(np.arange(x.size) % 2, -5.2, -5.5).astype("f4"))


def test_step_sizes_on_one_line():
    short = {"upper_step": ("adam", 0.1), "lower_step": ("power", 2.0, -0.5), "inner_steps": 1}
    assert float(solvers._value("lower_step", short["lower_step"])(3)) == 1.0
    t = problems.build("p1")
    with pytest.raises(ValueError, match="upper_step: unknown 'adm'; nearest: adam"):
        solvers.build("implicit", short | {"upper_step": ("adm", 0.1)}, t)
    ends = []
    # A table's chosen point comes back from JSON, with lists.
    for options in (
        short,
        short | {"upper_step": {"adam": 0.1}, "lower_step": ["power", 2.0, -0.5]},
    ):
        solver = solvers.build("implicit", options, t)
        ends.append(jax.jit(solver.step)(solver.init(t.problem, t.x0, t.y0), None)[0])
    np.testing.assert_array_equal(ends[0].x, ends[1].x)
    assert not np.array_equal(ends[0].x, t.x0)


def test_auc_and_gradient_counts():
    scores, positive = jnp.array([0.1, 0.4, 0.4, 0.9]), jnp.array([False, True, False, True])
    assert float(task.auc(scores, positive)) == 0.875
    assert float(task.auc(jnp.zeros(4), positive)) == 0.5
    assert bilevel.penalty(0.1, 0.5, 0.1, momentum=0.5).gradients.total == 12
    counts = bilevel.implicit(inner_steps=4, linear_steps=5).gradients
    assert counts == bilevel.Gradients(upper=1, lower=5, products=7)
    assert counts.total == 4 + 2 + 2 * 7
    assert bilevel.unrolled(3).gradients.total == 10


def test_llc_optimum():
    t = constrained.llc(n=4)
    best = np.full(4, -0.3), {"y1": np.full(4, 0.7), "y2": np.full(4, -0.4)}
    assert float(t.evaluate(None, *best)["error"]) < 1e-6
    x, y = best
    dy = jax.grad(t.problem.lower, 1)(x, y, None)
    # The multiplier -1 of the constraint's all-ones gradient makes the lower gradient vanish.
    np.testing.assert_allclose(dy["y1"] - 1, 0, atol=1e-6)
    np.testing.assert_allclose(dy["y2"] - 1, 0, atol=1e-6)
    assert abs(float(t.problem.constraint(x, y)[0])) < 1e-6


def test_diagnose_flags_the_authors_llc_steps_and_passes_the_tuned_ones():
    tuned = dict(module_of("constrained").SOLVERS["llc"])
    official = {
        "upper_step": 0.008,
        "multiplier_step": 0.02,
        "lower_step": 0.01,
        "prox": 10.0,
        "multiplier_prox": 10.0,
    }
    with jax.enable_x64(True):
        t = constrained.llc()
        best = np.full(100, -0.3), {"y1": np.full(100, 0.7), "y2": np.full(100, -0.4)}
        for options in (official | {"penalty": ("power", 0.025, 0.3)}, tuned):
            solver = solvers.build("lv_hba", {k: v for k, v in options.items() if k != "name"}, t)
            state = solver.init(t.problem, *best)
            state = state._replace(lam=-jnp.ones(1), z=-jnp.ones(1), count=jnp.array(1499))
            stable = options["penalty"] == tuned["penalty"]
            with contextlib.nullcontext() if stable else pytest.warns(match="locally unstable"):
                found = bilevel.diagnose(t.problem, solver, state)
            assert found.stable == stable
            if not stable:
                assert 1.011 <= found.spectral_radius <= 1.014  # Of the authors' map, by hand.


def test_llsc_with_orthonormal_rows_is_the_same_problem():
    with jax.enable_x64(True):
        plain, other = (constrained.llsc(seed=3, orthonormal=o) for o in (False, True))
        assert (plain.project_theta is None, other.project_theta is None) == (False, True)
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(2, 100))
        m = constrained.llsc_matrices()
        rows = jax.jacobian(other.problem.constraint, 1)(x, y)
        away = np.linalg.pinv(m["A"]) @ plain.problem.constraint(x, y)  # To the set, in y.
        np.testing.assert_allclose(rows.T @ other.problem.constraint(x, y), away, atol=1e-9)
        np.testing.assert_allclose(rows @ rows.T, np.eye(90), atol=1e-12)


def test_bad_input():
    for change, text in (
        (lambda c: c.problem.update(name="cleanin"), "unknown problem 'cleanin'.*cleaning"),
        (lambda c: c.problem.options.update(nois=0.2), "takes no 'nois'; it takes"),
        (lambda c: c.problem.options.update(noise=1.5), r"noise must be in \(0, 1\)"),
        (lambda c: c.problem.options.update(train=10**6), "at most 1437 together"),
        (lambda c: c.solver.update(name="penalt"), "unknown solver 'penalt'.*penalty"),
        (lambda c: c.solver.options.update(alpa=1.0), "takes no 'alpa'; it takes upper_step"),
        (lambda c: c.solver.options.update(upper_step={"adm": 1.0}), "unknown 'adm'.*adam"),
        (lambda c: c.solver.update(name="soba"), "takes no .* --config=FILE:SOLVER"),
        (
            lambda c: c.update(batch_size=-1),
            r"batch_size \(0: all samples\) must be an integer >= 0",
        ),
        (lambda c: c.update(log_every=0), "log_every must be an integer >= 1, got 0"),
    ):
        config = config_of("cleaning_digits")
        with config.unlocked():
            change(config)
        with pytest.raises(ValueError, match=text):
            solve.run(config, quiet=True)
    with pytest.raises(ValueError, match="solver 'lv_hba' needs 'upper_step'"):
        solvers.build("lv_hba", {}, problems.build("p1"))
    with pytest.raises(ValueError, match="needs --data_dir, a folder that holds lvhba/diabete"):
        solve.run(config_of("svm"), quiet=True)
    with pytest.raises(
        ValueError,
        match="argument must be of penalty, f2sa, implicit, unrolled, soba, smoke, got 'penalti'",
    ):
        config_of("cleaning_digits", "penalti")
    assert curves.line(None, [], "x", "y", "-") is None
