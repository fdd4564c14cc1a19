"""A number, a count and a name mean one thing in optim, in bilevel and in experiments."""

import itertools
import math
from decimal import Decimal
from fractions import Fraction

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import bilevel
import optim
from experiments import data, models, problems
from experiments.common import config_files
from experiments.supervised import optimizers
from optim import _checks, kappas, profiles

SCORES = {"w": jnp.arange(6.0).reshape(2, 3)}

# Functions that take 0.5 and refuse 2.0.
SHARES = {
    "adamp": lambda v: optim.adamp(1e-3, b1=v),
    "sgdp": lambda v: optim.sgdp(1e-3, v),
    "rex_schedule": lambda v: optim.rex_schedule(0.1, 10, d=v),
    "delayed_linear": profiles.delayed_linear,
    "penalty": lambda v: bilevel.penalty(0.1, v, 0.1),
    "f3sa": lambda v: bilevel.f3sa(0.1, 0.1, v),
}
# The same, which decide shapes or numbers of the host: they take no traced number.
FIXED = {
    "frugal": lambda v: optim.frugal(1e-3, density=v) if type(v) is float else _refuse(v),
    "from_scores": lambda v: bilevel.masks.from_scores(SCORES, v),
    "uniform": lambda v: bilevel.allocate.uniform(SCORES, v),
    "hydra": lambda v: bilevel.hydra(optax.sgd(1.0), density=v),
    "bip": lambda v: bilevel.bip(optax.sgd(1.0), optax.sgd(1.0), v),
    "density": lambda v: bilevel.density.linear(v, 3),
    "split": lambda v: data.base.split({"label": np.zeros(4, int)}, v, 0, stratify=False),
}
# Functions that take 0.5 and 2.0.
POSITIVE = {
    "lion": optim.lion,
    "adamp eps": lambda v: optim.adamp(1e-3, eps=v),
    "rex peak": lambda v: optim.rex_schedule(v, 10),
    "table": lambda v: optim.table_schedule(v, [1.0]),
    "polynomial": profiles.polynomial,
    "huber": kappas.huber,
    "penalty": lambda v: bilevel.penalty(v, 0.8, 0.1),
    "soba": lambda v: bilevel.soba(lower_step=v),
    "power": lambda v: bilevel.power(v, 0.5),
    "simplex": bilevel.projections.simplex,
    "residue": lambda v: bilevel.density.residue(1, v),
    "check_rates": lambda v: optimizers.check_rates({"learning_rate": v}),
}
COUNTS = {
    "top_k": kappas.top_k,
    "rex_schedule": lambda v: optim.rex_schedule(0.1, v),
    "record_norms": optim.record_norms,
    "f2sa": lambda v: bilevel.f2sa(0.1, 0.1, inner_steps=v),
    "unrolled": bilevel.unrolled,
    "rounds": lambda v: bilevel.density.exponential(0.1, v),
    "lower_steps": lambda v: bilevel.bip(optax.sgd(1.0), optax.sgd(1.0), 0.5, lower_steps=v),
    "epoch_batches": lambda v: data.epoch_batches(10, v, 0),
    "check_counts": lambda v: config_files.check_counts({"steps_per_call": v}, "steps_per_call"),
}
NAMES = {
    "profile": (lambda v: optim.sampled_schedule(v, 0.1, 10), "linaer", "linear"),
    "sampling": (lambda v: optim.sampled_schedule("rex", 0.1, 9, sampling=v), "evry", "every"),
    "norm": (lambda v: optim.refine([1.0], norm=v), "L2", "l2"),
    "subspace": (optim.subspaces.by_name, "colums", "columns"),
    "noise": (bilevel.f2sa_schedules, "bth", "both"),
    "solver": (lambda v: bilevel.implicit(v), "normalcg", "normal_cg"),
    "scope": (lambda v: bilevel.hydra(optax.sgd(1.0), density=0.5, scope=v), "glob", "global"),
    "model": (lambda v: models.build(v, input_shape=(2,), num_classes=2), "mpl", "mlp"),
    "data": (data.load, "digit", "digits"),
    "problem": (problems.build, "cleanin", "cleaning"),
}


