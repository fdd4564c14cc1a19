"""What a training run logs, against the same run made again in float64 NumPy."""

import itertools

import jax
import numpy as np
import pytest

from configs import digits
from experiments import data, train
from experiments.common import runs
from experiments.supervised import curves, training


def small_run(**optimizer):
    config = digits.get_config()
    config.model.options = {"widths": (7,)}
    config.update({"steps": 6, "log_every": 3, "eval_every": 6, "batch_size": 32})
    config.optimizer.update(optimizer)
    return config


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))


def loss_accuracy_gradient(params, x, label):
    """Cross-entropy of a network with one hidden layer, and its gradient by the chain rule."""
    first, second = params["layers_0"], params["layers_1"]
    hidden = np.maximum(x @ first["kernel"] + first["bias"], 0)
    logits = hidden @ second["kernel"] + second["bias"]
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    target = np.eye(10)[label]
    delta = (probability - target) / len(x)
    behind = (delta @ second["kernel"].T) * (hidden > 0)
    gradient = {
        "layers_0": {"kernel": x.T @ behind, "bias": behind.sum(0)},
        "layers_1": {"kernel": hidden.T @ delta, "bias": delta.sum(0)},
    }
    loss = -np.log((probability * target).sum(1)).mean()
    return loss, np.mean(logits.argmax(1) == label), gradient


def test_logged_values_are_those_of_the_run(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(runs.Clock, "rate", lambda self, step: 2.5)
    config = small_run(name="sgd", learning_rate=0.4, weight_decay=0.3)
    result = train.run(config, quiet=True)

    dataset = data.load("digits")
    x = np.asarray(dataset.train["image"], np.float64).reshape(-1, 64) / 16
    job = training.job_of(config, None)
    state, _ = training.start(job, [config])
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), state.params)
    rows = []
    for step, inputs in enumerate(itertools.islice(job.batches(config.seed)(0), 6)):
        index = np.asarray(jax.tree.leaves(inputs)[0])
        assert index.shape == (32,)
        label = dataset.train["label"][index]
        loss, accuracy, gradient = loss_accuracy_gradient(params, x[index], label)
        rate = 0.4 * (1 + np.cos(np.pi * step / 6)) / 2
        update = jax.tree.map(lambda p, g, rate=rate: -rate * (g + 0.3 * p), params, gradient)
        params = jax.tree.map(np.add, params, update)
        rows.append(
            {
                "loss": loss,
                "accuracy": accuracy,
                "lr": rate,
                "gradient_norm": norm(gradient),
                "update_norm": norm(update),
                "parameter_norm": norm(params),
            }
        )
    logged = [row for row in result.history if "loss" in row]
    assert [(row["step"], row["examples"]) for row in logged] == [(3, 96), (6, 192)]
    assert [row["examples_per_second"] for row in logged] == [80, 80]  # 2.5 batches of 32.
    for row, part in zip(logged, (rows[:3], rows[3:]), strict=True):
        for name in rows[0]:  # Means since the line before, and the last learning rate.
            values = [r[name] for r in part]
            wanted = values[-1] if name == "lr" else np.mean(values)
            np.testing.assert_allclose(row[name], wanted, rtol=1e-4, err_msg=name)
    assert result.final["train/loss"] == logged[-1]["loss"]
    assert result.final["train/accuracy"] == logged[-1]["accuracy"]
    for split in ("valid", "test"):
        arrays = getattr(dataset, split)
        pixels = np.asarray(arrays["image"], np.float64).reshape(-1, 64) / 16
        loss, accuracy, _ = loss_accuracy_gradient(params, pixels, arrays["label"])
        np.testing.assert_allclose(result.final[f"{split}/loss"], loss, rtol=1e-4)
        np.testing.assert_allclose(result.final[f"{split}/accuracy"], accuracy, rtol=1e-4)
    assert result.final["parameters"] == 64 * 7 + 7 + 7 * 10 + 10


@pytest.mark.parametrize(("name", "held"), [("adamw", 8), ("sgd", 0), ("lion", 4)])
def test_bytes_of_state_for_each_parameter(name, held):
    config = small_run(name=name)
    state, _ = training.start(training.job_of(config, None), [config])
    found = training.sizes(state, 1)
    assert found["state_bytes_per_parameter"] == held
    pair = jax.tree.map(lambda a: np.stack([a, a]), state)
    assert training.sizes(pair, 2) == found


def test_clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(runs.time, "perf_counter", lambda: now[0])
    clock = runs.Clock([])
    now[0] = 102.0
    assert (clock.read(), clock.rate(10)) == (2.0, 5.0)
    now[0] = 102.5
    assert (clock.read(), clock.rate(20)) == (2.5, 20.0)
    with clock.paused():  # What stands still is no time of the run.
        now[0] = 110.0
        assert clock.read() == 2.5
    assert clock.read() == 2.5
    # A resumed run goes on counting, whichever line was the last one to tell the time.
    now[0] = 200.0
    clock = runs.Clock([{"step": 20, "seconds": 2.5}, {"step": 20, "valid/loss": 1.0}])
    now[0] = 201.0
    assert (clock.read(), clock.rate(25)) == (3.5, 5.0)


def test_summary_of_runs():
    finals = [{"train/loss": v, "test/accuracy": a} for v, a in ((1.0, 0.5), (2.0, 0.6), (6, 0.7))]
    text = curves.summary(finals)
    assert "3.0000 ± 2.6458" in text  # The deviation of a sample, n - 1 below.
    assert "60.00 ± 10.00 %" in text
    assert "±" not in curves.summary(finals[:1])
