"""Methods by name: an optimizer, what of it is tuned and in which space, and its schedule."""

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from scipy.stats import qmc

import optim
from experiments.common import config_files
from experiments.supervised import optimizers
from optim import _checks

__all__ = [
    "BASELINES",
    "FOLDER",
    "SCHEDULES",
    "Method",
    "Optimizer",
    "Tuned",
    "build",
    "code",
    "declared_methods",
    "factor",
    "find",
    "function",
    "prediction",
    "state_bytes",
    "trials",
    "warmup_steps",
]

FOLDER = config_files.ROOT / "configs" / "compare"
declared = config_files.module(FOLDER / "common.py")
BASELINES = declared.BASELINES  # They set the targets.
WARMUP = 0.05  # Share of the steps.
# What the rate does after the warm-up, by the share of these steps that is over.
SCHEDULES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "cosine": lambda r: 0.5 * (1 + jnp.cos(jnp.pi * r)),
    "rex": lambda r: (1 - r) / (1 - r / 2),
    "constant": jnp.ones_like,
}
_DECLARED = {**declared.METHODS, **declared.MORE}


class Method(NamedTuple):
    """A method of the comparison.

    Attributes:
      name: For people.
      optimizer: Name in ``experiments.supervised.optimizers``, or ``file.py:function``.
      options: Its fixed arguments.
      space: What is tuned, ``{argument: (low, high)}``; empty if it claims to need no tuning.
      schedule: A key of :data:`SCHEDULES`; the warm-up comes before it.
    """

    name: str
    optimizer: str
    options: dict[str, Any]
    space: dict[str, tuple[float, float]]
    schedule: str = "cosine"

    @property
    def self_tuning(self) -> bool:
        """Whether it gets one trial in each study, and half as many steps more."""
        return not self.space

    @property
    def is_file(self) -> bool:
        """Whether it is a function of a file of one's own."""
        return ".py:" in self.optimizer


def prediction() -> dict[str, Any]:
    """Returns published rankings, and what was predicted of them before any run."""
    return json.loads((FOLDER / "prediction.json").read_text(encoding="utf-8"))


def find(names: str | None) -> list[Method]:
    """Returns the methods of a list, such as ``"AdamW, lion, mine.py:my_optimizer"``.

    Args:
      names: Separated by commas: a method of ``configs/compare/common.py``, an optimizer of
        ``experiments.train`` (its learning rate is tuned), or a function of a file that takes a
        learning rate and returns a ``GradientTransformation``. ``None``: all declared methods.

    Raises:
      ValueError: An unknown name (the nearest are listed), two methods of one name, or a file
        without the function.
    """
    if names is None:
        return declared_methods()
    found = [_one(name.strip()) for name in names.split(",") if name.strip()]
    if not found:
        raise ValueError("--optimizers must name at least one method")
    seen: set[str] = set()
    for method in found:
        if method.name in seen:
            raise ValueError(f"--optimizers names two methods {method.name!r}")
        seen.add(method.name)
    return found


def declared_methods(more: bool = False) -> list[Method]:
    """Returns the methods of ``configs/compare/common.py``, or the further ones of its ``MORE``."""
    return [_declared(name) for name in (declared.MORE if more else declared.METHODS)]


def _one(name: str) -> Method:
    if name in _DECLARED:
        return _declared(name)
    if ".py:" in name:
        _function(name)  # Whatever is wrong with it is said now.
        return Method(name, name, {}, dict(declared.SPACE))
    known = [*_DECLARED, *_OPTIMIZERS]
    _checks.choice("method", name, known)
    schedule = "constant" if name.startswith("schedule_free") else "cosine"
    return Method(name, name, {}, dict(declared.SPACE), schedule)


def _declared(name: str) -> Method:
    fields: dict[str, Any] = {"options": {}, "space": {}, **_DECLARED[name]}
    return Method(name, **fields)


def _cautious_lion(learning_rate, b1=0.9, weight_decay=0.0):
    return optim.cautious(optim.lion(learning_rate, b1=b1, weight_decay=weight_decay))


_OPTIMIZERS: dict[str, Callable[..., Any]] = {
    **optimizers.OPTIMIZERS,
    "cautious_lion": _cautious_lion,
}


