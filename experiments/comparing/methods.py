"""Methods by name: an optimizer, what of it is tuned and in which space, and its schedule."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import qmc

import optim
from experiments.common import config_files
from experiments.supervised import optimizers
from optim import _checks

__all__ = ["BASELINES", "FOLDER", "Method", "build", "find", "state_bytes", "trials"]

FOLDER = config_files.ROOT / "configs" / "compare"
declared = config_files.module(FOLDER / "methods.py")
BASELINES = declared.BASELINES  # They set the targets.
WARMUP = 0.05  # Share of the steps.


class Method(NamedTuple):
    """A method of the comparison.

    Attributes:
      name: For people.
      optimizer: Name in ``experiments.supervised.optimizers``, or ``file.py:function``.
      options: Its fixed arguments.
      space: What is tuned, ``{argument: (low, high)}``; empty if it claims to need no tuning.
      schedule: ``"cosine"`` or ``"constant"``, both after the warm-up.
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


def find(names: str | None) -> list[Method]:
    """Returns the methods of a list, such as ``"AdamW, lion, mine.py:my_optimizer"``.

    Args:
      names: Separated by commas: a method of ``configs/compare/methods.py``, an optimizer of
        ``experiments.train`` (its learning rate is tuned), or a function of a file that takes a
        learning rate and returns a ``GradientTransformation``. ``None``: all declared methods.

    Raises:
      ValueError: An unknown name (the nearest are listed), two methods of one name, or a file
        without the function.
    """
    if names is None:
        return [_declared(name) for name in declared.METHODS]
    found = [_one(name.strip()) for name in names.split(",") if name.strip()]
    if not found:
        raise ValueError("--optimizers must name at least one method")
    seen: set[str] = set()
    for method in found:
        if method.name in seen:
            raise ValueError(f"--optimizers names two methods {method.name!r}")
        seen.add(method.name)
    return found


def _one(name: str) -> Method:
    if name in declared.METHODS:
        return _declared(name)
    if ".py:" in name:
        _function(name)  # Whatever is wrong with it is said now.
        return Method(name, name, {}, dict(declared.SPACE))
    known = [*declared.METHODS, *_OPTIMIZERS]
    _checks.choice("method", name, known)
    schedule = "constant" if name.startswith("schedule_free") else "cosine"
    return Method(name, name, {}, dict(declared.SPACE), schedule)


def _declared(name: str) -> Method:
    fields: dict[str, Any] = {"options": {}, "space": {}, **declared.METHODS[name]}
    return Method(name, **fields)


def _cautious_lion(learning_rate, b1=0.9, weight_decay=0.0):
    return optim.cautious(optim.lion(learning_rate, b1=b1, weight_decay=weight_decay))


_OPTIMIZERS: dict[str, Callable[..., Any]] = {
    **optimizers.OPTIMIZERS,
    "cautious_lion": _cautious_lion,
}


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


class Tuned(NamedTuple):
    """The state of an optimizer with what is tuned of it.

    Attributes:
      setting: Scalars by the names of the method's space.
      inner: State of the optimizer itself.
    """

    setting: dict[str, jax.Array]
    inner: Any


class Optimizer(NamedTuple):
    """A method as a training step sees it; what is tuned is in the state, so nothing recompiles.

    Attributes:
      init: ``init(params, setting) -> state``.
      update: ``update(grads, state, params, loss) -> (updates, state)``.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]


def build(method: Method, steps: int) -> Optimizer:
    """Returns the optimizer of a method for a run of ``steps`` steps.

    Raises:
      ValueError: If it does not take the arguments that the space names.
    """
    make = _function(method.optimizer) if method.is_file else _OPTIMIZERS[method.optimizer]
    taken = inspect.signature(make).parameters
    warmup = max(1, round(WARMUP * steps))
    rest = steps - warmup
    after = (
        optax.cosine_decay_schedule(1.0, rest)
        if method.schedule == "cosine"
        else optax.constant_schedule(1.0)
    )
    # Not from 0: the first step of a run would do nothing.
    ramp = optax.linear_schedule(1 / warmup, 1.0, warmup - 1) if warmup > 1 else after
    schedule = optax.join_schedules([ramp, after], [warmup]) if warmup > 1 else after

    def with_setting(setting: Mapping[str, Any]):
        arguments = dict(method.options)
        for key, value in setting.items():
            name = key.removeprefix("one_minus_")
            arguments[name] = value if name == key else 1 - value
        rate = arguments.pop("learning_rate")
        decay = None if "weight_decay" in taken else arguments.pop("weight_decay", None)
        for key in arguments:
            if key not in taken:
                raise ValueError(f"optimizer {method.optimizer!r} takes no {key!r}")
        tx = make(lambda count: rate * schedule(count), **arguments)
        if decay is not None:  # Added to the gradient.
            tx = optax.chain(optax.add_decayed_weights(decay), tx)
        return optax.with_extra_args_support(tx)

    def init(params, setting: Mapping[str, Any]):
        setting = {key: jnp.float32(setting[key]) for key in sorted(method.space)}
        return Tuned(setting, with_setting(setting).init(params))

    def update(grads, state, params, loss):
        tx = with_setting(state.setting)
        updates, inner = tx.update(grads, state.inner, params, value=loss)
        return updates, Tuned(state.setting, inner)

    return Optimizer(init, update)


def state_bytes(method: Method, params: Any, steps: int = 100) -> float:
    """Returns the bytes of optimizer state for each parameter; scalars do not count."""
    setting = {k: 0.0 for k in method.space}
    state = jax.eval_shape(lambda p: build(method, steps).init(p, setting), params)
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state) if x.ndim)
    return held / sum(x.size for x in jax.tree.leaves(params))
