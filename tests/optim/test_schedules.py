"""Schedules against the reference arrays, their edges, and their use under transformations."""

import re
from decimal import Decimal
from fractions import Fraction

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from schedule_records import at, evaluate, load

import optim
from optim import profiles


@pytest.fixture(params=[False, True], ids=["float32", "x64"])
def tolerance(request):
    """Share of the peak that a schedule may be off, in the precision that is switched on."""
    with jax.enable_x64(request.param):
        yield 1e-12 if request.param else 5e-7


@pytest.mark.fidelity
def test_rex_replays_the_reference(tolerance):
    z = load("rex")
    cases = sorted({k.split("/")[0] for k in z.files})
    for case in cases:
        T, W, peak, floor, d, w0 = (
            z[f"{case}/{k}"].item() for k in ("T", "W", "peak", "mn", "d", "w0")
        )
        schedule = optim.rex_schedule(
            peak, T + W, d=d, end_value=floor, warmup_steps=W, init_value=w0
        )  # The paper does not count the warm-up in its budget T.
        values = at(schedule, z[f"{case}/steps"])
        np.testing.assert_allclose(values, z[f"{case}/lr"], rtol=0, atol=tolerance * peak)
    assert len(cases) == 9


PROFILES = {
    "linear": "linear",
    "rex": profiles.rex(0.5),
    "cosine": profiles.cosine,
    "exp3": profiles.exponential(-3),
    "exp5": lambda x: jnp.exp(-5 * x),  # A user's function of the progress.
}


@pytest.mark.fidelity
@pytest.mark.parametrize("traced", [False, True])
def test_sampled_replays_the_reference(tolerance, traced):
    z = load("sampled")
    for key in z.files:
        profile, sampling, T = key.split("/")
        T = int(T[1:])
        budget = jnp.int32(T) if traced else T  # The two take different paths to the milestones.
        schedule = optim.sampled_schedule(PROFILES[profile], 1.0, budget, sampling=sampling)
        values = evaluate(schedule, T + 3)
        np.testing.assert_allclose(values, z[key], rtol=0, atol=tolerance, err_msg=key)
    assert len(z.files) == 105


BASELINES = {
    "exp_gamma-3": profiles.exponential(),
    "step_50_75": profiles.step((0.5, 0.75), 0.1),
    "onecycle_lr": profiles.onecycle,
    "poly_p2": profiles.polynomial(2.0),
    "poly_p0.9": profiles.polynomial(0.9),
    **{f"delayed_linear_{q}": profiles.delayed_linear(q / 100) for q in (10, 25, 50, 75)},
}


@pytest.mark.fidelity
def test_baselines_replay_the_reference(tolerance):
    z = load("baselines")
    checked = 0
    for key in z.files:
        group, name = key.split("/")
        if group.startswith("warmup_poly"):
            if name != "sched":
                continue
            n, fraction, power = (z[f"{group}/{k}"].item() for k in ("n", "warmup_frac", "power"))
            schedule = optim.warmup_polynomial_schedule(
                1.0, n, warmup_fraction=fraction, power=power, authors_warmup=True
            )
        elif name == "onecycle_momentum":
            schedule = optim.onecycle_momentum_schedule(int(group[1:]))
        else:
            schedule = optim.sampled_schedule(BASELINES.get(name, name), 1.0, int(group[1:]))
        values = evaluate(schedule, z[key].size)
        np.testing.assert_allclose(values, z[key], rtol=0, atol=tolerance, err_msg=key)
        checked += 1
    assert checked == 28


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("linear", lambda r, T: r / T),
        ("rex", lambda r, T: 2 * r / (T + r)),
        ("cosine", lambda r, T: np.sin(np.pi * r / (2 * T)) ** 2),
    ],
)
def test_relative_accuracy_near_the_end_of_a_million_steps(name, exact):
    T, r = 10**6, np.arange(1, 1000)
    values = optim.sampled_schedule(name, 1.0, T)(jnp.asarray(T - r))
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, exact(r, T), rtol=5e-7)


