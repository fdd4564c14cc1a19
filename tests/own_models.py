"""A user's own models: tied leaves, grouped and depthwise convolutions, attention, embeddings.

Both predict the next of some tokens. In the NNX model two layers hold one kernel, in the Linen
model one layer is called twice; the head of both is the embedding.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx

import bilevel

WORDS, WIDTH = 11, 8
TOKENS = np.random.default_rng(0).integers(0, WORDS, (4, 6))


class Net(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.depthwise = nnx.Conv(WIDTH, WIDTH, 3, feature_group_count=WIDTH, rngs=rngs)
        self.grouped = nnx.Conv(WIDTH, WIDTH, 3, feature_group_count=2, rngs=rngs)
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, WIDTH, WIDTH, decode=False, rngs=rngs)
        self.first = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.second = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.second.kernel = self.first.kernel

    def __call__(self, tokens):
        x = self.embed(tokens)
        x = x + self.grouped(self.depthwise(x))
        x = x + self.attention(self.norm(x))
        return self.embed.attend(self.second(jnp.tanh(self.first(x))))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, tokens):
        embed, dense = linen.Embed(WORDS, WIDTH), linen.Dense(WIDTH, name="first")
        x = embed(tokens)
        for name, groups in (("depthwise", WIDTH), ("grouped", 2)):
            x = x + linen.Conv(WIDTH, (3,), feature_group_count=groups, name=name)(x)
        attention = linen.MultiHeadDotProductAttention(2, qkv_features=WIDTH, name="attention")
        x = x + attention(linen.LayerNorm(name="norm")(x))
        return embed.attend(dense(jnp.tanh(dense(x))))


def model(kind):
    """``forward(params, tokens) -> logits`` and parameters; nothing is compiled."""
    rng = np.random.default_rng(1)

    def filled(shapes):
        return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32) / 3, shapes)

    if kind == "nnx":
        graph, params, rest = nnx.split(nnx.eval_shape(lambda: Net(nnx.Rngs(0))), nnx.Param, ...)
        assert not jax.tree.leaves(rest)
        return lambda params, tokens: nnx.merge(graph, params)(tokens), filled(params)
    net = LinenNet()
    params = jax.eval_shape(net.init, jax.random.key(0), TOKENS)["params"]
    return lambda params, tokens: net.apply({"params": params}, tokens), filled(params)


def loss_of(forward):
    """The mean loss of the next token; compiled once, also where a step is not."""

    @jax.jit
    def loss(params, tokens):
        with jax.numpy_rank_promotion("allow"):
            logits = forward(params, tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    return loss


def named(tree):
    """Leaves by the names of their layers, ``None`` among them."""
    flat = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None)[0]
    return {bilevel.masks.path_name(path).removesuffix("/value"): x for path, x in flat}
