"""The train main: what a run leaves, that it resumes to the bit, and what it says of bad input."""

import json
import signal
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import digits
from experiments import data, models, train
from experiments.common import checkpoints, config_files, launch, runs
from experiments.supervised import curves, optimizers, training


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    # The main spreads a run over all devices; here they are virtual and only cost time.
    monkeypatch.setattr(jax, "device_count", lambda: 1)


draw_curves = curves.draw_curves


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    # One takes as long as these runs.
    monkeypatch.setattr(curves, "draw_curves", lambda rows, file, title: file.touch())


def config_of(**overrides):
    config = digits.get_config()
    config.model.options = {"widths": (16,)}
    config.update({"steps": 40, "log_every": 5, "eval_every": 20, "save_every": 10})
    config.optimizer.learning_rate = 0.03
    with config.unlocked():
        config.update_from_flattened_dict(overrides)
    return config


def untimed(rows):
    return [{k: v for k, v in row.items() if k not in runs.TIME_FIELDS} for row in rows]


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def final_state(workdir, config):
    state, _ = training.start(training.job_of(config, None), [config])
    store = checkpoints.Checkpoints(workdir / "checkpoints")
    restored = store.restore(state)
    store.close()
    assert restored is not None
    return restored


def test_a_run_leaves_its_files_and_repeats_them(tmp_path, capsys):
    result = train.run(config_of(), tmp_path / "a", quiet=True)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"config.json", "metrics.jsonl", "result.json", "checkpoints", "curves.png"}
    rows = lines(tmp_path / "a")
    assert rows == result.history
    assert [row["step"] for row in rows if "loss" in row] == list(range(5, 45, 5))
    assert [row["step"] for row in rows if "valid/loss" in row] == [20, 40]
    (tested,) = [row for row in rows if "test/loss" in row]
    left = json.loads((tmp_path / "a" / "result.json").read_text())
    assert left == {"final": result.final}
    for key in ("test/loss", "test/accuracy"):
        assert tested[key] == result.final[key]
    wanted = {"loss", "accuracy", "lr", "gradient_norm", "update_norm", "parameter_norm"}
    assert wanted | {"step", "examples", *runs.TIME_FIELDS} == set(rows[0])
    assert result.final["test/accuracy"] > 0.7
    assert rows[-1]["step"] == 40
    again = train.run(config_of(), None, quiet=True)
    assert untimed(again.history) == untimed(result.history)
    assert again.final == result.final
    assert "already complete" not in capsys.readouterr().out
    assert train.run(config_of(), tmp_path / "a").final == result.final
    assert lines(tmp_path / "a") == rows
    assert f"already complete: {tmp_path / 'a'}" in capsys.readouterr().out


def test_evaluation_counts_every_example_once():
    config = config_of(eval_batch_size=100)  # 144 examples: the second batch is padded.
    state, _ = training.start(training.job_of(config, None), [config])
    means = training.job_of(config, None).evaluate(state, "valid")
    dataset = data.load("digits")
    model = models.build("mlp", input_shape=(8, 8, 1), num_classes=10, widths=(16,))
    x = dataset.valid["image"].astype(np.float32) / 16.0
    logits, _ = model.apply(state.params, state.stats, x, train=False)
    label = dataset.valid["label"]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    np.testing.assert_allclose(means["loss"], loss.mean(), rtol=1e-5)
    np.testing.assert_allclose(means["accuracy"], (logits.argmax(-1) == label).mean(), rtol=1e-5)


def test_resumes_to_the_bit(tmp_path):
    calm = train.run(config_of(), tmp_path / "calm", quiet=True)
    for at in (10, 25):  # At a save, and between two.
        with pytest.raises(launch.Preempted, match=f"after step {at}"):
            train.run_population(
                [config_of()], tmp_path / "cut", quiet=True, stop=lambda step, at=at: step >= at
            )
        # A kill may leave lines beyond the last checkpoint, the last of them cut short.
        before = max(row["seconds"] for row in lines(tmp_path / "cut"))
        with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": at + 5, "loss": 0.0}) + "\n" + '{"step": 4')
    resumed = train.run(config_of(), tmp_path / "cut", quiet=True)
    assert untimed(lines(tmp_path / "cut")) == untimed(lines(tmp_path / "calm"))
    assert resumed.final == calm.final
    seconds = [row["seconds"] for row in lines(tmp_path / "cut")]
    assert seconds == sorted(seconds)
    assert seconds[-1] > before
    (want, a), (got, b) = (final_state(tmp_path / n, config_of()) for n in ("calm", "cut"))
    assert (a, b) == (40, 40)
    for x, y in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        assert np.array_equal(x, y)


