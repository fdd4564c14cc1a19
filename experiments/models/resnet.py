"""Residual networks for 32x32 images: ResNet-20/56, ResNet-18, WRN-16-8."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models.conv import classifier, conv


def batch_norm(features: int, *, axis_name: str | None, dtype: Any, rngs: nnx.Rngs):
    """BatchNorm with PyTorch's momentum and epsilon.

    Under ``jax.jit`` its statistics are those of the global batch, however it is sharded. Under
    ``jax.pmap`` or ``jax.shard_map`` they are each device's own, unless ``axis_name`` names the
    mapped axis: then they are averaged over it in training, and equal on all devices.
    """
    return nnx.BatchNorm(
        features, momentum=0.9, epsilon=1e-5, axis_name=axis_name, dtype=dtype, rngs=rngs
    )


def pad_shortcut(x: jax.Array, strides: int, new: int) -> jax.Array:
    """Takes every ``strides``-th pixel and adds ``new`` channels of zeros, half on each side."""
    x = x[:, ::strides, ::strides]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))


class Block(nnx.Module):
    """Two 3x3 convolutions with BatchNorm, and a shortcut.

    Where the shape changes, the shortcut is ``"pad"`` (option A: every other pixel, zeros for the
    new channels, no parameters) or ``"conv"`` (option B: strided 1x1 convolution, BatchNorm).
    """

    def __init__(self, c_in: int, c: int, strides: int, shortcut: str, **options: Any):
        norm = {k: options[k] for k in ("axis_name", "dtype", "rngs")}
        layer = {k: options[k] for k in ("impl", "dtype", "rngs")}
        self.conv_0 = conv(c_in, c, 3, strides=strides, padding=1, **layer)
        self.norm_0 = batch_norm(c, **norm)
        self.conv_1 = conv(c, c, 3, padding=1, **layer)
        self.norm_1 = batch_norm(c, **norm)
        self.strides, self.new = strides, c - c_in
        self.project = shortcut == "conv" and (strides > 1 or c != c_in)
        if self.project:
            self.shortcut_conv = conv(c_in, c, 1, strides=strides, padding=0, **layer)
            self.shortcut_norm = batch_norm(c, **norm)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.norm_0(self.conv_0(x)))
        y = self.norm_1(self.conv_1(y))
        if self.project:
            x = self.shortcut_norm(self.shortcut_conv(x))
        else:
            x = pad_shortcut(x, self.strides, self.new)
        return jax.nn.relu(x + y)


class ResNet(nnx.Module):
    """A 3x3 stem, stages of :class:`Block` that halve the image, mean pooling, a linear head.

    Convolutions are He-normal over the outputs, the head as in :func:`classifier`.

    Args:
      input_shape: ``(height, width, channels)``.
      num_classes: Number of logits.
      blocks: Blocks a stage. Stage widths are in ``widths``.
      widths: Channels of each stage.
      shortcut: ``"pad"`` or ``"conv"``, see :class:`Block`.
      axis_name: Mapped axis over which BatchNorm averages, see :func:`batch_norm`.
      impl: Of the convolutions, see :func:`conv`.
      dtype: Of the computation; parameters and statistics stay float32.
      rngs: Streams of the initializers.

    References:
      He et al., *Deep Residual Learning for Image Recognition*, 2016.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        blocks: Sequence[int],
        widths: Sequence[int],
        shortcut: str,
        axis_name: str | None = None,
        impl: str = "lax",
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        c_in = widths[0]
        self.conv = conv(input_shape[-1], c_in, 3, padding=1, impl=impl, dtype=dtype, rngs=rngs)
        self.norm = batch_norm(c_in, axis_name=axis_name, dtype=dtype, rngs=rngs)
        self.names = []
        options = {"axis_name": axis_name, "impl": impl, "dtype": dtype, "rngs": rngs}
        for i, (depth, c) in enumerate(zip(blocks, widths, strict=True)):
            for j in range(depth):
                strides = 2 if i > 0 and j == 0 else 1
                self.names.append(f"block_{i}_{j}")
                setattr(self, self.names[-1], Block(c_in, c, strides, shortcut, **options))
                c_in = c
        self.classifier = classifier(c_in, num_classes, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.norm(self.conv(x)))
        for name in self.names:
            x = getattr(self, name)(x)
        return self.classifier(jnp.mean(x, axis=(1, 2)))


