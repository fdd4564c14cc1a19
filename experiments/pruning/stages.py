"""What a pruning method is made of: stages, what runs share, what the stages start from."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from ml_collections import ConfigDict

import bilevel
from experiments import data, models

__all__ = ["STREAMS", "Job", "Stage", "Start"]

# Independent orders of the training set: what is added to the seed of a run.
STREAMS = {"data": 0, "bip_lower": 10**6, "bip_upper": 2 * 10**6, "scoring": 10**6}


class Stage(NamedTuple):
    """A part of a run.

    Attributes:
      key: Stages with equal keys, after equal stages, have equal results.
      enter: Makes the first state from the last one of the stage before.
      solver: What makes its steps and exports its state.
      batches: As ``optim.loop.run`` takes them.
      start: Step it starts from.
      steps: Step it ends with.
      method: False for dense training, which all methods share.
      stored: Share of the prunable weights that is stored, where masks do not say it.
    """

    key: str
    enter: Callable[[Any], Any]
    solver: Any
    batches: Callable[[int], Any]
    start: int
    steps: int
    method: bool = True
    stored: float | None = None


class Job(NamedTuple):
    """What runs on one kind of data, model and optimizer share: compiled once for all seeds.

    Attributes:
      model: The model.
      problem: The loss as a problem of the solvers.
      optimizer: ``optimizer(factor)`` for training ``factor`` times as long.
      prepare: Makes the batch of a step from the data.
      prepare_pair: Makes a pair of batches.
      examples: Makes a batch for scores and calibration: examples alone, where ``prepare`` adds a
        key to estimate gradients by.
      passes: Forward passes of an estimate of the gradient; ``None`` with backpropagation.
      epoch: Steps of an epoch.
      steps: Steps of dense training.
      solver: Plain training under masks.
    """

    model: models.Model
    problem: bilevel.Problem
    optimizer: Callable[[int], optax.GradientTransformation]
    prepare: Callable[..., Any]
    prepare_pair: Callable[..., Any]
    examples: Callable[..., Any]
    passes: int | None
    epoch: int
    steps: int
    solver: bilevel.Solver


class Start(NamedTuple):
    """What the stages of a method are made from.

    Attributes:
      job: What runs share.
      config: The config.
      dataset: The data.
      params: Initial parameters.
      stats: Initial statistics of the model.
      rewind: The step that rounds go back to.
      to_masks: Key of random scores and of what the scoring batch draws.
      to_fresh: Key of other initial parameters.
    """

    job: Job
    config: ConfigDict
    dataset: data.Dataset
    params: Any
    stats: Any
    rewind: int
    to_masks: jax.Array
    to_fresh: jax.Array

    @property
    def prune(self) -> ConfigDict:
        """The method's part of the config."""
        return self.config.prune

    @property
    def setting(self) -> str:
        """The method's part of the config as text, for keys."""
        return f"{self.prune.method} {self.prune.to_json_best_effort(sort_keys=True)}"

    @property
    def prunable(self) -> Any:
        """The leaves that are pruned."""
        return bilevel.masks.prunable(self.params)

    def options(self, *names: str) -> ConfigDict:
        """Returns what a solver depends on, so that runs with equal options share it."""
        return ConfigDict({name: self.prune[name] for name in names})

    def batches(self, stream: str, offset: int = 0) -> Callable[[int], Any]:
        """Returns the batches of a stream, from its step ``offset`` on."""
        seed = self.config.seed + STREAMS[stream]
        feed = data.train_batches(self.dataset, self.config.batch_size, seed)
        return lambda start: feed(start + offset)