def _refuse(v):
    """FRUGAL has a wording of its own for numbers that are not of Python."""
    return optim.adamp(1e-3, b1=v)


def forms(value):
    """The forms in which one number is handed over."""
    yield from (value, np.float64(value), np.float32(value), np.array(value))
    yield from (jnp.float32(value), jnp.array(value, jnp.bfloat16))
    yield from (ml_dtypes.bfloat16(value), np.array(value, ml_dtypes.bfloat16))


def cases(*tables):
    found = itertools.chain(*(table.items() for table in tables))
    return pytest.mark.parametrize("make", [pytest.param(f, id=name) for name, f in found])


NO_NUMBERS = ["0.5", b"0.5", True, np.True_, jnp.array(True), 0.5j, jnp.array(0.5j), [0.5], (0.5,)]
NO_NUMBERS += [Decimal("0.5"), Fraction(1, 2), np.full(2, 0.5), jax.random.key(0), object()]


@cases(SHARES, FIXED, POSITIVE)
def test_a_number_is_checked_by_value_in_every_form(make):
    for form in forms(0.5):
        make(form)
    bad = [*forms(math.nan), *forms(math.inf), *forms(-math.inf), 10**400, -(10**400)]
    if make in SHARES.values() or make in FIXED.values():
        bad += [*forms(2.0), *forms(-1.0), 2, np.int32(2), jnp.int32(2)]
    for form in bad:
        with pytest.raises(ValueError, match="must be"):
            make(form)


@cases(SHARES, FIXED, POSITIVE)
def test_what_is_no_number_is_named(make):
    array_is_fine = make in (POSITIVE["rex peak"], POSITIVE["table"])
    for value in NO_NUMBERS:
        if array_is_fine and np.shape(value) and isinstance(value, np.ndarray):
            continue
        with pytest.raises(ValueError, match=r"must be a (finite )?number|for each leaf"):
            make(value)


# A loss of kappas shows its number in its name.
@cases(SHARES, {k: make for k, make in POSITIVE.items() if k != "huber"})
def test_a_traced_number_passes(make):
    jax.eval_shape(lambda v: (make(v), v)[1], jnp.float32(2.0))


def test_an_infinity_is_a_number_where_the_argument_says_so():
    def zero(x, y, batch):
        return 0.0

    for inf in forms(math.inf):
        bilevel.Problem(zero, zero, zero, multiplier_bound=inf)
        bilevel.projections.ball(inf)
    with pytest.raises(ValueError, match="multiplier_bound must be > 0, got nan"):
        bilevel.Problem(zero, zero, zero, multiplier_bound=math.nan)


@cases(COUNTS)
def test_a_count_is_an_integer_in_every_form(make):
    for three in (3, np.int32(3), np.uint8(3), np.array(3), jnp.int32(3)):
        make(three)
    bad = [0, -1, np.int64(0), np.array(-2), jnp.int32(0), 3.5, np.float32(2.5), jnp.float32(2.5)]
    bad += [3.0, np.float64(3.0), math.nan, math.inf, True, jnp.array(True), "3", [3], None]
    for value in bad:
        with pytest.raises(ValueError, match="must be an integer >= 1, got"):
            make(value)


@pytest.mark.parametrize(("make", "wrong", "right"), NAMES.values(), ids=NAMES)
def test_an_unknown_name_is_answered_with_the_nearest(make, wrong, right):
    with pytest.raises(ValueError, match=rf"{wrong}'; nearest: {right}(, \w+)*$"):
        make(wrong)


def test_names_that_resemble_nothing():
    assert _checks.nearest("zzz", ["adam", "sgd"]) in ("nearest: adam", "nearest: sgd")
    assert _checks.nearest("adam", []) == "there are none"
    for value in (None, 3, np.ones(2)):
        with pytest.raises(ValueError, match=r"norm must be one of l2, l1, got"):
            optim.refine([1.0], norm=value)
