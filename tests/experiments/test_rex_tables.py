"""The budget protocol: its tables plan, its ranks count, momentum follows OneCycle."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optim
from configs import common
from experiments import plot_schedules
from experiments.supervised import optimizers
from experiments.tables import definition


@pytest.mark.parametrize("name", [n for n in definition.names() if n.startswith("rex_")])
def test_tables_make_the_protocol(name):
    table = definition.load(name, "cpu")
    base = definition.base_config(table)
    point = table.trials("REX")[0]
    config = definition.run(table, base, "REX", "1%", point, 1).config
    whole = {"digits": 100.0, "fashion": 10.0, "cifar10": 300.0}[name.split("_")[1]]
    assert (config.schedule.name, config.seed) == ("rex", 1)
    assert config.epochs == pytest.approx(0.01 * whole)
    rates = [p["optimizer.learning_rate"] for p in table.trials("REX")]
    np.testing.assert_allclose(np.diff(np.log(rates)), np.log(3), atol=0.02)
    if name == "rex_cifar10_sgdm":
        assert table.paper["REX"]["1%"] == "72.06 ± 0.46"
    if name == "rex_digits_sgdm":
        cycle = definition.run(table, base, "OneCycle", "100%", point, 0).config
        assert (cycle.optimizer.momentum_schedule, cycle.epochs) == ("onecycle", 100.0)


def test_momentum_follows_onecycle_and_norms_are_recorded():
    config = common.supervised()
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.5
    config.optimizer.momentum = 0.9
    config.optimizer.momentum_schedule = "onecycle"
    config.optimizer.record_norms = "l1"
    config.schedule.name = "onecycle"
    tx = optimizers.build(config, 4)
    state = tx.init(jnp.zeros(2), 0.5, 0.0)
    rates, momenta = [0.1, 0.55, 1.0, 0.55], [0.95, 0.9, 0.85, 0.9]
    trace, gradient = np.zeros(2), np.array([1.0, -3.0], np.float32)
    for rate, momentum in zip(rates, momenta, strict=True):
        updates, state = tx.update(gradient, state, jnp.zeros(2), 0.0)
        trace = momentum * trace + gradient
        np.testing.assert_allclose(updates, -0.5 * rate * trace, rtol=1e-5)
    np.testing.assert_allclose(optim.recorded_norms(state), [4.0] * 4)
    assert isinstance(tx.learning_rate(state, 2), jnp.ndarray)
    config.optimizer.momentum_schedule = "cycle"
    with pytest.raises(ValueError, match="momentum_schedule must be 'onecycle', got 'cycle'"):
        optimizers.build(config, 4)
    config.optimizer.momentum_schedule, config.optimizer.name = "onecycle", "adam"
    with pytest.raises(ValueError, match=r"'adam' takes no optimizer\.momentum"):
        optimizers.build(config, 4)
    assert optax.tree.get(state, "norms").shape == (4,)


def test_schedules_by_name_for_the_picture():
    values = plot_schedules.parse("linear@50-75", 100)(jnp.array([49, 50, 80]))
    np.testing.assert_allclose(values, [1.0, 0.5, 0.25])
