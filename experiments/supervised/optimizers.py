"""Optimizers, schedules and parameter groups by name, from a config."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

import optim
from experiments.supervised import averages, combinations
from optim import _checks

#: Every optimizer by name, as a function of a learning rate and further arguments. Ours stand
#: before those of optax that have the same name. Add your own here.
OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "acprop": contrib.acprop,
    "adabelief": optax.adabelief,
    "adadelta": optax.adadelta,
    "adafactor": optax.adafactor,
    "adagrad": optax.adagrad,
    "adagrad_norm": optim.adagrad_norm,
    "adam": optax.adam,
    "adamax": optax.adamax,
    "adamaxw": optax.adamaxw,
    "adamp": optim.adamp,
    "adamw": optax.adamw,
    "adan": optax.adan,
    "ademamix": contrib.ademamix,
    "adopt": contrib.adopt,
    "amsgrad": optax.amsgrad,
    "badam": optim.badam,
    "cautious_decay_adamw": combinations.cautious_decay_adamw,
    "cautious_decay_lion": combinations.cautious_decay_lion,
    "cautious_decay_muon": combinations.cautious_decay_muon,
    "cocob": contrib.cocob,
    "dadapt_adamw": contrib.dadapt_adamw,
    "diffgrad": optim.diffgrad,
    "dog": contrib.dog,
    "dowg": contrib.dowg,
    "fromage": optax.fromage,
    "frugal": optim.frugal,
    "galore": optim.galore,
    "lamb": optax.lamb,
    "lars": optax.lars,
    "lbfgs": optax.lbfgs,
    "lion": optim.lion,
    "lion_k": optim.lion_k,
    "madgrad": contrib.madgrad,
    "momo": contrib.momo,
    "momo_adam": contrib.momo_adam,
    "muon": contrib.muon,
    "nadam": optax.nadam,
    "nadamw": optax.nadamw,
    "noisy_sgd": optax.noisy_sgd,
    "novograd": optax.novograd,
    "optimistic_adam": optax.optimistic_adam,
    "optimistic_adam_v2": optax.optimistic_adam_v2,
    "optimistic_gradient_descent": optax.optimistic_gradient_descent,
    "orthograd_adamw": combinations.orthograd_adamw,
    "orthograd_sgd": combinations.orthograd_sgd,
    "prodigy": contrib.prodigy,
    "projected_muon": combinations.projected_muon,
    "projected_soap": combinations.projected_soap,
    "radam": optax.radam,
    "rmsprop": optax.rmsprop,
    "rprop": optax.rprop,
    "schedule_free_adamw": contrib.schedule_free_adamw,
    "schedule_free_sgd": contrib.schedule_free_sgd,
    "sgd": optax.sgd,
    "sgdp": optim.sgdp,
    "sign_sgd": optax.sign_sgd,
    "signum": optax.signum,
    "simplified_ademamix": contrib.simplified_ademamix,
    "soap": combinations.soap,
    "sm3": optax.sm3,
    "sophia": contrib.sophia,
    "yogi": optax.yogi,
}

#: Every schedule but the profiles by name, which stands without "_schedule" too.
SCHEDULES: dict[str, Callable[..., Any]] = {
    "constant_schedule": optax.constant_schedule,
    "cosine_decay_schedule": optax.cosine_decay_schedule,
    "cosine_onecycle_schedule": optax.cosine_onecycle_schedule,
    "cosine_power_schedule": optim.cosine_power_schedule,
    "linear_onecycle_schedule": optax.linear_onecycle_schedule,
    "linear_schedule": optax.linear_schedule,
    "onecycle_momentum_schedule": optim.onecycle_momentum_schedule,
    "piecewise_constant_schedule": optax.piecewise_constant_schedule,
    "piecewise_interpolate_schedule": optax.piecewise_interpolate_schedule,
    "polynomial_schedule": optax.polynomial_schedule,
    "power_cool_schedule": optim.power_cool_schedule,
    "refined_schedule": optim.refined_schedule,
    "rex_schedule": optim.rex_schedule,
    "sampled_schedule": optim.sampled_schedule,
    "sgdr_schedule": optax.sgdr_schedule,
    "table_schedule": optim.table_schedule,
    "warmup_constant_schedule": optax.warmup_constant_schedule,
    "warmup_cosine_decay_schedule": optax.warmup_cosine_decay_schedule,
    "warmup_exponential_decay_schedule": optax.warmup_exponential_decay_schedule,
    "warmup_polynomial_schedule": optim.warmup_polynomial_schedule,
    "wsd_schedule": optim.wsd_schedule,
}

#: The profiles of optim.profiles, and the functions that make one from arguments.
PROFILES: dict[str, Callable[..., Any]] = {
    "constant": lambda: optim.profiles.constant,
    "cosine": lambda: optim.profiles.cosine,
    "delayed_linear": optim.profiles.delayed_linear,
    "exponential": optim.profiles.exponential,
    "inverse_sqrt": lambda: optim.profiles.inverse_sqrt,
    "inverse_time": lambda: optim.profiles.inverse_time,
    "linear": lambda: optim.profiles.linear,
    "onecycle": lambda: optim.profiles.onecycle,
    "polynomial": optim.profiles.polynomial,
    "rex": optim.profiles.rex,
    "step": optim.profiles.step,
}

# The arguments by which schedules name what the config gives: the peak and the number of steps.
_PEAKS = ("init_value", "peak_value", "value")
_LENGTHS = ("decay_steps", "transition_steps", "num_steps")
# Keys of config.optimizer that are not arguments of the optimizer itself.
_AROUND = ("clip_norm", "ema", "lookahead", "momentum_schedule", "record_norms")


class Optimizer(NamedTuple):
    """An optimizer whose learning rate and decay are in its state, so that runs can differ in them.

    Attributes:
      init: ``init(params, learning_rate, weight_decay) -> state``.
      update: ``update(grads, state, params, value, **extra) -> (updates, state)``.
      learning_rate: ``learning_rate(state, step)``: peak times the schedule at ``step``.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]
    learning_rate: Callable[..., Any]


