"""Small convolutional networks: LeNet-5 and one that fits any image size."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models.conv import conv

HE = nnx.initializers.he_normal()


def max_pool(x: jax.Array) -> jax.Array:
    """Maxima of 2x2 squares; an odd last row or column is dropped.

    On a CPU its gradient takes a twentieth of the time of ``nnx.max_pool``'s. Equal maxima share
    the gradient.
    """
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    x = jnp.maximum(x[:, 0:h:2], x[:, 1:h:2])
    return jnp.maximum(x[:, :, 0:w:2], x[:, :, 1:w:2])


class CNN(nnx.Module):
    """Blocks of a 3x3 convolution, 2x2 max pooling and ReLU, then one hidden dense layer.

    Kernels are He-normal, biases zero.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        widths: Sequence[int] = (32, 64),
        hidden: int = 128,
        dropout: float = 0.0,
        impl: str = "lax",
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        h, w, c = input_shape
        self.depth = len(widths)
        for i, width in enumerate(widths):
            layer = conv(
                c, width, 3, use_bias=True, impl=impl, kernel_init=HE, dtype=dtype, rngs=rngs
            )
            setattr(self, f"conv_{i}", layer)
            h, w, c = h // 2, w // 2, width
        self.hidden = nnx.Linear(h * w * c, hidden, kernel_init=HE, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs) if dropout else None
        self.classifier = nnx.Linear(hidden, num_classes, kernel_init=HE, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.depth):
            x = jax.nn.relu(max_pool(getattr(self, f"conv_{i}")(x)))
        x = jax.nn.relu(self.hidden(x.reshape(x.shape[0], -1)))
        if self.dropout is not None:
            x = self.dropout(x)
        return self.classifier(x)


class LeNet5(nnx.Module):
    """LeNet-5 in the form of Caffe, which the pruning literature uses: 431,080 parameters.

    Two 5x5 convolutions without padding (20 and 50 channels), each max-pooled; 500 hidden units,
    ReLU on those alone. Kernels are He-normal, biases zero.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        impl: str = "lax",
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        h, w, c = input_shape
        if min(h, w) < 16:
            raise ValueError(f"lenet5 needs images of at least 16 x 16 pixels, got {h} x {w}")
        options = {"kernel_init": HE, "dtype": dtype, "rngs": rngs}
        conv_options = {"padding": "VALID", "use_bias": True, "impl": impl, **options}
        self.conv_0 = conv(c, 20, 5, **conv_options)
        self.conv_1 = conv(20, 50, 5, **conv_options)
        h, w = ((h - 4) // 2 - 4) // 2, ((w - 4) // 2 - 4) // 2
        self.hidden = nnx.Linear(h * w * 50, 500, **options)
        self.classifier = nnx.Linear(500, num_classes, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = max_pool(self.conv_0(x))
        x = max_pool(self.conv_1(x))
        return self.classifier(jax.nn.relu(self.hidden(x.reshape(x.shape[0], -1))))