def resnet_cifar(depth: int):
    """Returns the maker of the CIFAR ResNet of ``depth`` 6n + 2, with option-A shortcuts.

    ResNet-20 has 269,722 parameters (268,336 of them weights), ResNet-56 853,018 (848,944).
    """
    n = (depth - 2) // 6
    return _stages(blocks=(n, n, n), widths=(16, 32, 64), shortcut="pad")


def _stages(**stages):
    def make(input_shape, num_classes, *, axis_name=None, impl="lax", dtype=None, rngs):
        more = {"axis_name": axis_name, "impl": impl, "dtype": dtype, "rngs": rngs}
        return ResNet(input_shape, num_classes, **stages, **more)

    return make


# A 3x3 stem: 11,173,962 parameters (11,164,352 of them weights).
resnet18 = _stages(blocks=(2, 2, 2, 2), widths=(64, 128, 256, 512), shortcut="conv")


class PreActivationBlock(nnx.Module):
    """BatchNorm and ReLU before each 3x3 convolution; a 1x1 convolution where the shape changes."""

    def __init__(self, c_in: int, c: int, strides: int, dropout: float, **options: Any):
        norm = {k: options[k] for k in ("axis_name", "dtype", "rngs")}
        layer = {k: options[k] for k in ("impl", "dtype", "rngs")}
        self.norm_0 = batch_norm(c_in, **norm)
        self.conv_0 = conv(c_in, c, 3, strides=strides, padding=1, **layer)
        self.norm_1 = batch_norm(c, **norm)
        self.dropout = nnx.Dropout(dropout, rngs=options["rngs"]) if dropout else None
        self.conv_1 = conv(c, c, 3, padding=1, **layer)
        self.project = strides > 1 or c != c_in
        if self.project:
            self.shortcut = conv(c_in, c, 1, strides=strides, padding=0, **layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.norm_0(x))
        if self.project:
            x = self.shortcut(y)
        y = jax.nn.relu(self.norm_1(self.conv_0(y)))
        if self.dropout is not None:
            y = self.dropout(y)
        return x + self.conv_1(y)


class WideResNet(nnx.Module):
    """WRN-``depth``-``width``: pre-activation blocks, channels ``width`` times those of ResNet-20.

    WRN-16-8 has 10,961,370 parameters on CIFAR-10, WRN-28-10 has 36,479,194.

    References:
      Zagoruyko and Komodakis, *Wide Residual Networks*, 2016.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        depth: int = 16,
        width: int = 8,
        dropout: float = 0.0,
        axis_name: str | None = None,
        impl: str = "lax",
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6n + 4 with n >= 1, got {depth}")
        options = {"axis_name": axis_name, "impl": impl, "dtype": dtype, "rngs": rngs}
        self.conv = conv(input_shape[-1], 16, 3, padding=1, impl=impl, dtype=dtype, rngs=rngs)
        self.names = []
        c_in = 16
        for i in range(3):
            for j in range((depth - 4) // 6):
                c, strides = 16 * width * 2**i, 2 if i > 0 and j == 0 else 1
                self.names.append(f"block_{i}_{j}")
                block = PreActivationBlock(c_in, c, strides, dropout, **options)
                setattr(self, self.names[-1], block)
                c_in = c
        self.norm = batch_norm(c_in, axis_name=axis_name, dtype=dtype, rngs=rngs)
        self.classifier = classifier(c_in, num_classes, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(x)
        for name in self.names:
            x = getattr(self, name)(x)
        return self.classifier(jnp.mean(jax.nn.relu(self.norm(x)), axis=(1, 2)))
