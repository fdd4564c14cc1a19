"""Optimizers, schedules and parameter groups by name, from a config."""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import optim
from optim import _checks

# The arguments by which schedules name what the config gives: the peak and the number of steps.
_PEAKS = ("init_value", "peak_value", "value")
_LENGTHS = ("decay_steps", "transition_steps", "num_steps")
# Keys of config.optimizer that are not arguments of the optimizer itself.
_AROUND = ("clip_norm", "momentum_schedule", "record_norms")


class Optimizer(NamedTuple):
    """An optimizer whose learning rate and decay are in its state, so that runs can differ in them.

    Attributes:
      init: ``init(params, learning_rate, weight_decay) -> state``.
      update: ``update(grads, state, params, value) -> (updates, state)``.
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

    Args:
      config: See ``configs/digits.py``.
      steps: Number of optimizer steps of the run, the length of the schedule.

    Raises:
      ValueError: An unknown name (with the nearest), an argument the optimizer does not take, a
        parameter that no rule matches, or a rule that matches no parameter.
    """
    schedule = build_schedule(config.schedule, steps)
    options = {k: v for k, v in config.optimizer.items() if v is not None}
    base = {k: v for k, v in options.items() if k not in ("learning_rate", *_AROUND)}
    cycle = options.get("momentum_schedule")
    if cycle is not None:
        if cycle != "onecycle":
            raise ValueError(f"momentum_schedule must be 'onecycle', got {cycle!r}")
        base["momentum"] = optim.onecycle_momentum_schedule(steps)
    norm = options.get("record_norms")
    record = optax.identity() if norm is None else optim.record_norms(steps, norm)
    rules = [_rule(rule) for rule in config.get("groups", ())]
    check(schedule, base)
    for _, overrides in rules:
        _make_group(0.1, None, schedule, base, overrides)

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
        clip = options.get("clip_norm")
        tx = tx if clip is None else optax.chain(optax.clip_by_global_norm(clip), tx)
        return tx if norm is None else optax.chain(record, tx)

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

    def update(grads, state, params, value):
        return tx.update(grads, state, params, value=value)

    def learning_rate(state, step):
        return state.hyperparams["learning_rate"] * schedule(step)

    return Optimizer(init, update, learning_rate)


def check(schedule, options) -> None:
    """Stops wrong options of :func:`make` before a run, not inside a traced step of it."""
    tx = optax.with_extra_args_support(make(0.1, schedule, **options))
    weights = {"kernel": jnp.zeros((2, 2))}
    try:
        state = jax.eval_shape(tx.init, weights)
        jax.eval_shape(tx.update, weights, state, weights, value=jnp.float32(0.0))
    except TypeError as error:
        raise ValueError(f"optimizer {options['name']!r} cannot be used here: {error}") from error
    except ValueError:
        pass  # These weights may be too small for it; the real ones tell.


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
    known = optimizers()
    if name not in known:
        raise ValueError(f"unknown optimizer {name!r}; {_checks.nearest(name, known)}")
    taken = inspect.signature(known[name]).parameters
    for key in options:
        if key not in taken:
            raise ValueError(f"optimizer {name!r} takes no {key!r}; {_checks.nearest(key, taken)}")
    for key, parameter in list(taken.items())[1:]:
        if parameter.default is parameter.empty and key not in options and key != "weight_decay":
            raise ValueError(f"optimizer {name!r} needs optimizer.{key}")
    if "kappa" in options:
        options["kappa"] = _kappa(options["kappa"])
    if weight_decay is not None and "weight_decay" in taken:
        options["weight_decay"] = weight_decay
    build_it = known[name]
    if callable(options.get("momentum")):  # A schedule, which optax.sgd alone does not take.
        fixed = [key for key, value in options.items() if isinstance(value, bool)]
        build_it = optax.inject_hyperparams(build_it, static_args=fixed)
    tx = build_it(lambda count: learning_rate * schedule(count), **options)
    if weight_decay is not None and "weight_decay" not in taken:
        tx = optax.chain(optax.add_decayed_weights(weight_decay), tx)
    return tx