def build(config: Any, steps: int) -> Optimizer:
    """Returns the optimizer of ``config.optimizer``, ``config.schedule`` and ``config.groups``.

    ``config.groups`` is a sequence of ``(regex, overrides)``: each parameter belongs to the first
    rule whose regex is found in its path (``"layers_0/kernel"``). Overrides are ``name``,
    ``lr_mult``, ``weight_decay``, ``frozen=True`` and further arguments of the optimizer.
    ``config.optimizer.ema=0.99`` keeps an average of the parameters and
    ``config.optimizer.lookahead=(5, 0.5)`` slow weights, which are evaluated in their place. With
    ``config.micro_batches`` the state holds the gradient noise scale.

    Args:
      config: See ``configs/digits.py``.
      steps: Number of optimizer steps of the run, the length of the schedule.

    Raises:
      ValueError: An unknown name (with the nearest), an argument the optimizer does not take, a
        parameter that no rule matches, a rule that matches no parameter, or rules that are all
        frozen.
    """
    check_rates(config.optimizer)
    schedule = build_schedule(config.schedule, steps)
    options = {k: v for k, v in config.optimizer.items() if v is not None}
    base = {k: v for k, v in options.items() if k not in ("learning_rate", *_AROUND)}
    cycle = options.get("momentum_schedule")
    if cycle is not None:
        if cycle != "onecycle":
            raise ValueError(f"momentum_schedule must be 'onecycle', got {cycle!r}")
        base["momentum"] = optim.onecycle_momentum_schedule(steps)
    norm, parts = options.get("record_norms"), config.get("micro_batches")
    record = optax.identity() if norm is None else optim.record_norms(steps, norm)
    rules = [_rule(rule) for rule in config.get("groups", ())]
    if rules and all(o.get("frozen") or o.get("lr_mult") == 0 for _, o in rules):
        raise ValueError("groups: every rule is frozen, so that nothing would be trained")
    for overrides in ({}, *(overrides for _, overrides in rules)):
        _make_group(0.1, None, schedule, base, overrides)  # Wrong options stop here.

    def factory(learning_rate, weight_decay):
        decay = weight_decay if "weight_decay" in base else None
        if not rules:
            tx = _make_group(learning_rate, decay, schedule, base, {})
        else:
            groups: dict[Any, optax.GradientTransformation] = {
                i: _make_group(learning_rate, decay, schedule, base, overrides)
                for i, (_, overrides) in enumerate(rules)
            }
            tx = optax.partition(groups, lambda params: label(params, [r for r, _ in rules]))
        clip, ahead, decay = (options.get(key) for key in ("clip_norm", "lookahead", "ema"))
        tx = clipped(tx, clip)
        tx = tx if ahead is None else averages.lookahead(tx, *ahead)
        tx = tx if decay is None else optax.chain(tx, averages.average(decay))
        tx = tx if norm is None else optax.chain(record, tx)
        return tx if parts is None else optax.chain(optim.gradient_noise_scale(), tx)

    tx = optax.with_extra_args_support(
        optax.inject_hyperparams(factory)(
            learning_rate=options["learning_rate"], weight_decay=options.get("weight_decay", 0.0)
        )
    )

    def init(params, learning_rate, weight_decay):
        state: Any = tx.init(params)
        given = {"learning_rate": learning_rate, "weight_decay": weight_decay}
        cast = {k: jnp.asarray(v, state.hyperparams[k].dtype) for k, v in given.items()}
        return state._replace(hyperparams=cast)

    def update(grads, state, params, value, **extra):
        return tx.update(grads, state, params, value=value, **extra)

    def learning_rate(state, step):
        return state.hyperparams["learning_rate"] * schedule(step)

    return Optimizer(init, update, learning_rate)


