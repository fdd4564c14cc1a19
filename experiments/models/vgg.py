"""VGG-16 with BatchNorm for 32x32 images."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models.cnn import max_pool
from experiments.models.conv import classifier, conv
from experiments.models.resnet import batch_norm

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nnx.Module):
    """Thirteen 3x3 convolutions with biases and BatchNorm, and one linear layer.

    14,728,266 parameters on CIFAR-10. Convolutions are He-normal over the outputs.

    References:
      Simonyan and Zisserman, *Very Deep Convolutional Networks*, 2015.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        axis_name: str | None = None,
        impl: str = "lax",
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        if min(input_shape[:2]) < 32:
            raise ValueError(f"vgg16_bn needs at least 32 x 32 pixels, got {tuple(input_shape)}")
        c_in = input_shape[-1]
        for i, stage in enumerate(STAGES):
            for j, c in enumerate(stage):
                layer = conv(c_in, c, 3, use_bias=True, impl=impl, dtype=dtype, rngs=rngs)
                setattr(self, f"conv_{i}_{j}", layer)
                norm = batch_norm(c, axis_name=axis_name, dtype=dtype, rngs=rngs)
                setattr(self, f"norm_{i}_{j}", norm)
                c_in = c
        self.classifier = classifier(c_in, num_classes, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for i, stage in enumerate(STAGES):
            for j in range(len(stage)):
                x = getattr(self, f"norm_{i}_{j}")(getattr(self, f"conv_{i}_{j}")(x))
                x = jax.nn.relu(x)
            x = max_pool(x)
        return self.classifier(jnp.mean(x, axis=(1, 2)))
