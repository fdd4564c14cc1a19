"""A workload of one's own, from a Python file with plain functions or with a Flax module."""

import functools
import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx

from experiments import models
from experiments.common import config_files, provenance
from experiments.comparing import workloads
from optim import _checks

__all__ = ["build", "fingerprint"]

STEPS, BATCH_SIZE = 1000, 32
HELD_OUT = 0.2  # Share of the examples, where the file holds none out itself.
HELD_OUT_BATCHES = 8  # Batches behind the last step, where the file evaluates nothing itself.
NEEDS = (
    "it needs init(key), loss(params, batch, key) and batches(step), or a Flax module `model` with "
    "arrays `inputs` and `targets`"
)


@functools.lru_cache(maxsize=4)
def build(path: str) -> workloads.Workload:
    """Returns the workload of a file.

    A file with plain functions defines

    * ``init(key) -> params``,
    * ``loss(params, batch, key) -> scalar``, or ``(scalar, auxiliary)``,
    * ``batches(step) -> batch``, arrays of the same shapes for every step, the same batch each time
      that it is called with a step, or ``batches(step, seed)``, with another order for each seed,
    * optionally ``evaluate(params) -> {name: scalar}``. The first number decides; it is minimized,
      or maximized where the file says ``maximize = True``. Without it the loss decides, on batches
      behind the last step.

    A file with a module defines

    * ``model``, a Linen module, an NNX module, or a function of ``rngs`` that makes one,
    * ``inputs`` and ``targets``, arrays with the examples first, and optionally ``valid_inputs``
      and ``valid_targets``; without them a fifth of the examples is held out, and
    * optionally ``objective(outputs, targets) -> scalar``; by default cross-entropy for integer
      targets, and the mean squared error for others.

    Both may define ``steps`` (1000) and ``batch_size`` (32, of a module).

    Args:
      path: Of the file.

    Raises:
      ValueError: The file lacks something, the loss is no scalar or not finite at the start, or a
        parameter is not a floating-point number.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"--model: there is no file {path}")
    module = config_files.module(file)
    steps = getattr(module, "steps", STEPS)
    _checks.count(f"steps of {path}", steps)
    made = _of_module if hasattr(module, "model") else _of_functions
    workload = made(path, module, steps)
    _check_start(path, workload)
    return workload


def fingerprint(path: str) -> dict[str, Any]:
    """Returns what tells a model from an earlier version of it: a hash of its source, its steps."""
    workload = build(path)
    own = provenance.own_code(Path(path).expanduser())
    return {"source": own, "steps": workload.steps, "metric": workload.metric}


def _of_functions(path: str, module: Any, steps: int) -> workloads.Workload:
    for name in ("init", "loss", "batches"):
        if not callable(getattr(module, name, None)):
            raise ValueError(f"--model: {path} has no function {name}: {NEEDS}")

    def loss(params, stats, batch, key):
        return _scalar(path, "loss", module.loss(params, batch, key)), stats

    seeded = len(inspect.signature(module.batches).parameters) > 1

    def batch_of(step, seed=0):
        return module.batches(step, seed) if seeded else module.batches(step)

    def feed(seed):
        return lambda start: (batch_of(step, seed) for step in itertools.count(start))

    def own_metric(params, stats, examples):
        del stats, examples
        name, value = _first(path, module.evaluate(params))
        return sign * _scalar(path, f"evaluate()[{name!r}]", value)

    def held_out_loss(params, stats, examples):
        def one(batch, key):
            return loss(params, stats, batch, key)[0]

        keys = jax.random.split(jax.random.key(0), HELD_OUT_BATCHES)
        return jax.lax.map(lambda pair: one(*pair), (examples, keys)).mean()

    sign = -1.0 if getattr(module, "maximize", False) else 1.0
    if callable(getattr(module, "evaluate", None)):
        evaluate, valid = own_metric, {}
        metric = ("minus " if sign < 0 else "") + _metric_name(path, module)
    else:
        later = [batch_of(steps + i) for i in range(HELD_OUT_BATCHES)]
        evaluate, metric = held_out_loss, "loss of later batches"
        valid = jax.tree.map(lambda *x: np.stack(x), *later)
    return workloads.Workload(
        path,
        lambda key: (module.init(key), {}),
        loss,
        evaluate,
        {"valid": valid},
        metric=metric,
        batch_size=0,  # Known to the file alone.
        steps=steps,
        prepare=lambda train, batch, key: {"examples": batch, "key": key},
        feed=feed,
    )


def _of_module(path: str, module: Any, steps: int) -> workloads.Workload:
    arrays = {}
    for name in ("inputs", "targets"):
        if not hasattr(module, name):
            raise ValueError(f"--model: {path} has a model and no {name}: {NEEDS}")
        arrays[name] = np.asarray(getattr(module, name))
    if len(arrays["inputs"]) != len(arrays["targets"]):
        raise ValueError(
            f"--model: {path} has {len(arrays['inputs'])} inputs and {len(arrays['targets'])} "
            "targets"
        )
    if hasattr(module, "valid_inputs"):
        names = ("inputs", "targets")
        valid = {name: np.asarray(getattr(module, f"valid_{name}")) for name in names}
    else:
        order = np.random.default_rng(0).permutation(len(arrays["inputs"]))
        cut = max(1, round(HELD_OUT * len(order)))
        valid = {k: x[order[:cut]] for k, x in arrays.items()}
        arrays = {k: x[order[cut:]] for k, x in arrays.items()}
    most = len(arrays["inputs"])
    batch_size = getattr(module, "batch_size", min(BATCH_SIZE, most))
    _checks.count(f"batch_size of {path}", batch_size)
    if batch_size > most:
        raise ValueError(f"--model: batch_size of {path} must be <= {most}, got {batch_size}")
    model = _flax(path, module.model, arrays["inputs"])
    objective = getattr(module, "objective", None) or _default_objective(arrays["targets"])

    def loss(params, stats, batch, key):
        outputs, stats = model.apply(params, stats, batch["inputs"], train=True, key=key)
        return _scalar(path, "objective", objective(outputs, batch["targets"])), stats

    def evaluate(params, stats, examples):
        outputs, _ = model.apply(params, stats, examples["inputs"], train=False)
        return objective(outputs, examples["targets"])

    return workloads.Workload(
        path,
        model.init,
        loss,
        evaluate,
        {"train": arrays, "valid": valid},
        metric="valid loss",
        batch_size=batch_size,
        steps=steps,
    )


def _metric_name(path: str, module: Any) -> str:
    names = []  # A dict that leaves a traced function has its keys sorted.

    def named(key):
        name, value = _first(path, module.evaluate(module.init(key)))
        names.append(name)
        return value

    try:
        jax.eval_shape(named, jax.random.key(0))
    except jax.errors.TracerArrayConversionError as error:
        raise ValueError(f"--model: evaluate of {path} must be made of JAX functions") from error
    return names[0]


def _flax(path: str, model: Any, inputs: np.ndarray) -> models.Model:
    if isinstance(model, linen.Module):
        return models.from_linen(model, input_shape=inputs.shape[1:], dtype=inputs.dtype)
    if isinstance(model, nnx.Module):
        return models.from_nnx(lambda rngs: nnx.clone(model))
    written: Any = (
        model.__init__ if isinstance(model, type) else model
    )  # NNX hides that of a class.
    if callable(model) and "rngs" in inspect.signature(written).parameters:
        return models.from_nnx(lambda rngs: model(rngs=rngs))
    raise ValueError(
        f"--model: `model` of {path} must be a Linen module, an NNX module or a function of rngs, "
        f"got {type(model).__name__}"
    )


def _default_objective(targets: np.ndarray) -> Callable[..., jax.Array]:
    if np.issubdtype(targets.dtype, np.integer):
        return lambda outputs, labels: optax.softmax_cross_entropy_with_integer_labels(
            outputs, labels
        ).mean()
    return lambda outputs, numbers: jnp.square(outputs - numbers).mean()


def _first(path: str, values: Any) -> tuple[str, Any]:
    if not isinstance(values, dict) or not values:
        raise ValueError(f"--model: evaluate of {path} must return a dict of scalars")
    return next(iter(values.items()))


def _scalar(path: str, name: str, value: Any) -> jax.Array:
    value = value[0] if isinstance(value, tuple) else value
    value = jnp.asarray(value)
    if value.shape:
        raise ValueError(
            f"--model: {name} of {path} must be a scalar, got shape {value.shape}: take its mean"
        )
    return value


def _check_start(path: str, workload: workloads.Workload) -> None:
    """Evaluates the loss once at the initial parameters."""
    to_init, to_loss = jax.random.split(jax.random.key(0))
    params, stats = workload.init(to_init)
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            where = jax.tree_util.keystr(key_path)
            raise ValueError(
                f"--model: parameter {where} of {path} must be a floating-point array, got "
                f"{jnp.result_type(leaf)}"
            )
    inputs = next(workload.batches(0)(0))
    batch = workload.prepare(workload.data.get("train"), inputs, to_loss)
    value, _ = jax.jit(workload.loss)(params, stats, batch["examples"], batch["key"])
    if not np.isfinite(value):
        raise ValueError(f"--model: the loss of {path} is {float(value)} at init(key(0))")
