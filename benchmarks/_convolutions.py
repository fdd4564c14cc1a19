"""The convolutions of ResNet-20 one by one, forward and backward, by each way of a CPU."""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import optim
from benchmarks._timing import in_turns
from experiments.models import conv

__all__ = ["LAYERS", "PIECES", "WAYS", "measure"]

# Channels in and out, side of the image, stride: all the 3x3 convolutions of ResNet-20 but one.
LAYERS = ((3, 16, 32, 1), (16, 16, 32, 1), (16, 32, 32, 2), (32, 32, 16, 1), (64, 64, 8, 1))
PIECES = ("forward", "gradient of the input", "gradient of the kernel")
WAYS = ("default", "xla", "im2col", "PyTorch")


def measure(examples: int, rounds: int, cores: int) -> list[dict[str, Any]]:
    """Returns the median milliseconds of each piece of each layer, ways in turns."""
    found = []
    for layer in LAYERS:
        for piece in PIECES:
            times = in_turns(_calls(examples, layer, piece, cores), rounds, warm_up=2)
            ms = {way: 1e3 * statistics.median(t) for way, t in times.items()}
            found.append({"layer": layer, "piece": piece, "ms": ms})
    return found


def _calls(examples, layer, piece, cores) -> dict[str, Callable[[], Any]]:
    c_in, c, side, stride = layer
    random = np.random.default_rng(0)
    out = side // stride
    x, w, g = (
        random.standard_normal(shape, np.float32)
        for shape in ((examples, side, side, c_in), (3, 3, c_in, c), (examples, out, out, c))
    )

    def ours(apply, options):
        def convolve(x, w):
            axes = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
            return apply(x, w, (stride, stride), ((1, 1), (1, 1)), **axes)

        def backward(x, w, g):
            alone = (lambda x: convolve(x, w)) if by == 0 else (lambda w: convolve(x, w))
            return jax.linear_transpose(alone, (x, w)[by])(g)[0]

        by = PIECES.index(piece) - 1
        fun, given = (convolve, (x, w)) if by < 0 else (backward, (x, w, g))
        given = jax.device_put(given)
        compiled = jax.jit(fun, compiler_options=options)
        return lambda: compiled(*given)

    plain = jax.lax.conv_general_dilated
    calls = {
        "default": ours(plain, optim.loop.compiler_options()),
        "xla": ours(plain, optim.loop.compiler_options("xla")),
        "im2col": ours(conv.im2col, optim.loop.compiler_options()),
    }
    try:
        import torch
    except ImportError:
        return calls
    torch.set_num_threads(cores)
    x, g = (torch.as_tensor(a).permute(0, 3, 1, 2) for a in (x, g))  # Channels stay last.
    w = torch.as_tensor(w).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    where = ([stride, stride], [1, 1], [1, 1], False, [0, 0], 1)
    if piece == PIECES[0]:
        calls["PyTorch"] = lambda: torch.ops.aten.convolution(x, w, None, *where)
    else:
        asked = [piece == PIECES[1], piece == PIECES[2], False]
        backward = torch.ops.aten.convolution_backward
        calls["PyTorch"] = lambda: backward(g, x, w, None, *where, asked)[asked.index(True)]
    return calls
