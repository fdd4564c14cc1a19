"""One run of the comparison: a setting of a method on a workload, and its metric over the steps."""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

import optim
from experiments.comparing import methods, workloads
from experiments.supervised import averages

__all__ = ["Result", "check", "config_of", "run", "step_seconds"]


class Result(NamedTuple):
    """What a run gives.

    Attributes:
      final: The metric at the end, of the best evaluation, on the test split there, and seconds.
      history: ``{"step", "valid"}`` for each evaluation.
    """

    final: dict[str, float]
    history: list[dict[str, Any]]


class State(NamedTuple):
    """What a step changes."""

    params: Any
    stats: Any
    opt_state: Any


class Job(NamedTuple):
    """The functions of a run, the same objects for runs that share a program."""

    workload: workloads.Workload
    init: Any
    step: Any
    evaluate: Any


def config_of(
    workload: str,
    version: dict[str, Any],
    method: methods.Method,
    setting: dict[str, float],
    seed: int,
    steps: int,
) -> ConfigDict:
    """Returns the config of a run, whose digest names its result.

    Args:
      workload: Name.
      version: Its :func:`workloads.fingerprint`: results of an earlier version are not this one's.
      method: Without its space, which does not change a run.
      setting: Of the tuned arguments.
      seed: Of the initial parameters and the order of the data, the same for all methods.
      steps: Length of the run, and of the schedule.
    """
    own = {k: v for k, v in method._asdict().items() if k not in ("name", "space")}
    tree = {
        "workload": workload,
        "version": version,
        "method": {**own, "tuned": sorted(method.space)},
        "setting": dict(setting),
        "seed": seed,
        "steps": steps,
    }
    return ConfigDict(tree)


def _method(config: ConfigDict) -> methods.Method:
    fields = config.method.to_dict()
    space = {key: (1.0, 1.0) for key in fields.pop("tuned")}  # What it is drawn from, is past.
    return methods.Method(name=fields["optimizer"], space=space, **fields)


def job(workload: str, data_dir: str | None, method: methods.Method, steps: int) -> Job:
    """Returns the functions of a run."""
    options = tuple(sorted(method.options.items()))
    key = method.optimizer, options, tuple(sorted(method.space)), method.schedule
    return _job(workload, data_dir, key, steps)


@functools.lru_cache(maxsize=8)
def _job(name, data_dir, key, steps) -> Job:
    optimizer, options, tuned, schedule = key
    space = dict.fromkeys(tuned, (1.0, 1.0))
    method = methods.Method(optimizer, optimizer, dict(options), space, schedule)
    workload, tx = workloads.build(name, data_dir), methods.build(method, steps)

    def init(key, setting):
        params, stats = workload.init(key)
        return State(params, stats, tx.init(params, setting))

    def step(state: State, batch):
        value_and_grad = jax.value_and_grad(workload.loss, has_aux=True)
        (loss, stats), grads = value_and_grad(
            state.params, state.stats, batch["examples"], batch["key"]
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.params, loss)
        return State(optax.apply_updates(state.params, updates), stats, opt_state), {"loss": loss}

    def evaluate(state: State, examples):
        params = averages.eval_params(state.opt_state, state.params)
        return workload.evaluate(params, state.stats, examples)

    return Job(workload, jax.jit(init), step, jax.jit(evaluate))


def check(workload: str, data_dir: str | None, method: methods.Method) -> None:
    """Makes one step of a method on shapes, so that nothing can die at the first step of a run.

    Raises:
      ValueError: It cannot be used; the message says why.
    """
    try:
        made = job(workload, data_dir, method, 100)
        setting = {key: np.float32(low) for key, (low, _) in method.space.items()}
        state = jax.eval_shape(made.init, jax.random.key(0), setting)
        train = made.workload.data["train"]
        index = next(made.workload.batches(0)(0))
        batch = jax.eval_shape(workloads.prepare, train, index, jax.random.key(0))
        after, _ = jax.eval_shape(made.step, state, batch)
        jax.eval_shape(made.evaluate, after, made.workload.data["valid"])
    except (TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"{method.name} cannot be compared on {workload}: all that it is given are gradients, "
            f"parameters and the loss ({text})"
        ) from error


def run(config: ConfigDict, data_dir: str | None = None, *, quiet: bool = True) -> Result:
    """Trains one setting of a method on a workload.

    A run that diverges keeps the evaluations before it did.

    Args:
      config: From :func:`config_of`.
      data_dir: Folder of the data sets, for workloads that read some.
      quiet: Unused; a table shows one progress line for all runs.
    """
    del quiet
    made = job(config.workload, data_dir, _method(config), config.steps)
    workload = made.workload
    to_init, to_loop = jax.random.split(jax.random.key(config.seed))
    setting = {k: np.float32(v) for k, v in config.setting.items()}
    state = made.init(to_init, setting)
    history: list[dict[str, Any]] = []
    final = {"best": float("inf"), "test": float("nan"), "diverged": 0.0}
    start = time.perf_counter()

    def evaluate(step, state):
        value = float(made.evaluate(state, workload.data["valid"]))
        history.append({"step": step, "valid": value if np.isfinite(value) else float("inf")})
        if value < final["best"]:
            test = float(made.evaluate(state, workload.data["test"]))
            final.update(best=value, test=test)

    try:
        optim.loop.run(
            made.step,
            state,
            workload.batches(config.seed),
            config.steps,
            key=to_loop,
            data=workload.data["train"],
            prepare=workloads.prepare,
            steps_per_call=workload.period,
            hooks=[(workload.period, evaluate)],
        )
    except optim.loop.NonFiniteError:
        final["diverged"] = 1.0
    seconds = time.perf_counter() - start
    best = {k: v for k, v in final.items() if np.isfinite(v)}  # Of one that never was evaluated.
    return Result({**best, "seconds": seconds}, history)


def step_seconds(
    workload: str, data_dir: str | None, compared: list[methods.Method], rounds: int = 5
) -> dict[str, float]:
    """Measures the seconds of a step of each method, in turns and after compilation.

    Args:
      workload: Name.
      data_dir: Folder of the data sets.
      compared: The methods; what else runs on the machine meets them alike.
      rounds: Turns of each; the median counts.
    """
    clocks = {}
    steps = 50
    for method in compared:
        made = job(workload, data_dir, method, steps)
        setting = {key: np.float32(low) for key, (low, _) in method.space.items()}
        train = jax.device_put(made.workload.data["train"])
        index = jnp.asarray(next(made.workload.batches(0)(0)))

        def many(state, train, index, key, made=made):
            def body(i, state):
                batch = workloads.prepare(train, index, jax.random.fold_in(key, i))
                return made.step(state, batch)[0]

            return jax.lax.fori_loop(0, steps, body, state)

        key = jax.random.key(0)
        compiled = jax.jit(many).lower(made.init(key, setting), train, index, key).compile()
        clocks[method.name] = compiled, made.init(key, setting), train, index, key
    taken: dict[str, list[float]] = {name: [] for name in clocks}
    for _ in range(rounds):
        for name, (compiled, *arguments) in clocks.items():
            start = time.perf_counter()
            jax.block_until_ready(compiled(*arguments))
            taken[name].append((time.perf_counter() - start) / steps)
    return {name: float(np.median(seconds)) for name, seconds in taken.items()}
