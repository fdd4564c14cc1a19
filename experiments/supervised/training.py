"""Supervised learning as the loop sees it: the state, the step, the evaluation.

Everything that runs of one population share is built once, from the part of the config that they
have in common.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

import optim
from experiments import data, models
from experiments.common import config_files, devices
from experiments.supervised import averages, gradients, optimizers
from optim import _checks

# The losses of logits by name, as functions of logits and integer labels.
LOSSES: dict[str, Callable[..., jax.Array]] = {
    "softmax": optax.softmax_cross_entropy_with_integer_labels,
    "stablemax": optim.losses.stablemax_cross_entropy,
}


class TrainState(NamedTuple):
    """Everything that a step changes."""

    step: jax.Array
    params: Any
    stats: Any
    opt_state: Any


class Job(NamedTuple):
    """The functions of a run, shared by all runs that differ in seed, learning rate or decay."""

    init: Callable[..., TrainState]
    objective: Callable[..., Any]
    step: Callable[..., Any]
    batches: Callable[[int], Any]
    prepare: Callable[..., Any]
    resident: dict[str, np.ndarray]
    evaluate: Callable[..., dict[str, np.ndarray]]
    splits: tuple[str, ...]
    steps: int
    epoch: int


def cross_entropy(
    logits: jax.Array, labels: jax.Array, loss: str = "softmax"
) -> tuple[jax.Array, jax.Array]:
    """Returns loss and accuracy of each label; logits have the classes on a further, last axis."""
    return LOSSES[loss](logits, labels), (jnp.argmax(logits, -1) == labels).astype(jnp.float32)


def make_objective(model: models.Model, loss: str = "softmax"):
    """Returns ``objective(params, stats, batch) -> (loss, (stats, accuracy))``, a batch's mean."""

    def objective(params, stats, batch):
        logits, stats = model.apply(params, stats, batch["x"], train=True, key=batch.get("key"))
        losses, hit = cross_entropy(logits, batch["label"], loss)
        return losses.mean(), (stats, hit.mean())

    return objective


def make_step(
    model: models.Model,
    tx: optimizers.Optimizer,
    axis_name: str | None = None,
    estimator: optim.zeroth_order.Estimator | None = None,
    loss: str = "softmax",
    micro_batches: int | None = None,
    accumulate: int = 1,
):
    """Returns ``step(state, batch) -> (state, metrics)`` of mean cross-entropy.

    With ``axis_name`` it runs inside a ``pmap`` or ``shard_map`` over that axis, on its share of
    the batch. BatchNorm then normalizes over that share; under ``jit`` over the whole batch. With
    ``estimator`` nothing is differentiated (or less), and the metrics count ``forward_passes``.
    With ``micro_batches`` the gradient is the mean of those of so many parts of the batch (each
    with BatchNorm of its own), and the metrics have the gradient noise scale, in examples. With
    ``accumulate`` it is that too, of parts that are taken one after the other, to save memory.
    """
    objective = make_objective(model, loss)
    exact = optim.parallel.value_and_grad(objective, has_aux=True, axis_name=axis_name)

    def in_parts(state: TrainState, batch, parts: int):
        split = {
            k: jax.random.split(v, parts) if k == "key" else v.reshape(parts, -1, *v.shape[1:])
            for k, v in batch.items()
        }
        (value, aux), grads = jax.vmap(exact, (None, None, 0))(state.params, state.stats, split)
        grads, micro = optim.micro_gradients(grads, len(batch["label"]) // parts)
        return jax.tree.map(lambda x: jnp.mean(x, 0), (value, aux)), grads, {"micro": micro}

    def value_and_grad(state: TrainState, batch):
        if micro_batches is not None:
            return in_parts(state, batch, micro_batches)
        if estimator is None:
            summed = optim.accumulate(lambda p, batch: exact(p, state.stats, batch), accumulate)
            return *summed(state.params, batch), {}
        estimate = optim.zeroth_order.value_and_grad(
            lambda params, batch: objective(params, state.stats, batch),
            estimator,
            has_aux=True,
            axis_name=axis_name,
        )
        key = jax.random.fold_in(batch["key"], 1)
        return *estimate(state.params, batch, key, state.step), {}

    def step(state: TrainState, batch):
        (value, (stats, accuracy)), grads, extra = value_and_grad(state, batch)
        updates, opt_state = tx.update(grads, state.opt_state, state.params, value, **extra)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": value,
            "accuracy": accuracy,
            "lr": tx.learning_rate(opt_state, state.step),
            "gradient_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "parameter_norm": optax.tree.norm(params),
        }
        if estimator is not None:
            metrics["forward_passes"] = jnp.float32(estimator.evaluations(state.params))
        if micro_batches is not None:  # With a floor: a metric that is NaN would end the run.
            metrics["noise_scale"] = optim.noise_scale(opt_state, floor=1e-8).noise_scale
        return TrainState(state.step + 1, params, stats, opt_state), metrics

    return step


