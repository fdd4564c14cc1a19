"""Pruning methods as stages: which step runs from which state, for how long, at what cost."""

import functools
import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

import bilevel
from experiments import data, models
from experiments.supervised import optimizers, training
from optim import _checks

METHODS = (
    "dense", "bip", "imp", "imp_rewind_lr2", "imp_finetune_lr2", "imp_reinit", "omp", "gmp",
    "random", "snip", "grasp", "synflow", "hydra",
)  # fmt: skip
AT_INIT = ("random", "snip", "grasp", "synflow")
GMP_LENGTH = 3  # Times the epochs of dense training, about the cost of BiP.


class Stage(NamedTuple):
    """A part of a run.

    Attributes:
      key: Stages with equal keys, after equal stages, have equal results.
      enter: Makes the first state from the last one of the stage before.
      step: Step of a solver.
      batches: As ``optim.loop.run`` takes them.
      start: Step it starts from.
      steps: Step it ends with.
      cost: Gradient evaluations in a step.
      pairs: Whether a batch is a pair, one for each level.
      method: False for dense training, which all methods share.
    """

    key: str
    enter: Callable[[Any], Any]
    step: Callable[..., Any]
    batches: Callable[[int], Any]
    start: int
    steps: int
    cost: int = 1
    pairs: bool = False
    method: bool = True


class Job(NamedTuple):
    """What runs on one kind of data, model and optimizer share: compiled once for all seeds."""

    model: models.Model
    loss: Callable[..., Any]
    optimizer: Callable[[int], optax.GradientTransformation]
    prepare: Callable[..., Any]
    prepare_pair: Callable[..., Any]
    epoch: int
    steps: int


def job_of(config: ConfigDict, data_dir: str | None) -> Job:
    """Returns the functions of a run: the same objects for configs that can share a program."""
    tree = json.loads(config.to_json_best_effort())
    del tree["prune"], tree["seed"]
    return _job(json.dumps(tree, sort_keys=True), data_dir)


def identity(config: ConfigDict, data_dir: str | None) -> str:
    """Returns what two runs must share, besides the keys of their stages, to be equal."""
    tree = json.loads(config.to_json_best_effort())
    for key in ("log_every", "save_every", "keep", "eval_batch_size"):
        del tree[key]
    prune = tree.pop("prune")
    at_init = prune["method"] if prune["method"] in AT_INIT else "trained"
    return json.dumps([tree, prune["split_by_seed"], at_init, data_dir], sort_keys=True)


def data_of(config: ConfigDict, data_dir: str | None) -> tuple[data.Dataset, Any]:
    """Returns the data, split anew for each seed if asked for, and ``evaluate(state, split)``."""
    tree = json.loads(config.to_json_best_effort())
    options = dict(tree["data"]["options"])
    if config.prune.split_by_seed:
        options["seed"] = config.seed
    tree = [tree["data"]["name"], options, config.eval_batch_size]
    return _data(job_of(config, data_dir), json.dumps(tree, sort_keys=True), data_dir)


@functools.lru_cache(maxsize=16)
def _data(job: Job, text: str, data_dir: str | None) -> tuple[data.Dataset, Any]:
    name, options, batch_size = json.loads(text)
    dataset = data.load(name, data_dir, **options)
    return dataset, training.make_evaluate(job.model, dataset, batch_size)


@functools.lru_cache(maxsize=8)
def _job(text: str, data_dir: str | None) -> Job:
    config = ConfigDict(json.loads(text))
    dataset = training.load(config, data_dir)
    model = models.build(
        config.model.name,
        input_shape=dataset.input_shape,
        num_classes=dataset.num_classes,
        **config.model.options,
    )
    epoch, steps = training.lengths(config, dataset)
    optimizers.check_rates(config.optimizer)
    options = {k: v for k, v in config.optimizer.items() if v is not None and k != "clip_norm"}
    peak = options.pop("learning_rate")
    tx = optimizers.make(peak, lambda count: 1.0, **options)
    optimizers.check(options["name"], tx, jax.eval_shape(model.init, jax.random.key(0))[0])

    @functools.cache
    def optimizer(factor):
        schedule = optimizers.build_schedule(config.schedule, factor * steps)
        return optimizers.make(peak, schedule, **options)

    make = data.prepare(dataset, augment=config.data.augment)

    def loss(params, stats, batch):
        logits, stats = model.apply(params, stats, batch["x"], train=True)
        return training.cross_entropy(logits, batch["label"])[0].mean(), stats

    def prepare_pair(arrays, inputs, key):
        keys = jax.random.split(key)
        return tuple(make(arrays, i, k) for i, k in zip(inputs, keys, strict=True))

    return Job(model, loss, optimizer, make, prepare_pair, epoch, steps)


