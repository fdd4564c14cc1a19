"""Pruning methods as stages: which step runs from which state, for how long, at what cost."""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

import bilevel
from experiments import data, models
from experiments.common import config_files
from experiments.pruning import sparse_methods
from experiments.pruning.stages import Job, Stage, Start
from experiments.supervised import gradients, optimizers, training
from optim import _checks

GMP_LENGTH = 3  # Times the epochs of dense training, about the cost of BiP.


@config_files.cached(without={"prune": None, "seed": 0})
def job_of(config: ConfigDict, data_dir: str | None) -> Job:
    """Returns the functions of a run: the same objects for configs that can share a program."""
    dataset = training.load(config, data_dir)
    model = models.build(
        config.model.name,
        input_shape=dataset.input_shape,
        num_classes=dataset.num_classes,
        **config.model.options,
    )
    epoch, steps = training.lengths(config, dataset)
    optimizers.check_rates(config.optimizer)
    options = {k: v for k, v in config.optimizer.items() if v is not None}
    peak, clip = options.pop("learning_rate"), options.pop("clip_norm", None)
    tx = optimizers.clipped(optimizers.make(peak, lambda count: 1.0, **options), clip)
    optimizers.check(options["name"], tx, jax.eval_shape(model.init, jax.random.key(0))[0])

    @functools.cache
    def optimizer(factor):
        schedule = optimizers.build_schedule(config.schedule, factor * steps)
        return optimizers.clipped(optimizers.make(peak, schedule, **options), clip)

    make = data.prepare(dataset, augment=config.data.augment)

    def loss(params, stats, batch):
        logits, stats = model.apply(params, stats, batch["x"], train=True)
        return training.cross_entropy(logits, batch["label"])[0].mean(), stats

    estimator, passes = gradients.build(config.gradient), None
    if estimator is not None:
        passes = estimator.evaluations(jax.eval_shape(model.init, jax.random.key(0))[0])

    def prepare(arrays, inputs, key):
        if estimator is None:
            return make(arrays, inputs, key)
        to_augment, to_probe = jax.random.split(key)
        return make(arrays, inputs, to_augment), to_probe

    def prepare_pair(arrays, inputs, key):
        upper, lower = inputs
        to_lower, to_upper = jax.random.split(key)
        return prepare(arrays, upper, to_upper), prepare(arrays, lower, to_lower)

    return Job(
        model=model,
        problem=bilevel.pruning.problem(loss, estimator),
        optimizer=optimizer,
        prepare=prepare,
        prepare_pair=prepare_pair,
        examples=make,
        passes=passes,
        epoch=epoch,
        steps=steps,
        solver=bilevel.sparse_training(optimizer(1)),
    )


def data_of(config: ConfigDict, data_dir: str | None) -> tuple[data.Dataset, Any]:
    """Returns the data, split anew for each seed if asked for, and ``evaluate(state, split)``."""
    chosen = ConfigDict({"name": config.data.name, "options": config.data.options.to_dict()})
    if config.prune.split_by_seed:
        chosen.options.seed = config.seed
    return _data(chosen, job_of(config, data_dir), config.eval_batch_size, data_dir)


@config_files.cached()
def _data(chosen, job, batch_size, data_dir) -> tuple[data.Dataset, Any]:
    dataset = data.load(chosen.name, data_dir, **chosen.options)
    return dataset, training.make_evaluate(job.model, dataset, batch_size)


def identity(config: ConfigDict, data_dir: str | None) -> str:
    """Returns what two runs must share, besides the keys of their stages, to be equal."""
    other = ("log_every", "save_every", "keep", "eval_batch_size", "prune")
    shared = config_files.text(config, without=dict.fromkeys(other))
    at_init = config.prune.method if config.prune.method in AT_INIT else "trained"
    return f"{shared} {config.prune.split_by_seed} {at_init} {data_dir}"