def clipped(tx: optax.GradientTransformation, norm: float | None) -> optax.GradientTransformation:
    """Returns ``tx`` on gradients cut to a global norm, or ``tx`` itself for ``None``."""
    if norm is None:
        return tx
    _checks.number("optimizer.clip_norm", norm, 0, open_low=True)
    return optax.chain(optax.clip_by_global_norm(norm), tx)


def check(name: str, tx: Any, params: Any) -> None:
    """Raises ``ValueError`` if the optimizer cannot make a step of these parameters.

    Nothing is computed: the step is traced, so that a run fails before it begins.

    Args:
      name: Of the optimizer, for the message.
      tx: A transformation whose ``update`` takes the loss as ``value``, or an
        :class:`Optimizer`.
      params: Arrays or ``jax.ShapeDtypeStruct`` leaves.
    """

    def step(params):
        if isinstance(tx, Optimizer):
            state = tx.init(params, 0.1, 0.0)
            micro = optim.MicroGradients(jnp.float32(1.0), 1, 2)
            return tx.update(params, state, params, jnp.float32(0.0), micro=micro)
        extra = optax.with_extra_args_support(tx)
        return extra.update(params, extra.init(params), params, value=jnp.float32(0.0))

    try:
        jax.eval_shape(step, params)
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer {name!r} cannot be used here: {error}") from error


def check_rates(options: Any) -> None:
    """Raises ``ValueError`` if ``options`` hold a rate that no optimizer takes."""
    for key in ("learning_rate", "weight_decay"):
        if key == "learning_rate" or options.get(key) is not None:
            _checks.number(f"optimizer.{key}", options.get(key), 0)


def _rule(rule: Any) -> tuple[str, dict[str, Any]]:
    try:
        pattern, overrides = rule
        re.compile(pattern)
        return pattern, dict(overrides)
    except (TypeError, ValueError):
        raise ValueError(
            f"groups must be ((regex, {{option: value}}), ...), got the rule {rule!r}"
        ) from None
    except re.error as error:
        raise ValueError(f"groups: {rule[0]!r} is no regex: {error}") from error


def _make_group(learning_rate, weight_decay, schedule, base, overrides):
    overrides = dict(overrides)
    if overrides.pop("frozen", False):
        return optax.set_to_zero()
    learning_rate = learning_rate * overrides.pop("lr_mult", 1.0)
    options = {**base, **({} if weight_decay is None else {"weight_decay": weight_decay})}
    if overrides.get("name", base["name"]) != base["name"]:
        options = {k: v for k, v in options.items() if k == "weight_decay"}
    return make(learning_rate, schedule, **{**options, **overrides})