@pytest.mark.parametrize("sampling", ["10-10", "5-25", "1-100", "33-66", (0.123, 0.55)])
@pytest.mark.parametrize("T", [10**6 + 7, 2**29 + 11])
def test_holds_begin_at_the_exact_step_of_long_runs(sampling, T):
    if isinstance(sampling, str) and sampling != "33-66":
        n = {"10-10": 10, "5-25": 20, "1-100": 100}[sampling]
        starts = [-(-k * T // n) for k in range(1, n + 1)]
    else:
        starts = [-(-p * T // 1000) for p in ((330, 660) if sampling == "33-66" else (123, 550))]
    for budget in (T, jnp.int32(T)):
        schedule = optim.sampled_schedule("linear", 1.0, budget, sampling=sampling)
        around = np.array([[s - 1, s, s + 1] for s in starts], np.int32)
        before, first, second = at(schedule, around.ravel()).reshape(-1, 3).T
        assert (before > first).all()
        np.testing.assert_array_equal(first, second)


def test_clamped_and_finite_outside_the_range():
    every = [optim.sampled_schedule(name, 0.1, 7, end_value=0.01) for name in profiles.NAMES]
    every += [optim.rex_schedule(0.1, 7, d=1 - 1e-12), optim.table_schedule(0.1, [1.0, 0.5])]
    for schedule in every:
        early, first, late, last = at(schedule, [-5, 0, 10**9, 7])
        assert early == first
        assert late == last
    for name in profiles.NAMES:
        one = at(optim.sampled_schedule(name, 0.1, 1), range(-2, 4))
        assert np.isfinite(one).all()
        assert one[2] == pytest.approx(0.01 if name == "onecycle" else 0.1)
    warm = at(optim.rex_schedule(1.0, 14, warmup_steps=4, init_value=0.2), [-3, 4])
    np.testing.assert_allclose(warm, [0.2, 1.0])


@pytest.mark.parametrize("sampling", ["every", "50-75", "10-10"])
def test_vmap_over_steps_peaks_and_budgets(sampling):
    peaks, budgets = np.float32([0.1, 0.2, 0.3]), np.int32([5, 50, 333])

    @jax.jit
    @jax.vmap
    def value(peak, T, t):
        rex = optim.rex_schedule(peak, T, warmup_steps=T // 5)(t)
        return rex, optim.sampled_schedule("cosine", peak, T, sampling=sampling)(t)

    for t in (0, 3, 40, 400):
        got = value(peaks, budgets, np.full(3, t, np.int32))
        for i, (peak, T) in enumerate(zip(peaks.tolist(), budgets.tolist(), strict=True)):
            rex = optim.rex_schedule(peak, T, warmup_steps=T // 5)(t)
            cosine = optim.sampled_schedule("cosine", peak, T, sampling=sampling)(t)
            np.testing.assert_allclose([got[0][i], got[1][i]], [rex, cosine], rtol=0, atol=1e-7)


def test_one_compilation_for_all_peaks_budgets_and_tables():
    traces = []

    @jax.jit
    def step(peak, T, table, t):
        traces.append(t)
        rex = optim.rex_schedule(peak, T)(t)
        return rex + optim.table_schedule(peak, table)(t)

    for peak, T in [(0.1, 10), (0.2, 20), (0.3, 30)]:
        table = np.linspace(1, 0, 8, dtype=np.float32) ** T
        total = step(np.float32(peak), np.int32(T), table, np.int32(2))
        expected = peak * (2 * (T - 2) / (2 * T - 2) + table[2])
        assert float(total) == pytest.approx(expected, rel=1e-6)
    assert len(traces) == 1


def test_inject_hyperparams_shows_the_learning_rate_and_takes_traced_budgets():
    tx = optax.inject_hyperparams(optax.sgd)(
        learning_rate=optim.sampled_schedule("onecycle", 1.0, 4),
        momentum=optim.onecycle_momentum_schedule(4),
    )
    state = tx.init(jnp.ones(2))
    rates, momenta = [], []
    for _ in range(5):
        _, state = tx.update(jnp.ones(2), state)
        rates.append(float(state.hyperparams["learning_rate"]))
        momenta.append(float(state.hyperparams["momentum"]))
    np.testing.assert_allclose(rates, [0.1, 0.55, 1.0, 0.55, 0.1], atol=1e-6)
    np.testing.assert_allclose(momenta, [0.95, 0.9, 0.85, 0.9, 0.95], atol=1e-6)

    # The numbers of a schedule as hyperparameters: inject_hyperparams traces them as floats.
    tx = optax.inject_hyperparams(lambda peak, T: optax.sgd(optim.rex_schedule(peak, T)))(
        peak=0.5, T=10.0
    )
    state = tx.init(jnp.ones(2))
    update, _ = tx.update(jnp.ones(2), state)
    np.testing.assert_allclose(update, -0.5, rtol=1e-6)


def test_join_schedules():
    warm = optax.linear_schedule(0.0, 1.0, 10)
    joined = optax.join_schedules([warm, optim.rex_schedule(1.0, 20)], [10])
    whole = optim.rex_schedule(1.0, 30, warmup_steps=10)
    np.testing.assert_allclose(evaluate(joined, 35), evaluate(whole, 35), atol=1e-6)


def test_the_convention_is_that_of_optax():
    options = {"warmup_steps": 20, "init_value": 0.01, "end_value": 0.02}
    ours = optim.sampled_schedule("cosine", 0.3, 100, **options)
    optaxs = optax.warmup_cosine_decay_schedule(0.01, 0.3, 20, 100, 0.02)
    np.testing.assert_allclose(evaluate(ours, 110), evaluate(optaxs, 110), atol=1e-7)
    rex = evaluate(optim.rex_schedule(0.3, 100, **options), 110)
    np.testing.assert_allclose(rex[:21], evaluate(optaxs, 21), atol=1e-7)
    np.testing.assert_allclose(rex[[20, 99, 100]], [0.3, 0.02 + 0.28 * 2 / 81, 0.02], rtol=1e-5)
    ours = optim.warmup_polynomial_schedule(0.3, 100, warmup_fraction=0.2, power=2.0)
    parts = [optax.linear_schedule(0.0, 0.3, 20), optax.polynomial_schedule(0.3, 0.0, 2, 80)]
    np.testing.assert_allclose(
        evaluate(ours, 110), evaluate(optax.join_schedules(parts, [20]), 110), atol=1e-7
    )


@pytest.mark.parametrize("peak", [0.3, -0.3])
def test_no_warm_up_goes_above_its_peak(peak):
    for T, fraction in [(1, 0.9), (10, 0.001), (37, 0.1), (50, 0.01), (100, 0.155), (20, 0.07)]:
        for authors in (False, True):
            schedule = optim.warmup_polynomial_schedule(
                peak, T, warmup_fraction=fraction, authors_warmup=authors
            )
            values = at(schedule, range(-1, T + 2)) / peak
            assert values.min() >= 0
            assert values.max() <= 1 + 1e-6
            w = int(np.ceil(fraction * T))  # The first step of the decay.
            assert (np.diff(values[1 : w + 1]) > 0).all()
            assert (np.diff(values[w + 1 : T + 1]) < 0).all()


ALL = {
    "rex": lambda T, **options: optim.rex_schedule(0.1, T, end_value=0.01, **options),
    "held": lambda T, **options: optim.sampled_schedule("rex", 0.1, T, sampling="50-75", **options),
    "every": lambda T, **options: optim.sampled_schedule("linear", 1.0, T, sampling="10-10"),
    "momentum": lambda T, **options: optim.onecycle_momentum_schedule(T),
    "polynomial": lambda T, **options: optim.warmup_polynomial_schedule(
        1.0, T, warmup_fraction=0.25
    ),
    **{
        name: lambda T, name=name, **options: optim.sampled_schedule(name, 1.0, T, **options)
        for name in ("cosine", "step", "delayed_linear", "onecycle")
    },
}


@pytest.mark.parametrize("make", [*ALL.values(), lambda T: optim.table_schedule(2.0, [1.0, 0.5])])
def test_steps_of_every_type_and_size(make):
    schedule = make(100)
    first, third, last = (float(schedule(jnp.int32(t))) for t in (0, 3, 100))
    many = [2**31, 2**32 + 1, 2**63, 10**15, np.int64(2**31), np.uint32(2**32 - 1), 3e9, 1e12]
    for late in [*many, np.array(2**40), jnp.uint32(2**32 - 1), jnp.int32(2**31 - 1)]:
        assert float(schedule(late)) == last, late
    for early in (-(2**31), -(2**40), np.int64(-(2**33)), -1e12, jnp.int32(-(2**31))):
        assert float(schedule(early)) == first, early
    for three in (3, np.uint8(3), np.int64(3), jnp.int8(3), jnp.uint8(3), jnp.uint32(3)):
        assert float(schedule(three)) == third, three
    with jax.enable_x64(True):
        assert schedule(jnp.int64(2**40)) == pytest.approx(last, rel=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_budgets_that_int32_cannot_hold(name):
    unit = 10**8
    options = {} if name in ("every", "momentum", "polynomial") else {"warmup_steps": 8}
    small = at(ALL[name](40, **options), range(41))
    options = {k: v * unit for k, v in options.items()}
    large = [float(ALL[name](40 * unit, **options)(t * unit)) for t in range(41)]
    np.testing.assert_allclose(large, small, rtol=1e-5, atol=1e-6)


def test_tables_and_pictures_of_long_schedules():
    T = 3 * 10**9
    schedules = {"rex": optim.rex_schedule(1.0, T), "list": [1.0, 0.5], "flat": 0.25}
    table = optim.tabulate_schedules(schedules, T, rows=3)
    assert table.splitlines()[2:] == [
        "| 0 | 1 | 1 | 0.25 |",
        "| 1500000000 | 0.666667 | 0.5 | 0.25 |",
        "| 3000000000 | 0 | 0.5 | 0.25 |",
    ]
    line = optim.plot_schedules(schedules, T).axes[0].lines[0]
    assert (line.get_xdata()[[0, -1]] == [0, T]).all()
    np.testing.assert_allclose(line.get_ydata()[[0, -1]], [1.0, 0.0], atol=1e-6)


def test_peaks_in_every_form():
    forms = [0.5, np.float64(0.5), np.float32(0.5), np.array(0.5), jnp.float32(0.5)]
    forms += [jnp.asarray(0.5, jnp.bfloat16), ml_dtypes.bfloat16(0.5), np.float16(0.5)]
    for make in (
        lambda peak: optim.rex_schedule(peak, 10, warmup_steps=2),
        lambda peak: optim.sampled_schedule("cosine", peak, 10),
        lambda peak: optim.table_schedule(peak, np.linspace(1, 0, 10)),
        lambda peak: optim.warmup_polynomial_schedule(peak, 10, warmup_fraction=0.25),
    ):
        expected = make(0.5)(jnp.arange(12))
        for peak in forms:
            values = make(peak)(jnp.arange(12))
            assert values.dtype == jnp.float32
            np.testing.assert_allclose(values, expected, rtol=1e-6)
            np.testing.assert_allclose(make(-peak)(jnp.arange(12)), -expected, rtol=1e-6)


def frugal(lr, **options):
    return optim.frugal(lr, density=0.5, projectable=lambda _, x: x.ndim == 2, **options)


OPTIMIZERS = {
    "lion": optim.lion,
    "lion_k": lambda lr, **options: optim.lion_k(lr, optim.kappas.l2, **options),
    "adamp": optim.adamp,
    "sgdp": lambda lr, **options: optim.sgdp(lr, 0.9, **options),
    "diffgrad": optim.diffgrad,
    "frugal": frugal,
    "badam": lambda lr, **options: optim.badam(
        lr, density=0.5, projectable=lambda _, x: x.ndim == 2, **options
    ),
    "galore": lambda lr, **options: optim.galore(
        lr, projectable=lambda _, x: x.ndim == 2, **options
    ),
}


def dtypes(tx, dtype):
    params = {"a": jax.ShapeDtypeStruct((4, 4), dtype), "c": jax.ShapeDtypeStruct((3,), dtype)}
    before = jax.eval_shape(tx.init, params)
    updates, state = jax.eval_shape(tx.update, params, before, params)
    assert jax.tree.map(lambda x: x.dtype, state) == jax.tree.map(lambda x: x.dtype, before)
    return {x.dtype for x in jax.tree.leaves(updates)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_schedule_of_the_weight_decay_keeps_dtypes(name):
    schedule = optim.rex_schedule(0.1, 10)
    for x64, dtype in ((False, jnp.bfloat16), (False, jnp.float16), (True, jnp.float32)):
        with jax.enable_x64(x64):
            for decay in (np.float32(0.1), schedule, lambda t: np.float64(0.1)):
                tx = OPTIMIZERS[name](1e-2, weight_decay=decay)
                assert dtypes(tx, dtype) == {jnp.dtype(dtype)}, decay


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_learning_rates_in_every_form_as_in_optax(name):
    for rate in (
        *(1e-2, 0, -1e-2, np.float64(1e-2), np.float32(1e-2), np.array(1e-2), jnp.float32(1e-2)),
        *(jnp.asarray(1e-2, jnp.bfloat16), ml_dtypes.bfloat16(1e-2), lambda t: np.float32(1e-2)),
    ):
        expected = dtypes(optax.lion(rate), jnp.bfloat16)
        assert dtypes(OPTIMIZERS[name](rate), jnp.bfloat16) == expected
    for wrong in ("1e-2", Fraction(1, 100), Decimal("0.01"), [1e-2], np.full(2, 1e-2), 1j, True):
        with pytest.raises(ValueError, match="learning_rate must be a finite number or a sched"):
            OPTIMIZERS[name](wrong)


def test_training_with_a_schedule_follows_it():
    schedule = optim.rex_schedule(0.1, 5)
    tx = optax.sgd(schedule)
    x = jnp.zeros(())
    state = tx.init(x)
    for t in range(5):
        update, state = tx.update(jnp.ones(()), state)
        assert float(update) == pytest.approx(-0.1 * 2 * (5 - t) / (10 - t), rel=1e-6)


def test_steps_before_the_first_are_the_first():
    for warm in (0, jnp.int32(0), 3, jnp.int32(3)):
        schedule = optim.rex_schedule(1.0, 10, warmup_steps=warm)
        assert float(schedule(-5)) == float(schedule(0)) == (int(warm) == 0)


BAD = [
    (lambda: optim.rex_schedule(0.1, 0), "decay_steps must be an integer >= 1, got 0"),
    (lambda: optim.rex_schedule(0.1, -3), "decay_steps must be an integer >= 1, got -3"),
    (lambda: optim.rex_schedule(0.1, 2.5), "decay_steps must be an integer >= 1, got 2.5"),
    (lambda: optim.rex_schedule(0.1, "10"), "decay_steps must be an integer >= 1, got '10'"),
    (lambda: optim.rex_schedule(0.1, jnp.int32(0)), "decay_steps must be an integer >= 1, got 0"),
    (lambda: optim.rex_schedule(0.1, 10, d=1), "d must be in [0, 1), got 1"),
    (lambda: optim.rex_schedule(0.1, 10, d=-0.1), "d must be in [0, 1), got -0.1"),
    (lambda: optim.rex_schedule(0.1, 10, warmup_steps=-1), "warmup_steps must be an integer >= 0"),
    (
        lambda: optim.sampled_schedule("rex", 0.1, 10, warmup_steps=10),
        "warmup_steps must be in [0, decay_steps=10), got 10",
    ),
    (lambda: optim.rex_schedule(0.1, 9, init_value=np.inf), "init_value must be finite, got inf"),
    (
        lambda: optim.warmup_polynomial_schedule(0.1, 10, authors_warmup=1),
        "authors_warmup must be True or False, got 1",
    ),
    (lambda: optim.rex_schedule(float("nan"), 10), "peak_value must be finite, got nan"),
    (lambda: optim.rex_schedule("0.1", 10), "peak_value must be a finite number, got '0.1'"),
    (lambda: profiles.rex(1.0), "d must be in [0, 1), got 1.0"),
    (lambda: profiles.exponential(1), "gamma must be <= 0, got 1"),
    (lambda: profiles.polynomial(0), "power must be > 0, got 0"),
    (lambda: profiles.delayed_linear(1.0), "fraction must be in [0, 1), got 1.0"),
    (lambda: profiles.step((0.75, 0.5)), "fractions must be increasing and in (0, 1)"),
    (lambda: profiles.step((0.5, 1.0)), "fractions must be increasing and in (0, 1)"),
    (lambda: profiles.step((0.5,), 0.0), "factor must be in (0, 1], got 0.0"),
    (lambda: optim.sampled_schedule("linaer", 0.1, 10), "nearest: linear"),
    (lambda: optim.sampled_schedule(3, 0.1, 10), "profile must be a name or a function"),
    (lambda: optim.sampled_schedule(profiles.rex, 0.1, 10), "as in profiles.rex()"),
    (lambda: optim.sampled_schedule("rex", 0.1, 0), "decay_steps must be an integer >= 1, got 0"),
    (lambda: optim.sampled_schedule("rex", 0.1, 9, sampling="evry"), "nearest: every"),
    (lambda: optim.sampled_schedule("rex", 0.1, 9, sampling="75-50"), "sampling must be incr"),
    (lambda: optim.sampled_schedule("rex", 0.1, 9, sampling="7-7"), "sampling must be one of"),
    (lambda: optim.sampled_schedule("rex", 0.1, 9, sampling=[0.5, 0.2]), "sampling must be incr"),
    (lambda: optim.sampled_schedule("rex", 0.1, 9, sampling=[0.5, 1.2]), "sampling must be incr"),
    (lambda: optim.sampled_schedule("rex", 0.1, 9, sampling=[]), "sampling must be incr"),
    (lambda: optim.sampled_schedule("rex", 0.1, 9, sampling=5), "sampling must be a name or"),
    (lambda: optim.onecycle_momentum_schedule(0), "decay_steps must be an integer >= 1, got 0"),
    (lambda: optim.table_schedule(0.1, []), "multipliers must have shape [T] with T >= 1"),
    (lambda: optim.table_schedule(0.1, [1.0, np.nan]), "multipliers must be finite, got nan"),
    (lambda: optim.table_schedule(0.1, [[1.0]]), "multipliers must have shape [T] with T >= 1"),
    (
        lambda: optim.warmup_polynomial_schedule(0.1, 10, warmup_fraction=1.0),
        "warmup_fraction must be in [0, 1), got 1.0",
    ),
    (lambda: optim.warmup_polynomial_schedule(0.1, 10, power=0), "power must be > 0, got 0"),
    (lambda: optim.rex_schedule(0.1, 10, d="0.1"), "d must be a number, in [0, 1), got '0.1'"),
    (lambda: optim.rex_schedule(0.1, True), "decay_steps must be an integer >= 1, got True"),
    (lambda: optim.rex_schedule(True, 10), "peak_value must be a finite number, got True"),
    (lambda: profiles.rex(np.float32("nan")), "d must be in [0, 1), got nan"),
    (lambda: profiles.exponential("-3"), "gamma must be a number, <= 0, got '-3'"),
    (lambda: profiles.polynomial(None), "power must be a number, > 0, got None"),
    (lambda: profiles.step(factor="x"), "factor must be a number, in (0, 1], got 'x'"),
    (
        lambda: optim.warmup_polynomial_schedule(0.1, 10, warmup_fraction=None),
        "warmup_fraction must be a number, in [0, 1), got None",
    ),
    (lambda: optim.smooth_norms([1.0], tau=None), "tau must be a number, in [0, 1], got None"),
    (lambda: optim.smooth_norms([1.0], filter_width=3.5), "filter_width must be odd and >= 1"),
    (lambda: optim.plot_schedules([]), "schedules must not be empty"),
    (lambda: optim.tabulate_schedules([], 0), "num_steps must be an integer >= 1, got 0"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_names_the_argument_the_value_and_the_range(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_picture_and_table(tmp_path):
    schedules = {"rex": optim.rex_schedule(0.1, 20), "table": [0.3, 0.1], "flat": lambda t: 0.2}
    figure = optim.plot_schedules(schedules, 20, path=tmp_path / "schedules.png")
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == ["rex", "table", "flat"]
    np.testing.assert_allclose(lines[0].get_ydata()[[0, 20]], [0.1, 0.0], atol=1e-7)
    assert (tmp_path / "schedules.png").stat().st_size > 1000
    table = optim.tabulate_schedules([("a", 0.5), optim.rex_schedule(1.0, 10)], 10, rows=2)
    assert table.splitlines() == [
        "| step | a | schedule 1 |",
        "|---:|---:|---:|",
        "| 0 | 0.5 | 1 |",
        "| 10 | 0.5 | 0 |",
    ]
