"""Cosine-power, warm-up-stable-decay and PowerCool against the authors' values, and their edges."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from schedule_records import at, load

import optim


def records(name):
    z = load(name)
    return z, json.loads(str(z["hyper"]))


@pytest.fixture(params=[False, True], ids=["float32", "x64"])
def tolerance(request):
    """Share of the peak that a schedule may be off, in the precision that is switched on."""
    with jax.enable_x64(request.param):
        yield 1e-12 if request.param else 1e-6


def close(schedule, values, peak, tolerance, start=0, stride=1):
    got = at(schedule, np.arange(start, start + stride * len(values), stride))
    np.testing.assert_allclose(got, values, rtol=0, atol=tolerance * peak)


@pytest.mark.fidelity
def test_cosine_power_replays_the_reference(tolerance):
    z, hyper = records("cosine_power")
    replayed = 0
    for i, config in enumerate(hyper["configs"]):
        if "epochs_range" in config:
            continue  # Scaled to the part of the curve that was asked for: no schedule does that.
        peak, floor = config.get("max_lr", 0.1), config.get("min_lr", 1e-4)
        warm, last = config.get("warmup_epochs", 0), config.get("epochs", config.get("max_epoch"))
        schedule = optim.cosine_power_schedule(
            peak,
            last,
            floor,
            power=config.get("exponent_order", 10),
            warmup_steps=warm,
            normalize="given",
        )
        values = z[f"lr/{i}"]
        close(schedule, values, peak, tolerance, start=last - len(values))
        replayed += 1
    assert replayed == 10


def test_cosine_power_is_its_equation(tolerance):
    t = np.arange(101)
    c = (1 + np.cos(np.pi * t / 100)) / 2
    for power in (1, 1.0 + 1e-6, 2.0, 10.0, 100.0):
        expected = c if power == 1 else (power**c - 1) / (power - 1)
        schedule = optim.cosine_power_schedule(0.3, 100, 0.1, power=power)
        close(schedule, 0.1 + 0.2 * expected, 0.3, max(tolerance, 1e-9 if power < 1.1 else 0))
        traced = jax.jit(lambda p, t: optim.cosine_power_schedule(0.3, 100, 0.1, power=p)(t))
        np.testing.assert_allclose(traced(power, 40), schedule(40), rtol=1e-5)
    warm = optim.cosine_power_schedule(0.3, 120, 0.1, warmup_steps=20, init_value=0.05)
    close(warm, np.linspace(0.05, 0.3, 21), 0.3, tolerance)
    plain = at(optim.cosine_power_schedule(0.3, 100, 0.1), t)
    np.testing.assert_allclose(at(warm, t + 20), plain, rtol=1e-6)


@pytest.mark.fidelity
def test_wsd_replays_the_reference(tolerance):
    z, hyper = records("wsd")
    kinds = {"minus_sqrt": "1-sqrt"}
    for i, c in enumerate(hyper["megatron"]):
        make = lambda c=c: optim.wsd_schedule(  # noqa: E731
            c["max_lr"],
            c["total"],
            c["warmup"],
            c["decay"],
            kinds.get(c["style"], c["style"]),
            init_value=c["init_lr"],
            end_value=c["min_lr"],
        )
        if c["warmup"] + c["decay"] > c["total"]:  # There it jumps at the end of the warm-up.
            with pytest.raises(ValueError, match="must be at most decay_steps=100, got 10 \\+ 95"):
                make()
        else:
            close(make(), z[f"megatron/{i}"], c["max_lr"], tolerance)
    for i, c in enumerate(hyper["kozistr"]):
        kind, cycles = c["cooldown_type"], c["num_cycles"]
        if cycles != 0.5:
            kind = lambda r, n=cycles: (1 + jnp.cos(2 * jnp.pi * n * r)) / 2  # noqa: E731
        warm, stable, cool = (c[f"num_{k}_steps"] for k in ("warmup", "stable", "decay"))
        schedule = optim.wsd_schedule(
            1.0,
            warm + stable + cool,
            warm,
            cool,
            kind,
            end_value=c["min_lr_ratio"],
            end_mode="scaled" if kind == "cosine" else "jump",
        )
        close(schedule, z[f"kozistr/{i}"], 1.0, tolerance)


@pytest.mark.fidelity
def test_power_cool_replays_the_reference(tolerance):
    z, hyper = records("wsd")
    for i, c in enumerate(hyper["powercool"]):
        flat = c["t_end"] - (c["lr"] / c["c"]) ** (1 / c["power"])
        schedule = optim.power_cool_schedule(c["lr"], c["t_end"], flat, c["power"])
        close(schedule, z[f"powercool/{i}"], c["lr"], 2 * tolerance, stride=c["stride"])


def test_wsd_agrees_with_optax():
    ours = optim.wsd_schedule(0.3, 100, 10, 30, init_value=0.1, end_value=0.05)
    parts = [
        optax.linear_schedule(0.1, 0.3, 10),
        optax.constant_schedule(0.3),
        optax.linear_schedule(0.3, 0.05, 30),
    ]
    optaxs = optax.join_schedules(parts, [10, 70])
    np.testing.assert_allclose(at(ours, range(120)), at(optaxs, range(120)), rtol=1e-6)


KINDS = ["linear", "cosine", "exponential", "1-sqrt", "1-square"]
MAKE = {
    "cosine power": lambda peak, T: optim.cosine_power_schedule(peak, T, warmup_steps=T // 5),
    "given": lambda peak, T: optim.cosine_power_schedule(
        peak, T, warmup_steps=T // 5, normalize="given"
    ),
    **{
        kind: lambda peak, T, kind=kind: optim.wsd_schedule(peak, T, T // 5, T // 2, kind)
        for kind in KINDS
    },
    "power cool": lambda peak, T: optim.power_cool_schedule(peak, T, T // 2),
}


@pytest.mark.parametrize("name", MAKE)
def test_clamped_traced_and_exact(name):
    make = MAKE[name]
    values = at(make(0.4, 100), range(-3, 104))
    assert (values[:3] == values[3]).all()
    assert (values[103:] == values[103]).all()
    assert values[103] == 0
    assert values.max() == np.float32(0.4)
    assert (np.diff(values[53:]) <= 0).all()
    assert float(make(0.4, 100)(2**40)) == 0.0
    np.testing.assert_allclose(at(make(-0.4, 100), range(-3, 104)), -values)
    budgets, steps = np.int32([10, 100, 1000]), np.int32([7, 60, 999])
    traced = jax.jit(jax.vmap(lambda T, t: make(jnp.float32(0.4), T)(t)))(budgets, steps)
    single = [make(0.4, int(T))(t) for T, t in zip(budgets, steps, strict=True)]
    np.testing.assert_allclose(traced, single, rtol=1e-5, atol=1e-9)
    # The last steps of a million, where 1 - t / T has lost its digits.
    T, rest = 10**6, np.arange(1, 9)
    late = at(make(1.0, T), T - rest)
    with jax.enable_x64(True):
        exact = at(make(1.0, T), T - rest)
    if name != "given":  # Scaled by a difference, as by the authors.
        np.testing.assert_allclose(late, exact, rtol=2e-6)
    huge = 10**7  # Budgets that int32 cannot hold.
    if name != "given":
        scaled = [float(make(0.4, 300 * huge)(t * huge)) for t in (0, 30, 60, 150, 225, 299, 300)]
        small = at(make(0.4, 300), [0, 30, 60, 150, 225, 299, 300])
        np.testing.assert_allclose(scaled, small, rtol=2e-5, atol=1e-7)


BAD = [
    (lambda: optim.cosine_power_schedule(0.1, 10, power=0.5), "power must be >= 1, got 0.5"),
    (lambda: optim.cosine_power_schedule(0.1, 0), "decay_steps must be an integer >= 1, got 0"),
    (lambda: optim.cosine_power_schedule(0.1, 9, warmup_steps=9), "must be in [0, decay_steps=9)"),
    (lambda: optim.cosine_power_schedule(0.1, 9, normalize="max"), "normalize must be one of anal"),
    (lambda: optim.wsd_schedule(0.1, 10, 2, 4, "1-sqr"), "got '1-sqr'; nearest: 1-sqrt"),
    (lambda: optim.wsd_schedule(0.1, 10, 2, 4, 3), "or a function, got 3"),
    (lambda: optim.wsd_schedule(0.1, 10, 2, 4, end_mode="up"), "end_mode must be one of scaled"),
    (lambda: optim.wsd_schedule(0.1, 10, 2, 0), "cooldown_steps must be an integer >= 1, got 0"),
    (lambda: optim.wsd_schedule(0.1, 10, 5, 6), "must be at most decay_steps=10, got 5 + 6"),
    (lambda: optim.wsd_schedule("0.1", 10, 5, 5), "peak_value must be a finite number, got '0.1'"),
    (lambda: optim.power_cool_schedule(0.1, 10, 10), "flat_steps must be in [0, 10), got 10"),
    (lambda: optim.power_cool_schedule(0.1, 10, 5, 0.0), "power must be > 0, got 0.0"),
    (lambda: optim.power_cool_schedule(np.nan, 10, 5), "peak_value must be finite, got nan"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_names_the_argument_the_value_and_the_range(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