def make(learning_rate, schedule, *, name: str, weight_decay=None, **options):
    """Returns the optimizer ``name`` of ``optim``, ``optax`` or ``optax.contrib``.

    Where it has no ``weight_decay`` of its own, ``weight_decay`` is added to the gradient (L2).
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; {_checks.nearest(name, OPTIMIZERS)}")
    build_it = OPTIMIZERS[name]
    taken = inspect.signature(build_it).parameters
    for key in options:
        if key not in taken:
            hint = _checks.nearest(key, ["name", *_AROUND, *taken])
            raise ValueError(f"optimizer {name!r} takes no optimizer.{key}; {hint}")
    for key, parameter in list(taken.items())[1:]:
        if parameter.default is parameter.empty and key not in options and key != "weight_decay":
            raise ValueError(f"optimizer {name!r} needs optimizer.{key}")
    if "kappa" in options:
        options["kappa"] = _kappa(options["kappa"])
    if weight_decay is not None and "weight_decay" in taken:
        options["weight_decay"] = weight_decay
    if callable(options.get("momentum")):  # A schedule, which optax.sgd alone does not take.
        fixed = [key for key, value in options.items() if isinstance(value, bool)]
        build_it = optax.inject_hyperparams(build_it, static_args=fixed)
    tx = build_it(lambda count: learning_rate * schedule(count), **options)
    if weight_decay is not None and "weight_decay" not in taken:
        tx = optax.chain(optax.add_decayed_weights(weight_decay), tx)
    return tx


def _kappa(value: Any) -> Any:
    """Returns the kappa of ``"spectral"`` or ``("huber", 0.1)``; any other value as it is."""
    if isinstance(value, optim.kappas.Kappa):
        return value
    name, *arguments = (value,) if isinstance(value, str) else value
    known = {k: getattr(optim.kappas, k) for k in optim.kappas.__all__ if k.islower()}
    if name not in known:
        raise ValueError(f"unknown optimizer.kappa {name!r}; {_checks.nearest(name, known)}")
    if isinstance(known[name], optim.kappas.Kappa):
        return known[name]
    try:
        return known[name](*arguments)
    except TypeError as error:
        raise ValueError(f"optimizer.kappa {value!r}: {error}") from error


def build_schedule(config: Any, steps: int) -> Callable[[Any], Any]:
    """Returns the schedule ``config.name`` with peak 1 over ``steps`` steps.

    Names are those of :data:`SCHEDULES`, with or without ``_schedule``, and of :data:`PROFILES`.
    ``config.warmup`` steps of linear warm-up come first, inside ``steps``. Other keys of
    ``config`` are arguments of the schedule.

    Raises:
      ValueError: An unknown name or argument (with the nearest), or a warm-up out of range.
    """
    options = {k: v for k, v in config.items() if v is not None and k not in ("name", "warmup")}
    warmup = config.get("warmup") or 0
    if not 0 <= warmup < max(steps, 1):
        raise ValueError(f"schedule.warmup must be in [0, {steps}) steps, got {warmup}")
    name, length = config.name, steps - warmup
    short = {k.removesuffix("_schedule").removesuffix("_decay"): f for k, f in SCHEDULES.items()}
    known = {**short, **SCHEDULES}
    try:
        if name in PROFILES:
            schedule = _sampled(name, length, **options)
        elif name in known:
            schedule = _filled(name, known[name], length, options)
        else:
            hint = _checks.nearest(name, {**known, **PROFILES})
            raise ValueError(f"unknown schedule {name!r}; {hint}")
    except TypeError as error:
        raise ValueError(f"schedule {name!r}: {error}") from error
    if not warmup:
        return schedule
    return optax.join_schedules([optax.linear_schedule(0.0, 1.0, warmup), schedule], [warmup])


def _sampled(name, length, *, decay_steps=None, sampling="every", end_value=0.0, **options):
    """The schedule of a profile; ``options`` are arguments of the profile."""
    taken = inspect.signature(PROFILES[name]).parameters
    _check_taken(name, options, (*taken, "decay_steps", "sampling", "end_value"))
    steps = length if decay_steps is None else decay_steps
    profile = PROFILES[name](**options)
    return optim.sampled_schedule(profile, 1.0, steps, sampling=sampling, end_value=end_value)


def _filled(name, build_it, length, options):
    """A schedule whose peak and length, where ``options`` lack them, are the config's."""
    taken = inspect.signature(build_it).parameters
    _check_taken(name, options, taken)
    fill = {**dict.fromkeys(_PEAKS, 1.0), **dict.fromkeys(_LENGTHS, length), "end_value": 0.0}
    if {"init_value", "peak_value"} <= set(taken):
        fill["init_value"] = 0.0
    for key, parameter in taken.items():
        required = parameter.default is parameter.empty
        if key in fill and key not in options and (required or key in _LENGTHS):
            options = {**options, key: fill[key]}
    return build_it(**options)


def _check_taken(name: str, options: Mapping[str, Any], taken: Any) -> None:
    for key in options:
        if key not in taken:
            hint = _checks.nearest(key, ["name", "warmup", *taken])
            raise ValueError(f"schedule {name!r} takes no schedule.{key}; {hint}")


def label(params: Any, patterns: list[str]) -> Any:
    """Returns ``params`` with each leaf replaced by the number of the first matching pattern."""
    used, unmatched = set(), []

    def find(path, _):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for i, pattern in enumerate(patterns):
            if re.search(pattern, name):
                used.add(i)
                return i
        unmatched.append(name)
        return -1

    labels = jax.tree_util.tree_map_with_path(find, params)
    if unmatched:
        raise ValueError(
            f"no rule of groups matches {', '.join(unmatched)}; "
            "a last rule ('', {}) takes what is left"
        )
    idle = [pattern for i, pattern in enumerate(patterns) if i not in used]
    if idle:
        raise ValueError(f"groups: {', '.join(map(repr, idle))} matches no parameter")
    return labels
