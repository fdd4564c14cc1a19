"""Training by estimated gradients: the main's option, and what it says of bad input."""

import jax
import numpy as np
import pytest

from experiments.common import config_files
from experiments.supervised import gradients, training


def config_of(**options):
    texts = {
        "model.options.widths": "(4,)",
        "batch_size": "1024",
        "steps": "2",
        "log_every": "1",
        "eval_every": "2",
        "optimizer.name": "sgd",
        "optimizer.learning_rate": "0.1",
    }
    texts |= {k.replace("gradient_", "gradient."): v for k, v in options.items()}
    return config_files.override_texts(config_files.load("configs/digits.py"), texts)


def step_of(**options):
    """The metrics of the first step, by the functions of the main."""
    config = config_of(**options)
    job = training.job_of(config, None)
    state, key = training.start(job, [config])
    batch = job.prepare(job.resident, next(job.batches(0)(0)), key)
    return jax.device_get(jax.jit(job.step)(state, batch)[1])


def test_an_estimator_takes_the_place_of_backpropagation():
    config = config_of(gradient="rge", gradient_samples="4", gradient_mu="0.01")
    assert config.gradient.to_dict() == {"name": "rge", "samples": 4, "mu": 0.01}
    # Central differences along all 310 coordinates are the gradient, and so is the step.
    near, exact = step_of(gradient="cge", gradient_central="True"), step_of()
    assert near["forward_passes"] == 2 * 310
    assert "forward_passes" not in exact
    for name in ("gradient_norm", "update_norm", "parameter_norm", "loss"):
        np.testing.assert_allclose(near[name], exact[name], rtol=5e-3, err_msg=name)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"gradient": "blockwise", "gradient_rule": r"layers_(\d)"}, 4),
        ({"gradient": "sparse", "gradient_ratio": "0.9", "gradient_period": "5"}, 2),
        ({"gradient": "hybrid", "gradient_rule": "layers_1"}, 4),
        ({"gradient": "sign", "gradient_of": "gradient", "gradient_samples": "3"}, 6),
        ({"gradient": "forward_gradient"}, 2),
    ],
)
def test_every_kind_makes_a_step(options, count):
    config = config_of(**options)
    job = training.job_of(config, None)  # Traces a step.
    state = jax.eval_shape(job.init, jax.random.key(0), 0.1, 0.0)
    assert gradients.build(config.gradient).evaluations(state.params) == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"gradient": "rgee"},
            "gradient.name must be one of backprop, .* got 'rgee'; nearest: rge",
        ),
        ({"gradient": "rge", "gradient_sample": "3"}, "'rge' takes no 'sample'; nearest: samples"),
        ({"gradient": "rge", "gradient_mu": "0.0"}, r"gradient.mu must be > 0"),
        ({"gradient_samples": "3"}, "'backprop' takes no 'samples'"),
        ({"gradient": "hybrid"}, "gradient 'hybrid' needs gradient.rule"),
        ({"gradient": "cge", "gradient_max_parameters": "100"}, "pass max_parameters=310"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        training.job_of(config_of(**options), None)