def mask_rate(peak: float, steps: int) -> optax.Schedule:
    """The authors' learning rate of the scores: a tenth from half of the steps, then another."""
    return optax.piecewise_constant_schedule(peak, {steps // 2: 0.1, steps * 3 // 4: 0.1})


@functools.lru_cache(maxsize=64)
def _bip(job: Job, text: str) -> Any:
    prune = ConfigDict(json.loads(text))
    rate = mask_rate(prune.mask_learning_rate, job.steps)
    return bilevel.bip(
        job.optimizer(1),
        optax.sgd(rate, momentum=0.9),
        1.0,  # The density of a run is in its state.
        gamma=1 / prune.inverse_gamma if prune.inverse_gamma else float("inf"),
        second_order=prune.second_order,
        compatibility=prune.compatibility,
        structure=prune.structure,
    )


@functools.lru_cache(maxsize=64)
def _hydra(job: Job, learning_rate: float, density: float) -> Any:
    schedule = optax.cosine_decay_schedule(learning_rate, job.steps)
    return bilevel.hydra(optax.sgd(schedule, momentum=0.9), density)


@functools.lru_cache(maxsize=64)
def _gmp(job: Job, density: float) -> Any:
    every = max(job.epoch // 2, 1)
    updates = max(GMP_LENGTH * job.steps * 3 // 4 // every, 1)
    ramp = bilevel.Gradual(density, 0, updates, every)
    return bilevel.sparse_training(job.optimizer(GMP_LENGTH), gradual=ramp)


def bip_of(job: Job, config: ConfigDict) -> Any:
    """Returns the BiP solver of a config; one object for all densities."""
    names = (
        "mask_learning_rate", "inverse_gamma", "second_order", "compatibility", "structure",
    )  # fmt: skip
    return _bip(job, json.dumps({k: config.prune[k] for k in names}))


def path(density: float, through: tuple[float, ...] = (), fraction: float = 0.2) -> list[float]:
    """Densities of IMP's rounds down to ``density``, replaced by those of ``through`` on the way.

    Example:
      >>> [round(d, 3) for d in path(0.2, (0.5, 0.2))]
      [0.8, 0.64, 0.5, 0.4, 0.32, 0.256, 0.2]
    """
    stops = sorted({*(d for d in through if d > density), density}, reverse=True)
    densities, last = [], 1.0
    for stop in stops:
        part = bilevel.density.geometric_rounds(stop / last, fraction)
        densities += [last * d for d in part]
        last = densities[-1] = stop
    return densities


def plan(job: Job, config: ConfigDict, dataset: data.Dataset) -> tuple[Any, list[Stage]]:
    """Returns the first state and the stages of ``config.prune.method``."""
    prune, method, T = config.prune, config.prune.method, job.steps
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; {_checks.nearest(method, METHODS)}")
    rewind = round(prune.rewind_epochs * job.epoch)
    if not 0 <= rewind < T:
        raise ValueError(
            f"prune.rewind_epochs must be in [0, {config.epochs:g}), got {prune.rewind_epochs:g}"
        )
    to_init, to_masks, to_fresh = jax.random.split(jax.random.key(config.seed), 3)
    params, stats = job.model.init(to_init)
    chosen = bilevel.masks.prunable(params)
    try:  # Before anything runs.
        bilevel.masks.drop_counts(chosen, prune.density)
    except ValueError as error:
        raise ValueError(f"prune.{error}") from error
    dense = bilevel.sparse_training(job.optimizer(1))

    def feed(seed, offset=0):
        batches = data.train_batches(dataset, config.batch_size, seed)
        return lambda start: batches(start + offset)

    own = feed(config.seed)
    if method in AT_INIT:
        masks = _at_init(job, config, dataset, params, stats, to_masks)
        state = dense.init(job.loss, params, stats, masks=masks)
        return state, [Stage(f"{method} {prune.density}", lambda s: s, dense.step, own, 0, T)]
    state = dense.init(job.loss, params, stats)
    stages = [
        Stage("early", lambda s: s, dense.step, own, 0, rewind, method=False),
        Stage("dense", bilevel.set_anchor, dense.step, own, rewind, T, method=False),
    ]
    setting = f"{method} {prune.to_json_best_effort(sort_keys=True)}"
    if method.startswith("imp") or method == "omp":
        usual = "finetune" if method == "imp_finetune_lr2" else "rewind"
        rate = 2.0 if method.endswith("lr2") else 1.0
        densities = [prune.density] if method == "omp" else path(prune.density, prune.through)
        for i, density in enumerate(densities):
            # The control of the lottery tickets: their masks, on other initial weights.
            control = method == "imp_reinit" and i == len(densities) - 1
            style = "reinit" if control else usual
            enter = functools.partial(
                bilevel.next_round,
                drop=_drop(chosen, density, prune.allocator, dataset.num_classes),
                style=style,
                rate=rate,
                fresh=job.model.init(to_fresh)[0] if control else None,
            )
            batches = feed(config.seed, (i + 1) * (T - rewind))
            key = f"{style} {rate} {prune.allocator} {density}"
            stages.append(Stage(key, enter, dense.step, batches, rewind, T))
    elif method == "bip":
        solver = bip_of(job, config)
        # Two orders of the same training set, as in the authors' program.
        low, up = feed(config.seed + 10**6), feed(config.seed + 2 * 10**6)

        def enter(s):
            return solver.init(job.loss, s.params, s.stats, density=prune.density)

        def pairs(start):
            return zip(low(start), up(start), strict=True)

        stages.append(Stage(setting, enter, solver.step, pairs, 0, T, cost=2, pairs=True))
    elif method == "gmp":
        solver = _gmp(job, prune.density)

        def enter(s):
            return solver.init(job.loss, s.params, s.stats)

        batches = feed(config.seed, T)
        stages.append(Stage(setting, enter, solver.step, batches, 0, GMP_LENGTH * T))
    elif method == "hydra":
        solver = _hydra(job, prune.hydra_learning_rate, prune.density)

        def enter(s):
            return solver.init(job.loss, s.params, s.stats)

        def tune(s):
            return dense.init(job.loss, s.params, s.stats, masks=s.masks)

        stages.append(Stage(setting, enter, solver.step, feed(config.seed, T), 0, T))
        stages.append(Stage("tune", tune, dense.step, feed(config.seed, 2 * T), 0, T))
    return state, stages


def _drop(chosen: Any, density: float, allocator: str, classes: int) -> Any:
    """Returns what ``bilevel.next_round`` drops."""
    if allocator == "global":
        return np.int32(bilevel.masks.drop_counts(chosen, density))
    if allocator != "lottery":
        raise ValueError(
            f"prune.allocator of IMP and OMP must be global or lottery, got {allocator!r}"
        )
    leaves = jax.tree_util.tree_flatten_with_path(chosen)[0]
    last = [re.escape(bilevel.masks.path_name(p)) for p, x in leaves if x.shape[-1] == classes]
    densities = bilevel.allocate.lottery(chosen, density, f"^({'|'.join(last)})$")
    return jax.tree.map(np.int32, bilevel.masks.drop_counts(chosen, densities, scope="layer"))


def _at_init(job, config, dataset, params, stats, key) -> Any:
    prune = config.prune
    index = next(data.train_batches(dataset, config.batch_size, config.seed + 10**6)(0))
    batch = job.prepare(dataset.train, np.sort(index), key)

    def loss(temperature):
        def ce(params, batch):
            logits, _ = job.model.apply(params, stats, batch["x"], train=True)
            return training.cross_entropy(logits / temperature, batch["label"])[0].mean()

        return ce

    if prune.method == "random":
        scores = bilevel.criteria.random(key, params)
        if prune.allocator == "erk":
            chosen = bilevel.masks.prunable(params)
            densities = bilevel.allocate.erk(chosen, prune.density)
            return bilevel.masks.from_scores(scores, densities, scope="layer")
        return bilevel.masks.from_scores(scores, prune.density)
    if prune.method == "snip":
        scores = jax.jit(lambda p, b: bilevel.criteria.snip(loss(1.0), p, b))(params, batch)
        return bilevel.masks.from_scores(scores, prune.density)
    if prune.method == "grasp":
        # Halves of a batch sorted by class, and a temperature of 200, as the authors have them.
        order = np.argsort(np.asarray(batch["label"]), kind="stable")
        half = len(order) // 2
        halves = [jax.tree.map(lambda x, i=i: x[i], batch) for i in (order[:half], order[half:])]
        scores = jax.jit(lambda p, b: bilevel.criteria.grasp(loss(200.0), p, b))(params, halves)
        return bilevel.masks.from_scores(scores, prune.density, absolute=False)

    def forward(variables, x):
        return job.model.apply(variables["params"], variables["stats"], x, train=False)[0]

    variables = {"params": params, "stats": stats}
    ones = jax.numpy.ones((1, *dataset.input_shape))
    return bilevel.criteria.synflow_masks(forward, variables, ones, prune.density)["params"]