def check(job: Job, config: ConfigDict) -> int:
    """Returns the step that methods rewind to.

    Raises:
      ValueError: The method is unknown or needs backpropagation where that is not to be, that
        step is none of the run, a key is out of its range, or the method has no such structure.
    """
    _checks.choice("prune.method", config.prune.method, METHODS)
    _check_keys(config.prune)
    if config.prune.method in BACKPROPAGATED and job.passes is not None:
        raise ValueError(
            f"prune.method={config.prune.method} scores weights by backpropagation: it needs "
            f"gradient.name=backprop, got {config.gradient.name!r} (zo_grasp scores without)"
        )
    rewind = round(config.prune.rewind_epochs * job.epoch)
    if not 0 <= rewind < job.steps:
        raise ValueError(
            f"prune.rewind_epochs must be in [0, {config.epochs:g}), "
            f"got {config.prune.rewind_epochs:g}"
        )
    return rewind


def _check_keys(prune: ConfigDict) -> None:
    """Raises ``ValueError`` on a key out of its range, whether the method reads it or not."""
    for key in ("rewind_epochs", "mask_learning_rate", "inverse_gamma", "hydra_learning_rate"):
        _checks.number(f"prune.{key}", prune[key], 0)
    for key, least in (("rank", 1), ("rounds", 1), ("min_keep", 0), ("calibration", 1)):
        _checks.count(f"prune.{key}", prune.get(key, least), least)
    _checks.number("prune.every_epochs", prune.get("every_epochs", 1.0), 0, open_low=True)
    initial = prune.get("initial_density", 1.0)
    _checks.number("prune.initial_density", initial, 0, 1, open_low=True)
    for density in prune.through or ():
        _checks.number("prune.through", density, 0, 1, open_low=True)
    for key in ("second_order", "split_by_seed"):
        _checks.flag(f"prune.{key}", prune[key])
    if prune.authors is not None and not isinstance(prune.authors, bool):
        _checks.choice("prune.authors", prune.authors, ["unaliased", "implicit"], "a bool")
    try:
        bilevel.masks.Cut(structure=prune.structure)
    except (ValueError, TypeError) as error:
        raise ValueError(f"prune.structure={prune.structure!r}: {error}") from error
    if structure_of(prune) != prune.structure:
        raise ValueError(f"prune.method={prune.method} has no prune.structure={prune.structure}")


def plan(job: Job, config: ConfigDict, dataset: data.Dataset) -> tuple[Any, list[Stage]]:
    """Returns the first state and the stages of ``config.prune.method``."""
    prune, method = config.prune, config.prune.method
    rewind = check(job, config)
    to_init, to_masks, to_fresh = jax.random.split(jax.random.key(config.seed), 3)
    params, stats = job.model.init(to_init)
    solver = job.solver
    start = Start(job, config, dataset, params, stats, rewind, to_masks, to_fresh)
    try:  # Before anything runs.
        bilevel.masks.drop_counts(start.prunable, prune.density)
    except ValueError as error:
        raise ValueError(f"prune.{error}") from error
    if method in AT_INIT:
        masks = AT_INIT[method](start)
        state = solver.init(job.problem, masks, params, stats=stats)
        key = f"{method} {prune.density}"
        return state, [Stage(key, _same, solver, start.batches("data"), 0, job.steps)]
    own = start.batches("data")
    dense = [
        Stage("early", _same, solver, own, 0, rewind, method=False),
        Stage("dense", bilevel.set_anchor, solver, own, rewind, job.steps, method=False),
    ]
    if method in sparse_methods.METHODS:
        sparse_methods.check(prune)
        return sparse_methods.METHODS[method](start, dense)
    return solver.init(job.problem, None, params, stats=stats), dense + AFTER_TRAINING[method](
        start
    )


def _same(state: Any) -> Any:
    return state


class Rounds(NamedTuple):
    """How an iterative magnitude method goes from one round to the next.

    Attributes:
      style: Of :func:`bilevel.next_round`.
      rate: Factor on the learning rate of the rounds.
      last: Style of the last round, where that is another.
      once: Whether all is cut in one round.
    """

    style: str = "rewind"
    rate: float = 1.0
    last: str | None = None
    once: bool = False