def function(method: Method) -> Callable[..., Any]:
    """Returns the function that makes the optimizer of its arguments."""
    return _function(method.optimizer) if method.is_file else _OPTIMIZERS[method.optimizer]


def _function(text: str) -> Callable[..., Any]:
    """The function of ``file.py:name``."""
    file, _, name = text.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"--optimizers: there is no file {file}")
    function = getattr(config_files.module(path), name, None)
    if not callable(function):
        raise ValueError(f"--optimizers: {file} has no function {name!r}")
    return function


def trials(method: Method, study: int, count: int) -> list[dict[str, float]]:
    """Returns the settings that a study tries, a Latin hypercube of the method's space.

    Args:
      method: Its ranges are drawn log-uniformly.
      study: Seed of the draw.
      count: Number of settings; a method that claims to need no tuning has one, ``{}``.
    """
    if method.self_tuning:
        return [{}]
    keys = sorted(method.space)
    unit = qmc.LatinHypercube(len(keys), rng=np.random.default_rng(study)).random(count)
    low, high = (np.log([method.space[key][i] for key in keys]) for i in (0, 1))
    points = np.exp(low + unit * (high - low))
    return [{k: float(f"{x:.4g}") for k, x in zip(keys, point, strict=True)} for point in points]


def warmup_steps(steps: int) -> int:
    """Returns the number of warm-up steps in a run of ``steps`` steps."""
    return max(1, round(WARMUP * steps))


def factor(count: Any, steps: Any, warmup: Any, schedule: Any) -> jax.Array:
    r"""Returns what the learning rate of a step is multiplied by.

    .. math::
      f(t) = \begin{cases}
        (t + 1) / w & t < w \\
        s\left(\min\left(\frac{t - w}{T - w}, 1\right)\right) & t \ge w
      \end{cases}

    The warm-up does not begin at 0, where the first step of a run would do nothing.

    Args:
      count: The step :math:`t`, counted from 0.
      steps: :math:`T`, the steps of the run.
      warmup: :math:`w`, the steps of the warm-up.
      schedule: The place of :math:`s` in :data:`SCHEDULES`.
    """
    rest = jnp.clip((count - warmup) / jnp.maximum(steps - warmup, 1), 0.0, 1.0)
    shapes = [shape(rest) for shape in SCHEDULES.values()]
    after = jnp.select([schedule == i for i in range(len(shapes))], shapes)
    return jnp.where(count < warmup, (count + 1) / warmup, after)


class Tuned(NamedTuple):
    """The state of an optimizer with what differs between its runs: one program serves them all.

    Attributes:
      setting: Scalars by the names of the method's space.
      steps: Steps of the run, int32.
      warmup: Steps of the warm-up, int32.
      schedule: Place in :data:`SCHEDULES`, int32.
      inner: State of the optimizer itself.
    """

    setting: dict[str, jax.Array]
    steps: jax.Array
    warmup: jax.Array
    schedule: jax.Array
    inner: Any


class Optimizer(NamedTuple):
    """A method as a training step sees it.

    Attributes:
      init: ``init(params, setting, steps, warmup, schedule) -> state``.
      update: ``update(grads, state, params, loss) -> (updates, state)``.
    """

    init: Callable[..., Tuned]
    update: Callable[..., Any]


def build(method: Method) -> Optimizer:
    """Returns the optimizer of a method.

    Raises:
      ValueError: If it does not take the arguments that the space names.
    """
    make = function(method)
    taken = inspect.signature(make).parameters

    def optimizer(setting: Mapping[str, Any], steps, warmup, schedule):
        arguments = dict(method.options)
        for key, value in setting.items():
            name = key.removeprefix("one_minus_")
            arguments[name] = value if name == key else 1 - value
        rate = arguments.pop("learning_rate")
        decay = None if "weight_decay" in taken else arguments.pop("weight_decay", None)
        for key in arguments:
            if key not in taken:
                raise ValueError(f"optimizer {method.optimizer!r} takes no {key!r}")
        tx = make(lambda count: rate * factor(count, steps, warmup, schedule), **arguments)
        if decay is not None:  # Added to the gradient.
            tx = optax.chain(optax.add_decayed_weights(decay), tx)
        return optax.with_extra_args_support(tx)

    def init(params, setting, steps, warmup, schedule):
        setting = {key: jnp.float32(setting[key]) for key in sorted(method.space)}
        steps, warmup, schedule = (jnp.int32(x) for x in (steps, warmup, schedule))
        inner = optimizer(setting, steps, warmup, schedule).init(params)
        return Tuned(setting, steps, warmup, schedule, inner)

    def update(grads, state: Tuned, params, loss):
        tx = optimizer(state.setting, state.steps, state.warmup, state.schedule)
        updates, inner = tx.update(grads, state.inner, params, value=loss)
        return updates, state._replace(inner=inner)

    return Optimizer(init, update)


