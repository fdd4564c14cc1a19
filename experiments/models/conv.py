"""Convolutions, as XLA's own or as one matrix product, and the head of the networks."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

IMPLEMENTATIONS = ("lax", "im2col")


def im2col(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **ignored: Any):
    """``lax.conv_general_dilated`` on NHWC and HWIO, as shifted slices and one product.

    XLA's CPU backend runs the gradients of a convolution inside ``scan`` some 25 times slower
    than outside. This form costs the same in both: there 1.5 to 2.7 times the time of ``lax``
    outside of ``scan``, and the memory of ``kh * kw`` copies of the input.
    """
    kh, kw, cin, cout = kernel.shape
    sh, sw = strides
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], (kh, kw), strides, padding)
    x = jnp.pad(x, ((0, 0), *(tuple(p) for p in padding), (0, 0)))
    _, h, w, _ = x.shape
    oh, ow = (h - kh) // sh + 1, (w - kw) // sw + 1
    patches = [
        x[:, i : i + (oh - 1) * sh + 1 : sh, j : j + (ow - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]
    columns = patches[0] if len(patches) == 1 else jnp.concatenate(patches, axis=-1)
    return columns @ kernel.reshape(kh * kw * cin, cout)


def conv(
    features_in: int,
    features: int,
    size: int,
    *,
    strides: int = 1,
    padding: Any = "SAME",
    use_bias: bool = False,
    impl: str = "lax",
    kernel_init: Any = None,
    dtype: Any = None,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Returns a square ``nnx.Conv``.

    Args:
      features_in: Input channels.
      features: Output channels.
      size: Side of the kernel.
      strides: Of both axes.
      padding: ``"SAME"``, ``"VALID"`` or pixels on each side, as in PyTorch.
      use_bias: Whether a bias is added.
      impl: ``lax``, or ``im2col`` for steps that are scanned on a CPU (see :func:`im2col`).
      kernel_init: Initializer; He-normal over the outputs by default.
      dtype: Of the computation.
      rngs: Streams of the initializers.
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    if kernel_init is None:
        kernel_init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
    return nnx.Conv(
        features_in,
        features,
        (size, size),
        strides=strides,
        padding=padding,
        use_bias=use_bias,
        kernel_init=kernel_init,
        dtype=dtype,
        rngs=rngs,
        conv_general_dilated=im2col if impl == "im2col" else jax.lax.conv_general_dilated,
    )


def classifier(features: int, num_classes: int, *, dtype: Any = None, rngs: nnx.Rngs) -> nnx.Linear:
    """Returns a linear head, uniform in ±1/sqrt(features) as in PyTorch, with bias zero."""
    init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return nnx.Linear(features, num_classes, kernel_init=init, dtype=dtype, rngs=rngs)