def make_evaluate(
    model: models.Model,
    dataset: data.Dataset,
    batch_size: int,
    length: int | None = None,
    loss: str = "softmax",
):
    """Returns ``evaluate(state, split, mesh, vmap) -> {"loss", "accuracy"}``, means over a split.

    They are taken at the point that the optimizer calls its result (:mod:`averages`).
    With ``vmap`` the state is that of a population, and so are the means.
    """
    prepare = data.prepare(dataset, length=length)

    def add(params, stats, arrays, inputs, sums):
        batch = prepare(arrays, inputs, None)
        logits, _ = model.apply(params, stats, batch["x"], train=False)
        losses, hit = cross_entropy(logits, batch["label"], loss)
        weight = batch["weight"]
        return {
            "loss": sums["loss"] + (weight * losses).sum(),
            "accuracy": sums["accuracy"] + (weight * hit).sum(),
            "count": sums["count"] + weight.sum(),
        }

    one = jax.jit(add)
    point = jax.jit(averages.eval_params)
    points = jax.jit(jax.vmap(averages.eval_params))
    many = jax.jit(jax.vmap(add, in_axes=(0, 0, None, None, 0)))

    @functools.cache
    def resident(split, mesh):
        arrays = getattr(dataset, split)
        if mesh is None:
            return jax.device_put(arrays)
        everywhere = NamedSharding(mesh, PartitionSpec())
        return {k: jax.make_array_from_process_local_data(everywhere, v) for k, v in arrays.items()}

    def evaluate(state: TrainState, split: str, mesh=None, vmap: bool = False):
        if state.step.ndim and not vmap:  # A population whose runs are made one after another.
            runs = [jax.tree.map(lambda x, r=r: x[r], state) for r in range(len(state.step))]
            means = [evaluate(run, split, mesh) for run in runs]
            return {k: np.stack([m[k] for m in means]) for k in means[0]}
        params = state.params
        if averages.is_averaged(state.opt_state):
            params = (points if vmap else point)(state.opt_state, params)
        sums = dict.fromkeys(("loss", "accuracy", "count"), np.zeros(state.step.shape, np.float32))
        feed = data.evaluation_batches(dataset, split, batch_size, length=length, **processes())
        for inputs in feed:
            if mesh is not None:
                share = NamedSharding(mesh, PartitionSpec(None if vmap else "data"))
                inputs = jax.tree.map(
                    lambda x, s=share: jax.make_array_from_process_local_data(s, x), inputs
                )
            add_to = many if vmap else one
            sums = add_to(params, state.stats, resident(split, mesh), inputs, sums)
        sums = jax.device_get(sums)
        return {k: sums[k] / sums["count"] for k in ("loss", "accuracy")}

    return evaluate


def processes() -> dict[str, Any]:
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


# What may differ between the runs of a population: all else is built once, and compiled once.
OWN = {"seed": 0, "optimizer.learning_rate": 1.0, "optimizer.weight_decay": 0.0}


@config_files.cached(without=OWN)
def job_of(config: ConfigDict, data_dir: str | None) -> Job:
    """Returns the functions of a run: the same objects for configs that can share a program."""
    dataset = load(config, data_dir)
    length: Any = config.data.length if "tokens" in dataset.train else None
    model = models.build(
        config.model.name,
        input_shape=dataset.input_shape if length is None else (length,),
        num_classes=dataset.num_classes,
        **config.model.options,
    )
    epoch, steps = lengths(config, dataset, length)
    tx = optimizers.build(config, steps)

    estimator, parts = gradients.build(config.gradient), check_parts(config)
    step = make_step(
        model,
        tx,
        estimator=estimator,
        loss=config.loss,
        micro_batches=parts,
        accumulate=config.accumulate,
    )

    def init(key, learning_rate, weight_decay):
        params, stats = model.init(key)
        opt_state = tx.init(params, learning_rate, weight_decay)
        return TrainState(jnp.int32(0), params, stats, opt_state)

    def batches(seed):
        stream = config.data.stream
        return data.train_batches(
            dataset, config.batch_size, seed, length=length, stream=stream, **processes()
        )

    make = data.prepare(dataset, augment=config.data.augment, length=length)

    def prepare(arrays, inputs, key):
        to_augment, to_drop = jax.random.split(key)
        return {**make(arrays, inputs, to_augment), "key": to_drop}

    # One step on shapes: what cannot run stops here, before it leaves anything.
    state = jax.eval_shape(init, jax.random.key(0), 0.1, 0.0)
    optimizers.check(config.optimizer.name, tx, state.params)
    count = config.batch_size // jax.process_count()
    inputs: Any = jax.ShapeDtypeStruct((count,), jnp.int32)
    if config.data.stream:
        inputs = {
            k: jax.ShapeDtypeStruct(
                (count, *(x.shape[1:] if length is None else (length + 1,))), x.dtype
            )
            for k, x in dataset.train.items()
        }
    held = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dataset.train)
    batch = jax.eval_shape(prepare, held, inputs, jax.random.key(0))
    jax.eval_shape(step, state, batch)

    return Job(
        init=init,
        objective=make_objective(model, config.loss),
        step=step,
        batches=batches,
        prepare=prepare,
        resident={} if config.data.stream else dataset.train,
        evaluate=make_evaluate(model, dataset, config.eval_batch_size, length, config.loss),
        splits=tuple(s for s in ("valid", "test") if data.size(dataset, s)),
        steps=steps,
        epoch=epoch,
    )


