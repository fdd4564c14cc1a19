"""One run of the comparison: a setting of a method on a workload, and its metric over the steps."""

import functools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

import optim
from experiments.comparing import methods, own_model, workloads
from experiments.supervised import averages

__all__ = [
    "Result",
    "check",
    "config_of",
    "job",
    "oracle_costs",
    "run",
    "run_population",
    "step_seconds",
]


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
    evaluate_all: Any


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
      workload: Name, or the path of a model file of one's own.
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


def job(workload: str, data_dir: str | None, method: methods.Method) -> Job:
    """Returns the functions of a run; settings, steps and schedules share them."""
    options = tuple(sorted(method.options.items()))
    return _job(workload, data_dir, (method.optimizer, options, tuple(sorted(method.space))))


@functools.lru_cache(maxsize=32)
def _job(name, data_dir, key) -> Job:
    optimizer, options, tuned = key
    space = dict.fromkeys(tuned, (1.0, 1.0))
    method = methods.Method(optimizer, optimizer, dict(options), space)
    is_file = name.endswith(".py")
    workload = own_model.build(name) if is_file else workloads.build(name, data_dir)
    tx = methods.build(method)

    def init(key, setting, steps, warmup, schedule):
        params, stats = workload.init(key)
        return State(params, stats, tx.init(params, setting, steps, warmup, schedule))

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

    many = jax.jit(jax.vmap(evaluate, in_axes=(0, None)))
    return Job(workload, jax.jit(init), step, jax.jit(evaluate), many)


def check(workload: str, data_dir: str | None, method: methods.Method) -> None:
    """Makes one step of a method on shapes, so that nothing can die at the first step of a run.

    Raises:
      ValueError: It cannot be used; the message says why.
    """
    try:
        made = job(workload, data_dir, method)
        setting = {key: np.float32(low) for key, (low, _) in method.space.items()}
        state = jax.eval_shape(made.init, jax.random.key(0), setting, 100, 5, 0)
        inputs = next(made.workload.batches(0)(0))
        resident, key = made.workload.data.get("train"), jax.random.key(0)
        batch = jax.eval_shape(made.workload.prepare, resident, inputs, key)
        after, _ = jax.eval_shape(made.step, state, batch)
        jax.eval_shape(made.evaluate, after, made.workload.data["valid"])
    except (TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"{method.name} cannot be compared on {workload}: all that it is given are gradients, "
            f"parameters and the loss ({text})"
        ) from error


def run(config: ConfigDict, data_dir: str | None = None, *, quiet: bool = True) -> Result:
    """Trains one setting of a method on a workload; see :func:`run_population`."""
    return run_population([config], data_dir, quiet=quiet)[0]


def run_population(
    configs: Sequence[ConfigDict], data_dir: str | None = None, *, quiet: bool = True
) -> list[Result]:
    """Trains settings of one method on one workload, side by side where that is faster.

    A run that diverges keeps the evaluations before it did.

    Args:
      configs: From :func:`config_of`; they differ in setting, seed and schedule at most.
      data_dir: Folder of the data sets, for workloads that read some.
      quiet: Unused; a table shows one progress line for all runs.
    """
    del quiet
    first, many = configs[0], len(configs)
    made = job(first.workload, data_dir, _method(first))
    workload = made.workload
    started = [_start(made, config) for config in configs]
    state, key = started[0] if many == 1 else jax.tree.map(lambda *x: jnp.stack(x), *started)
    shared = len({config.seed for config in configs}) == 1
    batches: Any = workload.batches(first.seed)
    if not shared:
        batches = [workload.batches(config.seed) for config in configs]
    evaluate = made.evaluate if many == 1 else made.evaluate_all
    splits = workload.data
    best, test = np.full(many, np.inf), np.full(many, np.nan)
    alive = np.ones(many, bool)
    history: list[list[dict[str, Any]]] = [[] for _ in configs]
    start = time.perf_counter()

    def watch(step, values):
        del step
        alive[:] &= np.isfinite(values["loss"].reshape(-1, many)).all(0)

    def take(step, state):
        valid = np.reshape(evaluate(state, splits["valid"]), many)
        better = alive & (valid < best)
        best[better] = valid[better]
        if "test" in splits and better.any():
            test[better] = np.reshape(evaluate(state, splits["test"]), many)[better]
        for r in np.flatnonzero(alive):
            value = float(valid[r]) if np.isfinite(valid[r]) else float("inf")
            history[r].append({"step": step, "valid": value})

    try:
        optim.loop.run(
            made.step,
            state,
            batches,
            first.steps,
            key=key,
            data=splits.get("train"),
            prepare=workload.prepare,
            steps_per_call=workload.period,
            replicas=None if many == 1 else many,
            on_metrics=watch,
            hooks=[(workload.period, take)],
        )
    except optim.loop.NonFiniteError:
        alive[:] = False
    seconds = (time.perf_counter() - start) / many
    results = []
    for r in range(many):
        final = {"best": float(best[r]), "test": float(test[r]), "diverged": float(not alive[r])}
        known = {k: v for k, v in final.items() if np.isfinite(v)}  # Of one never evaluated.
        results.append(Result({**known, "seconds": seconds}, history[r]))
    return results