def _rounds(start: Start, rounds: Rounds) -> list[Stage]:
    prune, T = start.prune, start.job.steps
    densities = [prune.density] if rounds.once else path(prune.density, prune.through)
    styles = [rounds.style] * len(densities)
    styles[-1] = rounds.last or rounds.style
    stages = []
    for i, (density, style) in enumerate(zip(densities, styles, strict=True)):
        enter = functools.partial(
            bilevel.next_round,
            drop=_drop(start.prunable, density, prune.allocator, start.dataset.num_classes),
            style=style,
            rate=rounds.rate,
            fresh=start.job.model.init(start.to_fresh)[0] if style == "reinit" else None,
        )
        # Each round goes on in the order of the data where the one before stopped.
        batches = start.batches("data", (i + 1) * (T - start.rewind))
        key = f"{style} {rounds.rate} {prune.allocator} {density}"
        stages.append(Stage(key, enter, start.job.solver, batches, start.rewind, T))
    return stages


def _bip(start: Start) -> list[Stage]:
    job, prune = start.job, start.prune
    solver = _bip_solver(start.options(*_OF_BIP), job)
    # Two orders of the same training set, as in the authors' program.
    up, low = start.batches("bip_upper"), start.batches("bip_lower")

    def enter(s):
        return solver.init(job.problem, None, s.y, stats=s.stats, density=prune.density)

    def pairs(step):
        return zip(up(step), low(step), strict=True)

    return [
        Stage(
            start.setting,
            enter,
            solver,
            pairs,
            0,
            job.steps,
        )
    ]


_OF_BIP = ("mask_learning_rate", "inverse_gamma", "second_order", "authors", "structure")


@config_files.cached(maxsize=64)
def _bip_solver(prune, job):
    rate = mask_rate(prune.mask_learning_rate, job.steps)
    return bilevel.bip(
        job.optimizer(1),
        optax.sgd(rate, momentum=0.9),
        1.0,  # The density of a run is in its state.
        curvature=1 / prune.inverse_gamma if prune.inverse_gamma else float("inf"),
        second_order=prune.second_order,
        authors=prune.authors or False,
        structure=prune.structure,
    )


def structure_of(prune: ConfigDict) -> str:
    """Returns the structure of the masks that a method leaves."""
    if prune.method == "bip":
        return prune.structure
    takes = ":" in prune.structure and prune.method in (
        *sparse_methods.NM, *sparse_methods.CALIBRATED
    )  # fmt: skip
    return prune.structure if takes else "weight"