def code(method: Method, setting: Mapping[str, float], schedule: str, steps: int) -> str:
    """Returns the lines that make an optimizer, to paste behind ``import optax, optim``.

    Args:
      method: Its optimizer and its fixed arguments.
      setting: What was tuned.
      schedule: A key of :data:`SCHEDULES`.
      steps: Of the run.

    Example:
      >>> print(code(find("Lion")[0], {"learning_rate": 1e-3, "weight_decay": 0.1}, "rex", 100))
      ramp = optax.linear_schedule(0.0002, 0.001, 4)
      schedule = optax.join_schedules([ramp, optim.rex_schedule(0.001, 95)], [5])
      tx = optim.lion(schedule, weight_decay=0.1)
    """
    arguments: dict[str, Any] = dict(method.options)
    for key, value in setting.items():
        name = key.removeprefix("one_minus_")
        arguments[name] = value if name == key else float(f"{1 - value:.6g}")
    rate, warmup = arguments.pop("learning_rate"), warmup_steps(steps)
    rest = max(steps - warmup, 1)
    after = {
        "cosine": f"optax.cosine_decay_schedule({rate:g}, {rest})",
        "rex": f"optim.rex_schedule({rate:g}, {rest})",
        "constant": f"optax.constant_schedule({rate:g})",
    }[schedule]
    ramp = f"optax.linear_schedule({rate / warmup:.6g}, {rate:g}, {warmup - 1})"
    ramp = ramp if warmup > 1 else f"optax.constant_schedule({rate:g})"
    joined = f"schedule = optax.join_schedules([ramp, {after}], [{warmup}])"
    make = function(method)
    decay = ""
    if "weight_decay" not in inspect.signature(make).parameters and "weight_decay" in arguments:
        decay = f"optax.add_decayed_weights({arguments.pop('weight_decay'):g})"
    if make is _cautious_lion:
        call = f"optim.cautious({_call('optim.lion', arguments)})"
    else:
        call = _call(_place(method, make), arguments)
    call = f"optax.chain({decay}, {call})" if decay else call
    return "\n".join([f"ramp = {ramp}", joined, f"tx = {call}"])


def _call(name: str, arguments: Mapping[str, Any]) -> str:
    rest = [f"{k}={v:g}" if isinstance(v, float) else f"{k}={v!r}" for k, v in arguments.items()]
    return f"{name}({', '.join(['schedule', *rest])})"


def _place(method: Method, make: Callable[..., Any]) -> str:
    """The dotted name of a function, as a program of one's own would write it."""
    if method.is_file:
        file, _, name = method.optimizer.rpartition(":")
        return f"{Path(file).stem}.{name}"
    for module, place in ((optim, "optim"), (optax, "optax"), (optax.contrib, "optax.contrib")):
        if getattr(module, method.optimizer, None) is make:
            return f"{place}.{method.optimizer}"
    raise ValueError(f"there is no public name of {method.optimizer!r}")  # Never of OPTIMIZERS.


def state_bytes(method: Method, params: Any) -> float:
    """Returns the bytes of optimizer state for each parameter; scalars do not count."""
    setting = dict.fromkeys(method.space, 0.0)
    state = jax.eval_shape(lambda p: build(method).init(p, setting, 100, 5, 0), params)
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state) if x.ndim)
    return held / sum(x.size for x in jax.tree.leaves(params))
