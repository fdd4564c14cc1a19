"""A training step of each model at the size people use, for whom it is timed or compiled."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optim
from experiments import models
from experiments.supervised import training

__all__ = ["MODELS", "Program", "Run", "program", "random_batch", "runner"]

# Name: (model, shape of an example, classes, options).
MODELS: dict[str, tuple[str, tuple[int, ...], int, dict[str, Any]]] = {
    "MLP": ("mlp", (28, 28, 1), 10, {}),
    "LeNet-5": ("lenet5", (28, 28, 1), 10, {}),
    "CNN": ("cnn", (28, 28, 1), 10, {}),
    "ResNet-20": ("resnet20", (32, 32, 3), 10, {}),
    "VGG-16": ("vgg16_bn", (32, 32, 3), 10, {}),
    "character transformer": ("llama", (64,), 65, {"size": "char"}),
    "LLaMA 60M": ("llama", (256,), 32_000, {"size": "60M"}),
}


class Program(NamedTuple):
    """A training step with AdamW, and how to begin.

    Attributes:
      step: ``step(state, batch) -> (state, metrics)``.
      init: The state of a key; compiled by whom it is called.
      batch: Shapes of a batch.
    """

    step: Callable[..., Any]
    init: Callable[[jax.Array], training.TrainState]
    batch: dict[str, jax.ShapeDtypeStruct]


class Run:
    """A compiled step and its state: each call makes one step and returns the loss."""

    def __init__(self, compiled: jax.stages.Compiled, state: Any, batch: Any):
        self.compiled, self.state, self.batch = compiled, state, batch

    def __call__(self) -> jax.Array:
        self.state, metrics = self.compiled(self.state, self.batch)
        return metrics["loss"]


def program(name: str, examples: int, tx: Any = None, **options: Any) -> Program:
    """Returns the step of a model; ``options`` go to the model, such as ``dtype="bfloat16"``."""
    kind, shape, classes, own = MODELS[name]
    model = models.build(kind, input_shape=shape, num_classes=classes, **{**own, **options})
    tx = optax.adamw(1e-3, weight_decay=0.1) if tx is None else tx
    optimizer = training.optimizers.Optimizer(
        lambda params, rate, decay: tx.init(params),
        lambda grads, state, params, value, **extra: tx.update(grads, state, params),
        lambda state, step: jnp.float32(1e-3),
    )

    def init(key: jax.Array) -> training.TrainState:
        params, stats = model.init(key)
        return training.TrainState(jnp.int32(0), params, stats, tx.init(params))

    text = kind == "llama"
    batch = {
        "x": jax.ShapeDtypeStruct((examples, *shape), jnp.int32 if text else jnp.float32),
        "label": jax.ShapeDtypeStruct((examples, *(shape if text else ())), jnp.int32),
    }
    return Program(training.make_step(model, optimizer), init, batch)


def random_batch(name: str, examples: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns a batch of noise, the same for each framework."""
    kind, shape, classes, _ = MODELS[name]
    random = np.random.default_rng(seed)
    if kind == "llama":
        window = random.integers(0, classes, (examples, shape[0] + 1), np.int32)
        return {"x": window[:, :-1], "label": window[:, 1:]}
    labels = random.integers(0, classes, examples, np.int32)
    return {"x": random.standard_normal((examples, *shape), np.float32), "label": labels}


def runner(
    name: str, examples: int, seeds: int = 1, convolutions: str = "default", **options: Any
) -> Run:
    """Returns what makes one donated step of ``seeds`` runs at once, compiled as the loop does."""
    made = program(name, examples, **options)
    step, init, keys = made.step, made.init, jax.random.split(jax.random.key(0), seeds)
    if seeds > 1:
        step, init = jax.vmap(step, (0, None)), jax.vmap(init)
    state = jax.jit(init)(keys if seeds > 1 else keys[0])
    batch = jax.device_put(random_batch(name, examples))
    how = optim.loop.compiler_options(convolutions)
    return Run(jax.jit(step, donate_argnums=0).lower(state, batch).compile(how), state, batch)
