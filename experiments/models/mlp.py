"""Fully connected networks: LeNet-300-100 and logistic regression."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from optim import _checks


class MLP(nnx.Module):
    """ReLU layers of the given ``widths``, then a linear one; ``widths=()`` is linear.

    Kernels are drawn by ``init`` of ``flax.nnx.initializers``, biases are zero. The defaults on
    784 inputs and 10 classes are LeNet-300-100: 266,610 parameters.

    References:
      LeCun et al., *Gradient-Based Learning Applied to Document Recognition*, 1998.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        widths: Sequence[int] = (300, 100),
        init: str = "he_normal",
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        for i, width in enumerate(widths):
            _checks.count(f"model.options.widths[{i}]", width)
        sizes = [math.prod(input_shape), *widths, num_classes]
        self.depth = len(sizes) - 1
        for i in range(self.depth):
            layer = nnx.Linear(
                sizes[i],
                sizes[i + 1],
                kernel_init=getattr(nnx.initializers, init)(),
                dtype=dtype,
                rngs=rngs,
            )
            setattr(self, f"layers_{i}", layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for i in range(self.depth):
            x = getattr(self, f"layers_{i}")(x)
            if i < self.depth - 1:
                x = jax.nn.relu(x)
        return x


class Logistic(nnx.Module):
    """Multinomial logistic regression, started at zero as convex problems are."""

    def __init__(
        self, input_shape: Sequence[int], num_classes: int, *, dtype: Any = None, rngs: nnx.Rngs
    ):
        self.linear = nnx.Linear(
            math.prod(input_shape),
            num_classes,
            kernel_init=nnx.initializers.zeros,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.linear(jnp.reshape(x, (x.shape[0], -1)))