def test_kill_and_resume(tmp_path):
    # The script kills ten times, and resumes by the same command.
    from benchmarks import kill_and_resume

    keys = dict(key.split("=") for key in (*kill_and_resume.OFTEN, "epochs=2.0"))
    command = [sys.executable, "-m", "experiments.train", f"--workdir={tmp_path / 'killed'}"]
    process = subprocess.Popen([*command, *(f"--config.{k}={v}" for k, v in keys.items())])
    log = tmp_path / "killed" / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and len(log.read_text().split("\n")) > 4):
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    config = config_files.override_texts(config_files.load("configs/digits.py"), keys)
    for folder in ("calm", "killed"):
        train.run(config, tmp_path / folder, quiet=True)
    calm, killed = (kill_and_resume.outcome(tmp_path / name, None) for name in ("calm", "killed"))
    assert calm[0] == killed[0]
    jax.tree.map(np.testing.assert_array_equal, calm[1], killed[1])


def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
    calm = train.run(config_of(), tmp_path, quiet=True)
    newest = tmp_path / "checkpoints" / "40" / "default"
    largest = max(newest.rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    with pytest.warns(UserWarning, match="checkpoints/40 cannot be read .* taking the one before"):
        again = train.run(config_of(), tmp_path, quiet=True)
    assert again.final == calm.final
    assert (tmp_path / "checkpoints" / "damaged-40").exists()
    assert (tmp_path / "checkpoints" / "40").exists()


def test_checkpoint_of_another_model_is_refused(tmp_path):
    store = checkpoints.Checkpoints(tmp_path)
    store.save(3, {"w": jnp.zeros((2, 3))})
    store.close()
    for other in ({"w": jnp.zeros((3, 2))}, {"v": jnp.zeros((2, 3))}):
        store = checkpoints.Checkpoints(tmp_path)
        with pytest.raises(ValueError, match=r"3 is of another model or optimizer: [wv] is"):
            store.restore(other)
        store.close()


def test_a_save_that_fails_is_one_line_and_leaves_those_before_it(tmp_path, monkeypatch):
    store = checkpoints.Checkpoints(tmp_path)
    store.save(1, {"w": jnp.zeros(3)})
    store.close()
    store = checkpoints.Checkpoints(tmp_path)

    def full(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: " + "long\n" * 100 + "No space left on device")

    monkeypatch.setattr(store._manager, "save", full)
    with pytest.raises(
        OSError, match=r"could not be written to .* No space left on device"
    ) as error:
        store.save(2, {"w": jnp.ones(3)})
    assert "\n" not in str(error.value)
    store.close()
    store = checkpoints.Checkpoints(tmp_path)
    _, step = store.restore({"w": jnp.ones(3)})
    store.close()
    assert step == 1


def test_ctrl_c_while_a_main_still_imports_is_one_line():
    command = [sys.executable, "-X", "importtime", "-m", "experiments.train"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.split("|")[-1].strip() == "experiments":  # From here on it is a main of ours.
                process.send_signal(signal.SIGINT)
                break
        rest = [line for line in process.stderr if not line.startswith("import time:")]
    assert process.returncode == 130
    assert rest == ["interrupted before anything began\n"]


def test_keeps_the_latest_and_the_best(tmp_path):
    store = checkpoints.Checkpoints(tmp_path, keep=2, best="accuracy")
    for step, accuracy in enumerate([0.1, 0.9, 0.3, 0.4, 0.5], start=1):
        store.save(step, {"w": jnp.full(3, step)}, {"accuracy": accuracy})
    store.close()
    assert {p.name for p in tmp_path.iterdir()} == {"2", "4", "5"}


def test_population_equals_single_runs(tmp_path):
    settings = [(0, 1e-3), (1, 3e-3), (2, 1e-2)]
    configs = [config_of(seed=s, **{"optimizer.learning_rate": lr}) for s, lr in settings]
    together = train.run_population(configs, tmp_path, quiet=True)
    assert (tmp_path / "run_2" / "curves.png").exists()
    left = json.loads((tmp_path / "result.json").read_text())
    accuracies = [r.final["test/accuracy"] for r in together]
    assert left["finals"] == [r.final for r in together]
    np.testing.assert_allclose(left["mean"]["test/accuracy"], np.mean(accuracies))
    np.testing.assert_allclose(left["std"]["test/accuracy"], np.std(accuracies, ddof=1))
    for config, result in zip(configs, together, strict=True):
        single = train.run(config, quiet=True)
        assert single.final.keys() == result.final.keys()
        np.testing.assert_allclose(
            list(single.final.values()), list(result.final.values()), rtol=1e-5
        )
        assert len(single.history) == len(result.history)


def test_population_over_learning_rates_is_vectorized_and_counts_the_diverged(tmp_path):
    logistic = {"model.name": "logistic", "model.options": {}, "optimizer.name": "sgd"}
    logistic |= {"optimizer.weight_decay": 0.01, "optimizer.clip_norm": None}
    configs = [config_of(**logistic, **{"optimizer.learning_rate": lr}) for lr in (0.1, 1e30)]
    good, bad = train.run_population(configs, quiet=True)
    np.testing.assert_allclose(
        good.final["test/loss"], train.run(configs[0], quiet=True).final["test/loss"], rtol=1e-5
    )
    assert not np.isfinite(bad.final["test/loss"])
    with pytest.raises(FloatingPointError, match="at step"):
        train.run(configs[1], tmp_path, quiet=True)
    assert "at step" in json.loads((tmp_path / "result.json").read_text())["stopped"]


def test_configs_of_a_population_share_all_but_seed_rate_and_decay():
    with pytest.raises(ValueError, match=r"may differ in seed, optimizer\.learning_rate and"):
        train.run_population([config_of(), config_of(batch_size=32)], quiet=True)


def test_workdir_of_another_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[1]")  # Foreign: as if it was not there.
    runs.claim(tmp_path, config_of(), "train")
    with pytest.raises(ValueError, match=r"another config \(batch_size: 64 there, 32 now\)"):
        runs.claim(tmp_path, config_of(batch_size=32), "train")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optimizer.name": "adamm"}, "unknown optimizer 'adamm'; nearest: adam"),
        (
            {"optimizer.momentum": 0.9},
            "optimizer 'adamw' takes no optimizer.momentum",
        ),
        ({"schedule.name": "cosin"}, "unknown schedule 'cosin'; nearest: cosine"),
        ({"schedule.power": 2}, "schedule 'cosine' takes no schedule.power; nearest: "),
        ({"schedule.warmup": 40}, r"schedule.warmup must be in \[0, 40\) steps, got 40"),
        ({"model.name": "mpl"}, "unknown model 'mpl'; nearest: mlp"),
        (
            {"model.options": {"width": 3}},
            r"model 'mlp' takes no model.options.width; it takes widths, init",
        ),
        ({"model.options": {"widths": (8, 0)}}, r"widths\[1\] must be an integer >= 1, got 0"),
        ({"data.name": "digit"}, "unknown data set 'digit'; nearest: digits"),
        ({"batch_size": -1}, "batch_size must be an integer >= 1, got -1"),
        ({"log_every": 0}, "log_every must be an integer >= 1, got 0"),
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"steps": None, "epochs": -3.0}, r"epochs must be >= 0.05, .* got -3"),
        ({"steps": None, "epochs": float("nan")}, "epochs must be finite, got nan"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
        ({"optimizer.clip_norm": -1.0}, r"optimizer.clip_norm must be > 0, got -1"),
        ({"batch_size": 10**6}, "batch_size must be <= 1293, the training examples of digits"),
        ({"eval_every": -1}, "eval_every must be an integer >= 1, got -1"),
        ({"optimizer.name": "sgd", "optimizer.learning_rate": -1.0}, "learning_rate must be >= 0"),
        ({"optimizer.learning_rate": None}, "learning_rate must be a number, >= 0, got None"),
        ({"optimizer.name": "lion_k"}, r"optimizer 'lion_k' needs optimizer\.kappa"),
        ({"optimizer.name": "lion_k", "optimizer.kappa": "hubr"}, "kappa 'hubr'; .* huber"),
        ({"optimizer.name": "lion_k", "optimizer.kappa": "huber"}, "kappa 'huber': .* missing"),
        ({"steps": 2**31}, "a run may have up to 2147483647 steps, got 2147483648"),
        ({"optimizer.name": "sophia"}, "optimizer 'sophia' cannot be used here"),
        ({"optimizer.name": "lbfgs"}, "optimizer 'lbfgs' cannot be used here: .*value_fn"),
        ({"groups": ("kernel", {})}, "groups must be .* got the rule 'kernel'"),
        ({"groups": (("(", {}),)}, r"groups: '\(' is no regex"),
        ({"groups": (("kernel", {}),)}, r"layers_1/bias; a last rule \('', {}\)"),
        ({"groups": (("", {}), ("x", {}))}, "groups: 'x' matches no parameter"),
        ({"groups": (("", {"frozen": True}),)}, "groups: every rule is frozen"),
        ({"groups": (("", {"rate": 1}),)}, "optimizer 'adamw' takes no optimizer.rate"),
    ],
)
def test_bad_configs(overrides, message):
    with pytest.raises(ValueError, match=message):
        train.run(config_of(**overrides), quiet=True)


