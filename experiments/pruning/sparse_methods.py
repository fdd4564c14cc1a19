"""Sparse training, sharing and calibrated pruning as stages of a run.

Each entry of ``METHODS`` takes a start and the stages of dense training, and returns the first
state and the stages. ``prune.length`` is how long what follows is trained, in times of the dense
training.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

import bilevel
from bilevel import calibrated
from bilevel.pruning import sap_masks
from experiments.common import config_files
from experiments.pruning.stages import Job, Stage, Start
from experiments.supervised import training
from optim import _checks

__all__ = ["CALIBRATED", "METHODS", "NM", "check"]

_Planned = tuple[Any, list[Stage]]


def _length(start: Start, default: int) -> int:
    length = start.prune.length
    if length is None:
        return default
    _checks.count("prune.length", length, 0)
    return length


def _once(
    start: Start, solver: bilevel.Solver, length: int, masks: Any = None, **options: Any
) -> _Planned:
    """One stage from the initial parameters."""
    _checks.count("prune.length", length)
    state = solver.init(start.job.problem, masks, start.params, stats=start.stats, **options)
    steps = length * start.job.steps
    return state, [Stage(start.setting, _same, solver, start.batches("data"), 0, steps)]


def _same(state: Any) -> Any:
    return state


def _dynamic(start: Start, dense: list[Stage]) -> _Planned:
    length = _length(start, 1)
    names = ("method", "density", "allocator", "initial_density", "every_epochs", "fraction")
    solver = _dynamic_solver(start.options(*names), start.job, max(length, 1))
    return _once(start, solver, length, key=start.to_masks)


@config_files.cached(maxsize=64)
def _dynamic_solver(prune, job, length):
    steps = length * job.steps
    _checks.choice("prune.allocator", prune.allocator, ["global", "erk", "uniform"])
    every = max(round(prune.every_epochs * job.epoch), 1)
    options: dict[str, Any] = {
        "every": min(every, steps),
        "steps": steps,
        "distribution": "uniform" if prune.allocator == "uniform" else "erk",
    }
    if prune.fraction is not None:
        options["fraction"] = prune.fraction
    if prune.method == "granet_sparse":
        options["initial"] = prune.initial_density
    return _DYNAMIC[prune.method](job.optimizer(length), prune.density, **options)


_DYNAMIC: dict[str, Callable[..., bilevel.Solver]] = {
    "rigl": bilevel.dynamic.rigl,
    "set": bilevel.dynamic.set_,
    # The method granet starts dense, from a trained model.
    "granet_sparse": bilevel.dynamic.granet,
    "itop": functools.partial(bilevel.dynamic_sparse, grow="unfired"),
    "momentum": functools.partial(bilevel.dynamic_sparse, grow="momentum"),
}


def _static(start: Start, dense: list[Stage]) -> _Planned:
    distribution = "uniform" if start.prune.allocator == "uniform" else "erk"
    masks = bilevel.dynamic.start_masks(
        start.to_masks, start.params, start.prune.density, distribution
    )
    length = _length(start, 1)
    return _once(start, _plain_solver(start.job, length), length, masks)


@functools.lru_cache(maxsize=64)
def _plain_solver(job: Job, length: int) -> bilevel.Solver:
    """Training under fixed masks; one program for all that train as long."""
    return job.solver if length <= 1 else bilevel.sparse_training(job.optimizer(length))


def _shared(start: Start, dense: list[Stage]) -> _Planned:
    """Training of a pool of as many numbers as a mask would keep."""
    job, prune, length = start.job, start.prune, _length(start, 1)
    _checks.count("prune.length", length)
    shared, expand, _ = bilevel.share(
        start.params, prune.density, start.to_masks, mapping=_SHARED[prune.method]
    )
    solver = bilevel.sharing.training(job.optimizer(length), expand)
    state = solver.init(job.problem, None, shared, stats=start.stats)
    batches, steps = start.batches("data"), length * job.steps
    stored = expand.compression
    stage = Stage(start.setting, _same, solver, batches, 0, steps, stored=stored)
    return state, [stage]


_SHARED = {"rps": "pareto", "roast": "roast", "hashednet": "hash"}


def _jackpot(start: Start, dense: list[Stage]) -> _Planned:
    """Scores of a trained model, whose weights stay."""
    job, length = start.job, _length(start, 1)
    _checks.count("prune.length", length)
    solver = _jackpot_solver(start.options("density", "hydra_learning_rate"), job, length)

    def enter(state):
        return solver.init(job.problem, None, state.y, stats=state.stats)

    batches = start.batches("data", job.steps)
    stage = Stage(start.setting, enter, solver, batches, 0, length * job.steps)
    return _trained(start), [*dense, stage]


@config_files.cached(maxsize=64)
def _jackpot_solver(prune, job, length):
    schedule = optax.cosine_decay_schedule(prune.hydra_learning_rate, length * job.steps)
    return bilevel.jackpot(optax.sgd(schedule, momentum=0.9), prune.density)


# Rules of bilevel.nm_training by the names of their methods.
NM = {"ste": "ste", "sr_ste": "sr_ste", "mdgf_linear": "linear",
       "mdgf_exponential": "exponential", "sdgf": "structure"}  # fmt: skip


def _nm(start: Start, dense: list[Stage]) -> _Planned:
    length = _length(start, 1)
    names = ("method", "structure", "length")
    return _once(start, _nm_solver(start.options(*names), start.job, max(length, 1)), length)


@config_files.cached(maxsize=64)
def _nm_solver(prune, job, length):
    steps = length * job.steps
    # Dense for the first tenth, the last masks for the last one, as in the recipes.
    tenth = steps // 10
    return bilevel.nm_training(
        job.optimizer(length),
        prune.structure,
        NM[prune.method],
        steps=steps,
        dense=tenth,
        finetune=tenth,
    )


def _retrained(start: Start, masks_of: Callable[[Any], Any], key: str, round_: int, length: int):
    """A stage that enters with the weights and masks of ``masks_of(state)``."""
    job, prune = start.job, start.prune
    _checks.choice("prune.retrain", prune.retrain, RETRAIN)
    few = prune.retrain != "all"
    solver: Any = _plain_solver(job, length)
    if few:
        solver = _few_solver(start.options("retrain", "rank"), job, max(length, 1))

    def enter(state):
        if few and round_:  # What the adapters add is in the weights of the next round.
            state = state._replace(y=solver.export(state)[0])
        params, masks = masks_of(state)
        return solver.init(job.problem, masks, params, stats=state.stats)

    steps = length * job.steps
    # Each round goes on in the order of the data where the one before stopped.
    batches = start.batches("data", job.steps + round_ * steps)
    return Stage(f"{key} {round_}", enter, solver, batches, 0, steps)


@config_files.cached(maxsize=64)
def _few_solver(prune, job, length):
    rank = prune.rank if prune.retrain == "lora" else 0
    _checks.count("prune.rank", prune.rank)
    return bilevel.retrain.training(job.optimizer(length), rank=rank)


def _trained(start: Start) -> Any:
    """The first state of dense training."""
    return start.job.solver.init(start.job.problem, None, start.params, stats=start.stats)


def _rounds(start: Start) -> int:
    _checks.count("prune.rounds", start.prune.rounds)
    return start.prune.rounds


def _magnitude(start: Start, dense: list[Stage]) -> _Planned:
    """Cuts a trained model in one round or more, each followed by training."""
    rounds, length, prune = _rounds(start), _length(start, 1), start.prune
    densities = bilevel.density.exponential(prune.density, rounds)

    def masks_at(state, density):
        chosen = bilevel.masks.prunable(state.y)
        alive = bilevel.masks.apply(state.masks, chosen)
        masks = _magnitude_masks(alive, density, prune, start.dataset.num_classes)
        return state.y, jax.tree.map(lambda a, b: a & b, masks, state.masks)

    stages = [
        _retrained(start, functools.partial(masks_at, density=d), start.setting, i, length)
        for i, d in enumerate(densities)
    ]
    return _trained(start), dense + stages


def _magnitude_masks(chosen: Any, density: float, prune: Any, classes: int) -> Any:
    if prune.method == "lamp":
        return bilevel.masks.from_scores(bilevel.allocate.lamp(chosen), density)
    if prune.method == "uniform_plus":
        flat = jax.tree_util.tree_flatten_with_path(chosen)[0]
        # Only a convolution stays dense: the first layer of an MLP holds most of its weights.
        first = [path for path, x in flat if np.ndim(x) > 2][:1]
        last = [path for path, x in flat if x.shape[-1] == classes]
        densities = bilevel.allocate.uniform_plus(
            chosen, density, dense=_one_of(first), last=_one_of(last)
        )
        return bilevel.masks.from_scores(chosen, densities, scope="layer")
    return bilevel.pruning.global_masks(chosen, density, prune.min_keep)


def _one_of(paths: list[Any]) -> str | None:
    """A pattern of these paths; None for none."""
    names = [re.escape(bilevel.masks.path_name(path)) for path in paths]
    return f"^({'|'.join(names)})$" if names else None


def _sap(start: Start, dense: list[Stage]) -> _Planned:
    """Rounds of rewinding and training, each pruned by the PQ index of the one before."""
    job, prune = start.job, start.prune
    scope = "global" if prune.allocator == "lottery" else prune.allocator
    _checks.choice("prune.allocator", scope, ["global", "layer", "neuron"])

    def enter(state):
        new = sap_masks(state.masks, state.y, scope=scope)
        total = sum(m.size for m in jax.tree.leaves(new))
        drop = np.int32(total - int(bilevel.masks.count(state.masks)))
        state = bilevel.next_round(state, drop)  # Goes back to the anchor; drops none.
        opt = state.opt._replace(masks=new)
        return state._replace(y=bilevel.masks.apply(new, state.y), opt=opt)

    stages = []
    span = job.steps - start.rewind
    for i in range(_rounds(start)):
        batches = start.batches("data", (i + 1) * span)
        key = f"sap {scope} {prune.rewind_epochs} {i}"
        stages.append(Stage(key, enter, job.solver, batches, start.rewind, job.steps))
    return _trained(start), dense + stages


def _examples(start: Start) -> tuple[Any, Callable[[Any, Any, Any], Any]]:
    """Some examples of the training set, and ``logits(params, stats, batch)``."""
    job, prune = start.job, start.prune
    _checks.count("prune.calibration", prune.calibration)
    size = len(jax.tree.leaves(start.dataset.train)[0])
    index = np.random.default_rng(start.config.seed).permutation(size)
    index = np.sort(index[: min(prune.calibration, size)])

    def logits(params, stats, batch):
        return job.model.apply(params, stats, batch["x"], train=False)[0]

    return lambda: job.examples(start.dataset.train, index, start.to_masks), logits


def _calibrated(start: Start, dense: list[Stage]) -> _Planned:
    """A trained model, pruned from some examples of its training set."""
    prune, (examples, logits) = start.prune, _examples(start)
    nm = ":" in prune.structure

    def cut(state):
        def forward(params, batch):
            return logits(params, state.stats, batch)

        def loss(params, batch):
            return training.cross_entropy(forward(params, batch), batch["label"])[0].mean()

        return calibrated.prune(
            forward,
            state.y,
            [examples()],
            None if nm else prune.density,
            prune.method,
            structure=prune.structure if nm else None,
            loss=loss if prune.method == "gblm" else None,
        )

    return _trained(start), [*dense, _retrained(start, cut, start.setting, 0, _length(start, 0))]


def _searched(start: Start, dense: list[Stage]) -> _Planned:
    """Magnitudes of a trained model, cut in each layer to a level that is searched."""
    prune, (examples, logits) = start.prune, _examples(start)
    chosen = start.prunable
    sizes = [int(w.size) for w in jax.tree.leaves(chosen)]

    def cut(state):
        batch, weights = examples(), bilevel.masks.prunable(state.y)
        treedef = jax.tree.structure(weights)

        def masks_of(drops):
            drops = jax.tree.unflatten(treedef, list(np.asarray(drops, np.int32)))
            return bilevel.masks.from_counts(weights, drops, scope="layer")

        @jax.jit
        def output(masks):
            return logits(bilevel.masks.apply(masks, state.y), state.stats, batch)

        def outputs(drops):
            return np.asarray(output(masks_of(drops)))

        drops = _SEARCHES[prune.method](
            outputs, batch["label"], weights, sizes, prune.density, start.config.seed
        )
        return state.y, masks_of(drops)

    return _trained(start), [*dense, _retrained(start, cut, start.setting, 0, _length(start, 0))]


def _rate_distortion(outputs, labels, weights, sizes, density, seed) -> list[int]:
    """Levels by how far each layer, pruned alone, moves the outputs."""
    levels = sorted({*np.linspace(0, 0.95, 20).round(2), 0.98, 0.99, round(1 - density, 6)})
    dense = outputs([0] * len(sizes))
    drops = [[int(phi * n + 1e-9) for phi in levels] for n in sizes]

    def alone(i, drop):
        moved = outputs([drop if j == i else 0 for j in range(len(sizes))]) - dense
        return float(np.square(moved).mean())

    costs = [np.array([alone(i, drop) for drop in row]) for i, row in enumerate(drops)]
    costs = jax.tree.unflatten(jax.tree.structure(weights), costs)
    found = bilevel.allocate.rate_distortion(weights, levels, costs, density)
    return [row[i] for row, i in zip(drops, jax.tree.leaves(found), strict=True)]


def _evopress(outputs, labels, weights, sizes, density, seed) -> list[int]:
    """Levels of equally many weights that move between layers, from the same density in each."""

    def loss(drops):
        return float(training.cross_entropy(outputs(drops), labels)[0].mean())

    start = jax.tree.leaves(bilevel.masks.drop_counts(weights, density, scope="layer"))
    step = max(min(sizes) // 20, 1)
    lowest = [-(drop // step) for drop in start]
    highest = [(n - drop - 1) // step for n, drop in zip(sizes, start, strict=True)]
    moves = min(sum(highest), -sum(lowest))
    if not moves or len(sizes) < 2:
        raise ValueError(f"evopress has no weights to move at prune.density={density:g}")
    found, _ = bilevel.allocate.evolve(
        lambda levels, _: loss(np.array(start) + step * levels),
        len(sizes),
        lowest=lowest,
        highest=highest,
        generations=20,
        offspring=8 if len(sizes) > 2 and moves > 3 else 2,
        survivors=(2, 1),
        seed=seed,
    )
    return list(np.array(start) + step * found)


_SEARCHES = {"rd_dp": _rate_distortion, "evopress": _evopress}
CALIBRATED = ("wanda", "gblm", "sparsegpt", "dsnot", "flap")
RETRAIN = ("all", "bias", "lora")
METHODS: dict[str, Callable[[Start, list[Stage]], _Planned]] = {
    "static": _static,
    **dict.fromkeys(_DYNAMIC, _dynamic),
    **dict.fromkeys(_SHARED, _shared),
    "jackpot": _jackpot,
    **dict.fromkeys(NM, _nm),
    **dict.fromkeys(("global", "lamp", "uniform_plus"), _magnitude),
    "sap": _sap,
    **dict.fromkeys(CALIBRATED, _calibrated),
    **dict.fromkeys(_SEARCHES, _searched),
}


def check(prune: Any) -> None:
    """Raises unless the config has the keys that the methods here read."""
    if "length" not in prune or "retrain" not in prune:
        raise ValueError(
            f"prune.method {prune.method} needs the keys of configs.pruning.common.sparse(), as in "
            "configs/pruning/sparse_digits.py"
        )
