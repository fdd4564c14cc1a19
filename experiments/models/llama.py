"""A decoder-only transformer as in LLaMA: RMSNorm, SwiGLU, rotary positions, untied head."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from optim import _checks

# hidden, intermediate, layers, heads: as GaLore and FRUGAL train them; "char" is for short runs.
SIZES = {
    "char": (128, 352, 3, 4),
    "9M": (128, 352, 4, 4),
    "60M": (512, 1376, 8, 8),
    "130M": (768, 2048, 12, 12),
    "350M": (1024, 2736, 24, 16),
    "1B": (2048, 5461, 24, 32),
}


def rotate(x: jax.Array) -> jax.Array:
    r"""Rotary position embedding of (batch, length, heads, dim), halves paired as in LLaMA.

    .. math::
      (x_i, x_{i+d/2}) \mapsto R(t\,\theta_i)\,(x_i, x_{i+d/2}), \quad
      \theta_i = 10000^{-2i/d}
    """
    _, length, _, dim = x.shape
    theta = 10000.0 ** (-np.arange(0, dim, 2) / dim)
    angle = np.outer(np.arange(length), theta)[None, :, None, :]
    cos, sin = jnp.asarray(np.cos(angle), x.dtype), jnp.asarray(np.sin(angle), x.dtype)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


class Block(nnx.Module):
    """Attention and gated MLP, each after an RMSNorm and added to the residual."""

    def __init__(self, hidden: int, intermediate: int, heads: int, dtype: Any, rngs: nnx.Rngs):
        def linear(n_in: int, n_out: int) -> nnx.Linear:
            init = nnx.initializers.normal(0.02)
            return nnx.Linear(n_in, n_out, use_bias=False, kernel_init=init, dtype=dtype, rngs=rngs)

        self.heads = heads
        self.attention_norm = nnx.RMSNorm(hidden, epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.q, self.k = linear(hidden, hidden), linear(hidden, hidden)
        self.v, self.o = linear(hidden, hidden), linear(hidden, hidden)
        self.mlp_norm = nnx.RMSNorm(hidden, epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.gate, self.up = linear(hidden, intermediate), linear(hidden, intermediate)
        self.down = linear(intermediate, hidden)

    def __call__(self, x: jax.Array) -> jax.Array:
        b, t, d = x.shape
        h = self.attention_norm(x)
        q, k, v = (
            f(h).reshape(b, t, self.heads, d // self.heads) for f in (self.q, self.k, self.v)
        )
        attended = jax.nn.dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        x = x + self.o(attended.reshape(b, t, d))
        h = self.mlp_norm(x)
        return x + self.down(jax.nn.silu(self.gate(h)) * self.up(h))


class LLaMA(nnx.Module):
    """Maps (batch, length) tokens to (batch, length, vocabulary) logits.

    All matrices are normal with standard deviation 0.02; there are no biases.

    Args:
      input_shape: Ignored: any length serves.
      num_classes: The vocabulary; 32000 in the papers.
      size: A key of :data:`SIZES`. With 32000 tokens: 9M 8,995,968 parameters, 60M 58,073,600,
        130M 134,105,856, 350M 367,969,280, 1B 1,339,082,752.
      dtype: Of the computation, ``"bfloat16"`` on accelerators; parameters stay float32.
      remat: Whether backpropagation keeps the inputs of the blocks alone, and computes what is in
        them again: less memory, a third more time.
      rngs: Streams of the initializers.

    References:
      Touvron et al., *LLaMA: Open and Efficient Foundation Language Models*, 2023.
      Zhao et al., *GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection*, 2024.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        size: str = "char",
        dtype: Any = None,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        _checks.flag("remat", remat)
        if size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
        hidden, intermediate, self.depth, heads = SIZES[size]
        self.remat = remat
        init = nnx.initializers.normal(0.02)
        self.embedding = nnx.Embed(num_classes, hidden, embedding_init=init, dtype=dtype, rngs=rngs)
        for i in range(self.depth):
            setattr(self, f"block_{i}", Block(hidden, intermediate, heads, dtype, rngs))
        self.norm = nnx.RMSNorm(hidden, epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(
            hidden, num_classes, use_bias=False, kernel_init=init, dtype=dtype, rngs=rngs
        )

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embedding(tokens.astype(jnp.int32))
        apply = nnx.remat(Block.__call__) if self.remat else Block.__call__
        for i in range(self.depth):
            x = apply(getattr(self, f"block_{i}"), x)
        return self.head(self.norm(x))