def _kappa(value: Any) -> Any:
    """Returns the kappa of ``"spectral"`` or ``("huber", 0.1)``; any other value as it is."""
    name, *arguments = (value,) if isinstance(value, str) else value
    if isinstance(value, optim.kappas.Kappa):
        return value
    known = {k: getattr(optim.kappas, k) for k in optim.kappas.__all__ if k.islower()}
    if name not in known:
        raise ValueError(f"unknown optimizer.kappa {name!r}; {_checks.nearest(name, known)}")
    if isinstance(known[name], optim.kappas.Kappa):
        return known[name]
    try:
        return known[name](*arguments)
    except TypeError as error:
        raise ValueError(f"optimizer.kappa {value!r}: {error}") from error


def optimizers() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """Returns every optimizer by name; ours come before optax's of the same name."""
    found = {}
    for module in (optax.contrib, optax, optim):
        for name in dir(module):
            value = getattr(module, name)
            if name.islower() and not name.startswith(("_", "scale_by")) and callable(value):
                try:
                    parameters = list(inspect.signature(value).parameters)
                except (TypeError, ValueError):
                    continue
                if parameters[:1] == ["learning_rate"]:
                    found[name] = value
    return found


@functools.cache
def arguments(group: str) -> frozenset[str]:
    """Names of all arguments that an ``optimizer`` or a ``schedule`` may have, but the rate's."""
    known = {"optimizer": optimizers, "schedule": schedules}.get(group, dict)()
    found = {name for fun in known.values() for name in inspect.signature(fun).parameters}
    return frozenset(found) - {"learning_rate"}


def build_schedule(config: Any, steps: int) -> Callable[[Any], Any]:
    """Returns the schedule ``config.name`` with peak 1 over ``steps`` steps.

    Names are functions of ``optim`` and ``optax`` with or without ``_schedule``, and the profiles
    of ``optim.profiles``. ``config.warmup`` steps of linear warm-up come first, inside ``steps``.
    Other keys of ``config`` are arguments of the schedule.
    """
    options = {k: v for k, v in config.items() if v is not None and k not in ("name", "warmup")}
    warmup = config.get("warmup") or 0
    if not 0 <= warmup < max(steps, 1):
        raise ValueError(f"schedule.warmup must be in [0, {steps}) steps, got {warmup}")
    known = schedules()
    if config.name not in known:
        raise ValueError(f"unknown schedule {config.name!r}; {_checks.nearest(config.name, known)}")
    fun = known[config.name]
    taken = inspect.signature(fun).parameters
    for key in options:
        if key not in taken:
            raise ValueError(f"schedule {config.name!r} takes no {key!r}; it takes {list(taken)}")
    length = steps - warmup
    fill = {**dict.fromkeys(_PEAKS, 1.0), **dict.fromkeys(_LENGTHS, length), "end_value": 0.0}
    if {"init_value", "peak_value"} <= set(taken):
        fill["init_value"] = 0.0
    for key, parameter in taken.items():
        required = parameter.default is parameter.empty
        if key in fill and key not in options and (required or key in _LENGTHS):
            options[key] = fill[key]
    try:
        schedule = fun(**options)
    except TypeError as error:
        raise ValueError(f"schedule {config.name!r}: {error}") from error
    if not warmup:
        return schedule
    return optax.join_schedules([optax.linear_schedule(0.0, 1.0, warmup), schedule], [warmup])


def schedules() -> dict[str, Callable[..., Any]]:
    """Returns every schedule by name, long (``cosine_decay_schedule``) and short (``cosine``)."""
    found: dict[str, Callable[..., Any]] = {}
    for module in (optax, optim):
        for name in dir(module):
            if name.endswith("_schedule") and not name.startswith(("scale_by", "inject", "add")):
                short = name.removesuffix("_schedule").removesuffix("_decay")
                found[name] = found[short] = getattr(module, name)
    return found | {name: _sampled(name) for name in optim.profiles.__all__ if name.islower()}


def _sampled(name: str) -> Callable[..., Any]:
    """Returns the schedule of a profile, with the arguments of both."""
    profile = getattr(optim.profiles, name)
    parameters = inspect.signature(profile).parameters.values()
    is_profile = [p.name for p in parameters][:2] == ["t", "T"]

    def schedule(decay_steps, sampling="every", end_value=0.0, **options):
        chosen = profile if is_profile else profile(**options)
        return optim.sampled_schedule(
            chosen, 1.0, decay_steps, sampling=sampling, end_value=end_value
        )

    own = list(inspect.signature(schedule).parameters.values())[:-1]
    further = [] if is_profile else [p.replace(kind=p.KEYWORD_ONLY) for p in parameters]
    schedule.__signature__ = inspect.Signature(own + further)  # pyrefly: ignore
    return schedule


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