def _start(made: Job, config: ConfigDict) -> tuple[State, jax.Array]:
    """The first state of a run and the key of its loop."""
    to_init, to_loop = jax.random.split(jax.random.key(config.seed))
    setting = {k: np.float32(v) for k, v in config.setting.items()}
    schedule = list(methods.SCHEDULES).index(config.method.schedule)
    warmup = methods.warmup_steps(config.steps)
    return made.init(to_init, setting, config.steps, warmup, schedule), to_loop


def step_seconds(
    workload: str,
    data_dir: str | None,
    compared: list[methods.Method],
    *,
    rounds: int = 5,
    steps: int = 50,
) -> dict[str, float]:
    """Measures the seconds of a step of each method, in turns and after compilation.

    Args:
      workload: Name.
      data_dir: Folder of the data sets.
      compared: The methods; what else runs on the machine meets them alike.
      rounds: Turns of each; the median counts.
      steps: Steps of a turn.
    """
    clocks = {}
    for method in compared:
        made = job(workload, data_dir, method)
        setting = {key: np.float32(low) for key, (low, _) in method.space.items()}
        train = jax.device_put(made.workload.data.get("train"))
        inputs = jax.device_put(next(made.workload.batches(0)(0)))

        def many(state, train, inputs, key, made=made):
            def body(i, state):
                batch = made.workload.prepare(train, inputs, jax.random.fold_in(key, i))
                return made.step(state, batch)[0]

            return jax.lax.fori_loop(0, steps, body, state)

        key = jax.random.key(0)
        arguments = made.init(key, setting, steps, 1, 0), train, inputs, key
        clocks[method.name] = jax.jit(many).lower(*arguments).compile(), *arguments
    return {name: seconds / steps for name, seconds in _in_turns(clocks, rounds).items()}


def oracle_costs(
    workload: str, data_dir: str | None, *, rounds: int = 5, calls: int = 50
) -> dict[str, float]:
    """Measures what a gradient, a JVP and a Hessian-vector product cost in forward passes.

    Args:
      workload: Name.
      data_dir: Folder of the data sets.
      rounds: Turns of each; the median counts.
      calls: Evaluations of a turn.
    """
    made = workloads.build(workload, data_dir)
    params, stats = jax.jit(made.init)(jax.random.key(0))
    train = jax.device_put(made.data.get("train"))
    inputs = jax.device_put(next(made.batches(0)(0)))

    def loss(params, batch):
        return made.loss(params, stats, batch["examples"], batch["key"])[0]

    def along(f, params, batch):  # The direction is the parameters themselves.
        return jax.jvp(lambda p: f(p, batch), (params,), (params,))

    oracles = {
        "forward": loss,
        "gradient": jax.value_and_grad(loss),
        "JVP": lambda params, batch: along(loss, params, batch),
        "HVP": lambda params, batch: along(jax.grad(loss), params, batch),
    }

    def repeated(oracle):
        def many(params, train, inputs, key):
            def body(i, params):
                batch = made.prepare(train, inputs, jax.random.fold_in(key, i))
                # The next call waits for all that this one returns.
                total = optax.tree.sum(oracle(params, batch))
                return jax.tree.map(lambda x: x + 1e-30 * total, params)

            return jax.lax.fori_loop(0, calls, body, params)

        return many

    arguments = params, train, inputs, jax.random.key(0)
    clocks = {
        name: (jax.jit(repeated(oracle)).lower(*arguments).compile(), *arguments)
        for name, oracle in oracles.items()
    }
    seconds = _in_turns(clocks, rounds)
    return {name: taken / seconds["forward"] for name, taken in seconds.items()}


def _in_turns(clocks: dict[str, Any], rounds: int) -> dict[str, float]:
    """The median seconds of calls ``{name: (compiled, *arguments)}`` that take turns."""
    taken: dict[str, list[float]] = {name: [] for name in clocks}
    for _ in range(rounds):
        for name, (compiled, *arguments) in clocks.items():
            start = time.perf_counter()
            jax.block_until_ready(compiled(*arguments))
            taken[name].append(time.perf_counter() - start)
    return {name: float(np.median(seconds)) for name, seconds in taken.items()}
