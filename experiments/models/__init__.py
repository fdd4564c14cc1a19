"""Models by name, each a pair of pure functions, :class:`experiments.models.Model`."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx

from experiments.models.base import Model, count, from_linen, from_nnx
from experiments.models.cnn import CNN, LeNet5
from experiments.models.llama import LLaMA
from experiments.models.mlp import MLP, Logistic
from experiments.models.resnet import WideResNet, resnet18, resnet_cifar
from experiments.models.vgg import VGG16
from optim import _checks

__all__ = ["MODELS", "Model", "build", "count", "from_linen", "from_nnx"]

#: How each model is built, by name. Add your own here.
MODELS: dict[str, Callable[..., nnx.Module]] = {
    "cnn": CNN,
    "lenet5": LeNet5,
    "llama": LLaMA,
    "logistic": Logistic,
    "mlp": MLP,
    "resnet18": resnet18,
    "resnet20": resnet_cifar(20),
    "resnet56": resnet_cifar(56),
    "vgg16_bn": VGG16,
    "wrn16_8": WideResNet,
}


def build(name: str, *, input_shape: Sequence[int], num_classes: int, **options: Any) -> Model:
    """Returns the model of that name.

    Args:
      name: A key of :data:`MODELS`.
      input_shape: Shape of one example: ``(features,)``, ``(height, width, channels)``, or
        ``(length,)`` for text.
      num_classes: Number of logits; the vocabulary for text.
      **options: Arguments of the model's class, such as ``widths`` or ``dtype``.

    Returns:
      A :class:`Model`. Nothing is allocated before its ``init(key)``. Images may be uint8, 0 to
      255, which are taken as 0 to 1; ``data.prepare`` also applies a data set's mean and standard
      deviation.

    Raises:
      ValueError: Unknown name or option; the message lists the nearest.

    Example:
      >>> import jax
      >>> model = build("mlp", input_shape=(28, 28, 1), num_classes=10)
      >>> params, stats = jax.eval_shape(model.init, jax.random.key(0))
      >>> count(params)
      266610
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; {_checks.nearest(name, MODELS)}")
    make = MODELS[name]
    written = make.__init__ if isinstance(make, type) else make  # NNX hides that of a class.
    parameters = inspect.signature(written).parameters.values()
    taken = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "rngs"]
    for key in options:
        if key not in taken:
            raise ValueError(
                f"model {name!r} takes no model.options.{key}; it takes {', '.join(taken)} "
                "(--config.model.options={} drops those of the config)"
            )
    model = from_nnx(lambda rngs: make(tuple(input_shape), num_classes, rngs=rngs, **options))
    return _takes_pixels(model) if len(input_shape) == 3 else model


def _takes_pixels(model: Model) -> Model:
    """An image model that takes pixels of 0 to 255 as 0 to 1; other numbers as they are."""

    def apply(params, stats, x, **options):
        x = x / jnp.float32(255) if x.dtype == jnp.uint8 else x
        return model.apply(params, stats, x, **options)

    return Model(model.init, apply)