def test_a_rate_of_zero_is_said():
    config = config_of(**{"optimizer.learning_rate": 0.0})
    with pytest.warns(UserWarning, match="learning_rate is 0: nothing is trained"):
        training.start(training.job_of(config, None), [config])


def test_labels_of_a_regression_are_refused(tmp_path):
    (tmp_path / "prices").write_text("1.5 1:2\n2.25 1:3\n" * 8)
    config = config_of(**{"data.name": "libsvm:prices"})
    with pytest.raises(ValueError, match=r"data\.name must have classes; .*prices are numbers"):
        train.run(config, data_dir=str(tmp_path), quiet=True)


def test_batch_that_does_not_divide_over_devices(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 8 devices, got 60"):
        train.run(config_of(batch_size=60), quiet=True)


def test_eight_devices_equal_one(monkeypatch):
    config = config_of(
        **{"optimizer.name": "sgd", "optimizer.momentum": 0.9, "steps": 20, "model.name": "mlp"}
    )
    one = train.run(config, quiet=True)
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    eight = train.run(config, quiet=True)
    for a, b in zip(one.history, eight.history, strict=True):
        keys = [k for k in a if k not in runs.TIME_FIELDS]
        np.testing.assert_allclose([a[k] for k in keys], [b[k] for k in keys], rtol=1e-5, atol=1e-6)


def test_groups_have_their_own_rates_decay_and_optimizer():
    config = config_of(
        groups=(
            ("layers_0/kernel", {"frozen": True}),
            ("kernel", {"name": "sgd", "lr_mult": 0.5, "weight_decay": 0.1}),
            ("bias", {"lr_mult": 2.0}),
        ),
        **{"optimizer.name": "adam", "optimizer.weight_decay": 0.0, "schedule.name": "constant"},
    )
    tx = optimizers.build(config, 10)
    params = {
        f"layers_{i}": {"kernel": np.full((2, 2), 1.0 + i, "f"), "bias": np.ones(2, "f")}
        for i in range(2)
    }
    grads = jax.tree.map(np.ones_like, params)
    first = jax.jit(lambda g, p: tx.update(g, tx.init(p, 0.1, 0.0), p, jnp.float32(0.0))[0])
    updates = jax.tree.map(np.asarray, first(grads, params))
    assert (updates["layers_0"]["kernel"] == 0).all()
    np.testing.assert_allclose(updates["layers_1"]["kernel"], -0.05 * (1 + 0.1 * 2.0), rtol=1e-6)
    np.testing.assert_allclose(updates["layers_0"]["bias"], -0.2, rtol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd", "adamp", "novograd", "muon"])
def test_optimizers_by_name_equal_the_function(name):
    config = config_of(**{"optimizer.name": name, "optimizer.weight_decay": 0.01})
    tx = optimizers.build(config, 10)
    rng = np.random.default_rng(0)
    params = {"w": np.float32(rng.normal(size=(3, 4)))}
    direct = optimizers.OPTIMIZERS[name]
    if name == "sgd":
        plain = optax.chain(optax.add_decayed_weights(0.01), direct(lambda t: 0.1 * cosine(t)))
    else:
        plain = direct(lambda t: 0.1 * cosine(t), weight_decay=0.01)

    @jax.jit
    def both(params, gradients):
        a, b = params, params
        state, other = tx.init(params, 0.1, 0.01), plain.init(params)
        for grads in gradients:
            updates, state = tx.update(grads, state, a, jnp.float32(1.0))
            expected, other = plain.update(grads, other, b)
            a, b = optax.apply_updates(a, updates), optax.apply_updates(b, expected)
        return a["w"], b["w"], state

    a, b, state = both(params, [{"w": np.float32(rng.normal(size=(3, 4)))} for _ in range(3)])
    np.testing.assert_allclose(a, b, rtol=2e-6)
    np.testing.assert_allclose(tx.learning_rate(state, 5), 0.05, rtol=1e-5)


def cosine(t):
    return optax.cosine_decay_schedule(1.0, 10)(t)


@pytest.mark.parametrize(
    ("name", "options", "half"),
    [
        ("constant", {}, 1.0),
        ("linear", {}, 0.5),
        ("cosine_decay_schedule", {}, 0.5),
        ("cosine", {"end_value": 0.5}, 0.75),
        ("polynomial", {"power": 2.0}, 0.25),
        ("rex", {}, 2 / 3),
        ("rex", {"d": 0.9}, 1 / 1.1),
        ("step", {"fractions": (0.25, 0.75), "factor": 0.2}, 0.2),
        ("linear", {"sampling": "25-50-75"}, 0.5),
        ("warmup_cosine_decay_schedule", {"warmup_steps": 0}, 0.5),
    ],
)
def test_schedules_by_name(name, options, half):
    flat = {f"schedule.{k}": v for k, v in options.items()}
    schedule = optimizers.build_schedule(config_of(**{"schedule.name": name}, **flat).schedule, 20)
    np.testing.assert_allclose([schedule(0), schedule(10)], [1.0, half], rtol=1e-6)
    flat["schedule.warmup"] = 4
    warm = optimizers.build_schedule(config_of(**{"schedule.name": name}, **flat).schedule, 24)
    np.testing.assert_allclose([warm(0), warm(2), warm(14)], [0.0, 0.5, half], rtol=1e-6)


@pytest.mark.parametrize("kappa", ["l2", ("huber", 0.1)])
def test_a_kappa_by_name(kappa):
    config = config_of(**{"optimizer.name": "lion_k", "optimizer.kappa": kappa})
    assert optimizers.build(config, 10)


def test_another_number_of_seeds_is_refused_and_leaves_nothing(tmp_path):
    def claim(many):
        folder = tmp_path / str(many)
        runs.claim_all(folder, [config_of(seed=i) for i in range(many)], "train")
        (folder / "checkpoints").mkdir(exist_ok=True)
        return folder

    for many, other in ((1, 3), (3, 1), (3, 2), (2, 3)):
        folder = claim(many)
        claim(many)
        before = sorted(folder.rglob("*"))
        with pytest.raises(ValueError, match=rf"holds {many} runs .* this is --seeds={other}"):
            runs.claim_all(folder, [config_of(seed=i) for i in range(other)], "train")
        assert sorted(folder.rglob("*")) == before
    (tmp_path / "3" / "checkpoints").rmdir()
    (tmp_path / "3" / "run_2" / "config.json").unlink()
    claim(3)  # A kill between two claims.


def test_the_folder_of_another_main_is_refused_by_its_name(tmp_path):
    from configs.pruning import digits as pruning_digits

    runs.claim(tmp_path, pruning_digits.get_config(), "prune")
    with pytest.raises(ValueError, match=r"a run of experiments\.prune, not of train; choose"):
        runs.claim(tmp_path, config_of(), "train")


def test_an_interrupted_main_ends_with_130(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert launch.guard(interrupted) == 130
    assert "same command" in capsys.readouterr().err
    monkeypatch.setattr(launch, "_told", [2])
    assert launch.stopped(3, "runs/a") == 130
    monkeypatch.setattr(launch, "_told", [])
    assert launch.stopped(3, "runs/a") == launch.PREEMPTED


def test_help_shows_the_flags_that_mains_share():
    shown = main_of("--help").stdout
    for name in (*launch.SHARED_FLAGS, "seeds", "configs/common.py"):
        assert name in shown


def main_of(*arguments, **kwargs):
    command = [sys.executable, "-m", "experiments.train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **kwargs)


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    smoke, typo = "--config=configs/digits.py:smoke", "--config.optimizer.nam=lion"
    done = main_of(smoke, typo, f"--workdir={tmp_path}")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "optimizer 'adamw' takes no optimizer.nam; nearest: name" in done.stderr
    assert not any(tmp_path.iterdir())


def test_a_sweep_with_a_bad_point_and_a_folder_that_is_a_file_are_one_line(
    tmp_path, monkeypatch, capsys
):
    given = {"plan": "", "seeds": 1, "sharding": "replicated", "tensorboard": False}
    given["convolutions"] = "default"
    monkeypatch.setattr(launch, "preemption", lambda: None)
    (tmp_path / "file").write_text("")
    cases = {
        "optimizer.name=[lion, lionn]": (
            tmp_path / "run",
            "ValueError: optimizer.name=lionn: unknown optimizer 'lionn'",
        ),
        "": (tmp_path / "file" / "run", "NotADirectoryError: "),
    }
    for text, (workdir, message) in cases.items():
        said = types.SimpleNamespace(FLAGS=types.SimpleNamespace(sweep=text, **given))
        monkeypatch.setattr(train, "flags", said)
        assert launch.guard(lambda w=workdir: train.main(config_of(), w, None)) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_importing_optim_pulls_in_neither_flax_nor_orbax_nor_matplotlib():
    code = "import optax, sys; plain = {*sys.modules}; import optim; print({*sys.modules} - plain)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'optim'" in done.stdout
    for heavy in ("flax", "orbax", "matplotlib", "scipy", "sklearn", "grain"):
        assert f"'{heavy}" not in done.stdout


def test_two_processes_of_four_devices_equal_one(tmp_path):
    from benchmarks import processes

    # In float64, where rounding does not hide what is wrong.
    found = processes.difference_from_one_process(tmp_path, "sgd and adamp", x64=True)
    assert found.by_element <= 1e-10


def test_foreign_lines_of_a_metrics_file_are_set_aside_and_none_of_ours_is_lost(tmp_path):
    file = tmp_path / "metrics.jsonl"
    ours = [{"step": 5, "loss": 1.0}, {"step": 10, "loss": 0.5}]
    text = b"".join(json.dumps(row).encode() + b"\r\n" for row in ours)
    foreign = [b'{"comment": "mine"}', b"17", b'{"step": "x"}', b"\0\0", b'{"note": "\xff"}']
    file.write_bytes(text + b"\n".join(foreign) + b'\n\n{"step": 15, "loss": 9}\n{"step": 2')
    with pytest.warns(UserWarning, match="held 5 lines that are no metrics"):
        found = runs.MetricsFile(file, start=10)
    found.close()
    assert found.rows == ours
    assert lines(tmp_path) == ours
    assert len((tmp_path / "metrics-aside.txt").read_text().splitlines()) == 5
    file.write_text('{"step": 5, "loss": NaN}\n')
    found = runs.MetricsFile(file, start=10)
    found.close()
    assert lines(tmp_path) == [{"step": 5, "loss": "nan"}]


def test_a_folder_is_held_by_one_run_at_a_time(tmp_path):
    with (
        runs.claimed(tmp_path, [config_of()], "train"),
        pytest.raises(ValueError, match=r"is in use by process \d+ on .*; wait until"),
    ):
        train.run(config_of(), tmp_path, quiet=True)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json"}
    with runs.claimed(tmp_path, [config_of()], "train"):
        pass


def test_folders_of_a_sweep_have_short_names_that_tell_the_points_apart():
    points = [
        {"optimizer.name": n, "seed": 1, "groups": ("a" * 300, i)} for i, n in enumerate("ab")
    ]
    long = train._folder_names(points)
    assert len(set(long)) == 2
    assert all(len(name) <= 80 and "seed" not in name for name in long)
    points = [{"optimizer.name": "lion", "seed": i} for i in range(2)]
    assert train._folder_names(points) == ["seed=0", "seed=1"]
    assert train._folder_names([{"optimizer.name": "lion"}]) == ["optimizer.name=lion"]
    assert train._folder_names([{"data.name": "text:a/b"}])[0].startswith("data.name=text_a_b-")
    assert train._folder_names([{}]) == [""]


@pytest.mark.parametrize("rows", [[], [{"step": 5, "loss": "nan", "valid/loss": "inf"}]])
def test_what_was_never_measured_is_not_drawn(tmp_path, monkeypatch, rows):
    drawn = drawing(monkeypatch, rows, tmp_path)
    assert not any(axis.lines for axis in drawn.axes)


def test_a_single_log_point_can_be_seen_and_axes_have_units(tmp_path, monkeypatch):
    rows = [{"step": 5, "loss": 2.0, "accuracy": 0.25, "lr": 0.1, "gradient_norm": 1.0}]
    drawn = drawing(monkeypatch, [*rows, {"step": 5, "valid/loss": "nan"}], tmp_path)
    for axis in drawn.axes:
        (line,) = axis.lines
        assert line.get_marker() not in ("", "None")
        assert axis.get_xlabel() == "step"
    assert [axis.get_ylabel() for axis in drawn.axes][:2] == [
        "mean cross-entropy (nats)",
        "accuracy (%)",
    ]
    assert drawn.axes[1].lines[0].get_ydata() == [25.0]


def drawing(monkeypatch, rows, folder):
    kept = []
    monkeypatch.setattr(curves.figures, "save", lambda made, *args, **kwargs: kept.append(made))
    draw_curves(rows, folder / "curves.png", "a run")
    (made,) = kept
    return made


def test_metrics_are_json_even_when_not_finite(tmp_path):
    file = runs.MetricsFile(tmp_path / "m.jsonl")
    file.write(step=1, loss=float("nan"))
    file.close()
    (row,) = [json.loads(x) for x in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert row == {"step": 1, "loss": "nan"}


def test_linen_models_train_in_the_same_loop():
    from flax import linen

    import optim

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            x = linen.Dense(16)(x.reshape(x.shape[0], -1))
            x = linen.BatchNorm(use_running_average=not train)(x)
            return linen.Dense(10)(linen.relu(x))

    dataset = data.load("digits")
    model = models.from_linen(Net(), input_shape=(8, 8, 1))
    tx = optimizers.build(config_of(), 60)
    params, stats = model.init(jax.random.key(0))
    state = training.TrainState(jnp.int32(0), params, stats, tx.init(params, 1e-2, 0.0))
    rows = []
    optim.loop.run(
        training.make_step(model, tx),
        state,
        data.epoch_batches(len(dataset.train["label"]), 64, 0),
        60,
        data=dataset.train,
        prepare=data.prepare(dataset),
        on_metrics=lambda t, m: rows.append(m["accuracy"]),
    )
    accuracy = np.concatenate(rows)
    assert len(accuracy) == 60
    assert accuracy[-10:].mean() > 0.8 > 0.5 > accuracy[0]