def check_parts(config: ConfigDict) -> int | None:
    """Returns ``config.micro_batches``, once the parts and ``config.loss`` are in their ranges."""
    _checks.choice("loss", config.loss, LOSSES)
    for name, least in (("accumulate", 1), ("micro_batches", 2)):
        parts = config[name]
        if parts is None or (name == "accumulate" and parts == 1):
            continue
        _checks.count(name, parts, least)
        if config.gradient.name != "backprop":
            raise ValueError(f"{name} needs gradient.name=backprop")
        if config.batch_size % parts:
            raise ValueError(f"{name} must divide batch_size={config.batch_size}, got {parts}")
    if config.micro_batches is not None and config.accumulate > 1:
        raise ValueError("accumulate must be 1 with micro_batches, which are taken at once")
    return config.micro_batches


def load(config: ConfigDict, data_dir: str | None) -> data.Dataset:
    """Returns the data of a config, once its counts are in their ranges."""
    counts = ("batch_size", "eval_batch_size", "steps", "log_every", "eval_every", "save_every")
    config_files.check_counts(config, *counts, "keep")
    _checks.count("seed", config.seed, 0)
    dataset = data.load(config.data.name, data_dir, **config.data.options)
    if not config.data.get("stream"):  # Files that are mapped into memory are read.
        train = {k: np.asarray(x) for k, x in dataset.train.items()}
        dataset = dataclasses.replace(dataset, train=train)
    if dataset.num_classes < 2:
        raise ValueError(f"data.name must have classes; the labels of {dataset.name} are numbers")
    return dataset


def lengths(
    config: ConfigDict, dataset: data.Dataset, length: int | None = None
) -> tuple[int, int]:
    """Returns the steps of an epoch and of the run."""
    epoch = data.steps_per_epoch(dataset, config.batch_size, length)
    if epoch < 1:
        most = data.steps_per_epoch(dataset, 1, length)
        if length is not None and most < 1:
            tokens = data.size(dataset, "train")
            raise ValueError(
                f"data.length must be below the {tokens} tokens of {dataset.name} to train on, "
                f"got {length}"
            )
        raise ValueError(
            f"batch_size must be <= {most}, the training examples of {dataset.name}, "
            f"got {config.batch_size}"
        )
    _checks.number("epochs", config.epochs)
    steps, from_epochs = config.get("steps"), round(config.epochs * epoch)
    most = 2**31 - 1  # The state counts its steps in int32.
    if max(steps or 0, from_epochs if steps is None else 0) > most:
        raise ValueError(f"a run may have up to {most} steps, got {steps or from_epochs}")
    if steps is not None:
        return epoch, steps
    steps = from_epochs
    if steps < 1:
        raise ValueError(
            f"epochs must be >= {1 / epoch:.2g}, a step of {config.batch_size} examples, "
            f"got {config.epochs:g}"
        )
    return epoch, steps


def start(
    job: Job, configs: Sequence[ConfigDict], mesh: Mesh | None = None, sharding: str = "replicated"
) -> tuple[TrainState, jax.Array]:
    """Returns the first state and the key of the loop; of a population with a leading axis."""
    states, keys = [], []
    for config in configs:
        optimizers.check_rates(config.optimizer)
        if config.optimizer.learning_rate == 0:
            warnings.warn("optimizer.learning_rate is 0: nothing is trained", stacklevel=2)
        to_init, to_loop = jax.random.split(jax.random.key(config.seed))
        decay = config.optimizer.weight_decay
        given = np.float32(config.optimizer.learning_rate), np.float32(decay or 0.0)
        states.append(devices.started(job.init, mesh, sharding, to_init, *given))
        keys.append(to_loop)
    if len(configs) == 1:
        return states[0], keys[0]
    return jax.tree.map(lambda *x: jnp.stack(x), *states), jnp.stack(keys)


def feeds(job: Job, configs: Sequence[ConfigDict], state: TrainState) -> tuple[Any, bool]:
    """Returns the batches of a run or a population for the loop, and whether to vectorize it."""
    if len(configs) == 1:
        return job.batches(configs[0].seed), False
    shared = len({c.seed for c in configs}) == 1
    batches = job.batches(configs[0].seed) if shared else [job.batches(c.seed) for c in configs]
    return batches, optim.loop.prefers_vmap(state, len(configs), shared=shared)


def sizes(state: TrainState, runs: int) -> dict[str, float]:
    """Returns the number of parameters, and the bytes of optimizer state for each of them.

    Scalars, such as counters and the learning rate, do not count as state.
    """
    alone = int(runs == 1)
    count = sum(x.size for x in jax.tree.leaves(state.params)) // runs
    arrays = [x for x in jax.tree.leaves(state.opt_state) if x.ndim + alone > 1]
    held = sum(x.nbytes for x in arrays) / runs
    return {"parameters": float(count), "state_bytes_per_parameter": held / count}