def mask_rate(peak: float, steps: int) -> optax.Schedule:
    """The authors' learning rate of the scores: a tenth from half of the steps, then another."""
    return optax.piecewise_constant_schedule(peak, {steps // 2: 0.1, steps * 3 // 4: 0.1})


def _gmp(start: Start) -> list[Stage]:
    """Gradual magnitude pruning; with the method granet its masks regrow at each cut."""
    job, steps = start.job, GMP_LENGTH * start.job.steps
    solver = _gmp_solver(start.options("method", "density"), job)

    def enter(s):
        return solver.init(job.problem, None, s.y, stats=s.stats)

    return [Stage(start.setting, enter, solver, start.batches("data", job.steps), 0, steps)]


@config_files.cached(maxsize=64)
def _gmp_solver(prune, job):
    every = max(job.epoch // 2, 1)
    updates = max(GMP_LENGTH * job.steps * 3 // 4 // every, 1)
    ramp = bilevel.Gradual(prune.density, 0, updates, every)
    exchange = bilevel.Exchange(every, updates * every) if prune.method == "granet" else None
    return bilevel.sparse_training(job.optimizer(GMP_LENGTH), gradual=ramp, exchange=exchange)


def _hydra(start: Start) -> list[Stage]:
    job, T = start.job, start.job.steps
    solver = _hydra_solver(start.options("hydra_learning_rate", "density"), job)

    def enter(s):
        return solver.init(job.problem, None, s.y, stats=s.stats)

    def tune(s):
        return job.solver.init(job.problem, s.masks, s.y, stats=s.stats)

    return [
        Stage(start.setting, enter, solver, start.batches("data", T), 0, T),
        Stage("tune", tune, start.job.solver, start.batches("data", 2 * T), 0, T),
    ]


@config_files.cached(maxsize=64)
def _hydra_solver(prune, job):
    schedule = optax.cosine_decay_schedule(prune.hydra_learning_rate, job.steps)
    return bilevel.hydra(optax.sgd(schedule, momentum=0.9), prune.density)


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


def _random(start: Start) -> Any:
    scores = bilevel.criteria.random(start.to_masks, start.params)
    if start.prune.allocator == "erk":
        densities = bilevel.allocate.erk(start.prunable, start.prune.density)
        return bilevel.masks.from_scores(scores, densities, scope="layer")
    return bilevel.masks.from_scores(scores, start.prune.density)


def _scoring_batch(start: Start) -> Any:
    index = next(start.batches("scoring")(0))
    return start.job.examples(start.dataset.train, np.sort(index), start.to_masks)


def _scoring_loss(start: Start, temperature: float) -> Callable[[Any, Any], Any]:
    def loss(params, batch):
        logits, _ = start.job.model.apply(params, start.stats, batch["x"], train=True)
        return training.cross_entropy(logits / temperature, batch["label"])[0].mean()

    return loss


def _snip(start: Start) -> Any:
    loss = _scoring_loss(start, 1.0)
    scores = jax.jit(functools.partial(bilevel.criteria.snip, loss))
    scores = scores(start.params, _scoring_batch(start))
    return bilevel.masks.from_scores(scores, start.prune.density)


def _grasp(start: Start) -> Any:
    # Halves of a batch sorted by class, and a temperature of 200, as the authors have them.
    batch, loss = _scoring_batch(start), _scoring_loss(start, 200.0)
    order = np.argsort(np.asarray(batch["label"]), kind="stable")
    half = len(order) // 2
    halves = [jax.tree.map(lambda x, i=i: x[i], batch) for i in (order[:half], order[half:])]
    scores = jax.jit(functools.partial(bilevel.criteria.grasp, loss))(start.params, halves)
    return bilevel.masks.from_scores(scores, start.prune.density, absolute=False)


def _zo_grasp(start: Start) -> Any:
    # As DeepZero has it, 2 x 193 forward passes on one batch; the score is GraSP's, signed.
    batch, loss = _scoring_batch(start), _scoring_loss(start, 1.0)
    key = jax.random.fold_in(start.to_masks, 1)
    scores = jax.jit(lambda p, batch: bilevel.criteria.zo_grasp(lambda z: loss(z, batch), p, key))
    return bilevel.masks.from_scores(
        scores(start.params, batch), start.prune.density, absolute=False
    )


def _synflow(start: Start) -> Any:
    def forward(variables, x):
        return start.job.model.apply(variables["params"], variables["stats"], x, train=False)[0]

    variables = {"params": start.params, "stats": start.stats}
    ones = jax.numpy.ones((1, *start.dataset.input_shape))
    masks = bilevel.criteria.synflow_masks(forward, variables, ones, start.prune.density)
    return masks["params"]


# From what a method starts to the masks that it trains under from the first step.
AT_INIT: dict[str, Callable[[Start], Any]] = {
    "random": _random,
    "snip": _snip,
    "grasp": _grasp,
    "zo_grasp": _zo_grasp,
    "synflow": _synflow,
}


def _iterative(**rounds: Any) -> Callable[[Start], list[Stage]]:
    return functools.partial(_rounds, rounds=Rounds(**rounds))


# The stages of a method after dense training.
AFTER_TRAINING: dict[str, Callable[[Start], list[Stage]]] = {
    "dense": lambda start: [],
    "bip": _bip,
    "imp": _iterative(),
    "imp_rewind_lr2": _iterative(rate=2.0),
    "imp_finetune_lr2": _iterative(style="finetune", rate=2.0),
    # The control of the lottery tickets: their masks, on other initial weights.
    "imp_reinit": _iterative(last="reinit"),
    "omp": _iterative(once=True),
    "gmp": _gmp,
    "granet": _gmp,
    "hydra": _hydra,
}
METHODS = (*AFTER_TRAINING, *AT_INIT, *sparse_methods.METHODS)
BACKPROPAGATED = ("snip", "grasp", "synflow", "gblm")  # Whatever config.gradient says.
