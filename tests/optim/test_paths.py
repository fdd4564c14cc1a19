"""What a parameter is, by names as the libraries give them, and the ways to choose leaves."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, struct

import bilevel
import optim
from optim import _paths

# Lists of real parameter names: Flax Linen, Haiku, Equinox, transformers (Flax and PyTorch), Mamba.
WEIGHTS = """
Dense_0/kernel  Conv_0/kernel  MultiHeadDotProductAttention_0/query/kernel
encoderblock_3/MlpBlock_0/Dense_1/kernel  OptimizedLSTMCell_0/hf/kernel
mlp/~/linear_0/w  transformer/~/h0_attn/~/query/w  conv2_d/w  multi_head/w
layers/0/weight  query_proj/weight  weight_hh
encoder/layer/0/attention/self/query/kernel  encoder/layer/0/attention/output/dense/kernel
h/0/attn/c_attn/kernel  h/0/mlp/c_fc/kernel  model.layers.0.self_attn.q_proj.weight
model/layers/0/mlp/gate_proj/kernel  block/0/layer/0/SelfAttention/o/kernel
attention_head_0/query/kernel  attn/head_0/q  embedder/kernel  t_embedder/mlp/0/kernel
layers/0/mixer/in_proj/kernel  layers.0.mixer.dt_proj.weight  layers.0.mixer.x_proj.weight
upscale/kernel  debias/kernel  normalizer_mlp/kernel  token_mixing/Dense_0/kernel  lora_A/kernel
q_proj/lora_b  b  blocks_0/adaLN_modulation/kernel  LayerNormMLP_0/wi/kernel  norm_mlp/w
attention/time_mix_key/kernel  experts/wi  attn_vec_einsum/w  router/kernel  time_decay_w1
"""
HEADS = """
lm_head/kernel  head/kernel  classifier/kernel  mlp_head/linear/kernel  output/kernel  score/kernel
cls/predictions/decoder/kernel
"""
TABLES = """
Embed_0/embedding  embed/embeddings  embeddings/word_embeddings/embedding  wte/embedding
wpe/embedding  wte.weight  model.embed_tokens.weight  shared/embedding  shared.weight
embedder/input_embedding  posembed_input/pos_embedding  cls  cls_token  embeddings/position_ids
pos_embed  position_table  relative_attention_bias/embedding  relative_position_bias_table
layers/0/mixer/A_log  layers.0.mixer.D  mask_token  rel_pos_h  token_embedding.weight
latents  pos_encoding/pe  vq/codebook  object_queries  blocks/0/att/time_decay  att/time_faaaa
time_maa_x  rg_lru/a_param  ssm/log_A_real  register_tokens
"""
VECTORS = """
MultiHeadDotProductAttention_0/query/bias  LayerNorm_0/scale  ln_1/scale  h/0/ln_2/bias
layer_norm/offset  batch_norm/scale  bn1/weight  model.norm.weight  input_layernorm/weight
RMSNorm_0/scale  attn_norm/w  norm_f.weight  linear/b  layer_scale  dt_bias
layers/0/mixer/dt_proj.bias  ls1.gamma
"""


@pytest.mark.parametrize(
    ("names", "hidden", "prunable", "vector"),
    [
        (WEIGHTS, True, True, False),
        (HEADS, False, True, False),
        (TABLES, False, False, False),
        (VECTORS, False, False, True),
    ],
)
def test_names_of_the_libraries(names, hidden, prunable, vector):
    leaf = np.zeros((6, 4), np.float32)
    for name in names.split():
        path = tuple(jax.tree_util.DictKey(k) for k in name.split("/"))
        assert optim.is_hidden_matrix(path, leaf) is hidden, name
        assert bilevel.masks.default_rule(name, leaf) is prunable, name
        assert _paths.is_named_vector(path) is vector, name


@pytest.mark.parametrize("shape", [(), (5,), (5, 1, 1), (1, 1, 1, 5), (1, 5), (1, 1)])
def test_one_long_axis_is_a_vector(shape):
    leaf = np.zeros(shape, np.float32)
    path = (jax.tree_util.DictKey("kernel"),)
    assert not optim.is_hidden_matrix(path, leaf)
    # A kernel of one input is a kernel to a pruning method.
    assert bilevel.masks.default_rule("kernel", leaf) is (len(shape) == 2)
    assert not bilevel.masks.default_rule("kernel", np.zeros((3, 3), np.int32))


@struct.dataclass
class Attention:
    """A module as Equinox has them: a tree of parameters that can be called itself."""

    query: jax.Array
    value: jax.Array
    bias: jax.Array

    def __call__(self, x):
        return x @ self.query @ self.value


MODULE = Attention(jnp.ones((4, 4)), jnp.ones((4, 4)), jnp.ones((4,)))


def test_paths_end_above_variables_and_keep_fields_called_value():
    assert [str(path[-1]) for path, _ in _paths.with_paths(MODULE)] == [".query", ".value", ".bias"]
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    assert [path[-1].key for path, _ in _paths.with_paths(state)] == ["bias", "kernel"]
    seen = []
    choose = lambda path, leaf: seen.append(jax.tree_util.keystr(path))  # noqa: E731
    optim.adamp(0.1, channel_axis=choose).init(MODULE)
    assert seen == [".query", ".value", ".bias"]


def decays(make, mask, params=MODULE):
    """Which leaves a decay reaches: those that move on zero gradients."""
    tx = make(mask)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    return [bool(jnp.any(u != 0)) for u in jax.tree.leaves(updates)]


MAKERS = {
    "lion": lambda mask: optim.lion(0.1, weight_decay=0.5, mask=mask),
    "adamp": lambda mask: optim.adamp(0.1, weight_decay=0.5, mask=mask),
    "sgdp": lambda mask: optim.sgdp(0.1, weight_decay=0.5, mask=mask),
    "diffgrad": lambda mask: optim.diffgrad(0.1, weight_decay=0.5, mask=mask),
}


@pytest.mark.parametrize("name", MAKERS)
def test_ways_to_choose_leaves(name):
    make = MAKERS[name]
    assert decays(make, None) == [True, True, True]
    assert decays(make, True) == [True, True, True]
    tree = jax.tree.map(lambda x: x.ndim > 1, MODULE)  # Callable itself, but a tree.
    assert decays(make, tree) == [True, True, False]
    assert decays(make, lambda params: tree) == [True, True, False]
    assert decays(make, lambda path, leaf: "value" in str(path[-1])) == [False, True, False]
    assert decays(make, optim.is_hidden_matrix) == [True, True, False]

    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0), bias_init=nnx.initializers.ones)
    state = nnx.state(model, nnx.Param)
    of_variables = jax.tree.map(lambda x: x.ndim > 1, state)
    assert decays(make, of_variables, state) == [False, True]
    assert decays(make, of_variables, nnx.as_pure(state)) == [False, True]

    for wrong in ("kernel", re.compile("kernel"), 1, {"query": True}, lambda: True):
        with pytest.raises(ValueError, match="mask must be"):
            decays(make, wrong)


def test_axes_by_tree():
    rng = np.random.default_rng(0)
    params = {"e": rng.standard_normal((5, 4)), "k": rng.standard_normal((4, 5))}
    params = jax.tree.map(jnp.float32, params)
    grads = jax.tree.map(lambda p: p[::-1] * 0.1, params)
    by_tree = optim.adamp(0.1, delta=5.0, channel_axis={"e": 0, "k": -1})
    by_path = optim.adamp(0.1, delta=5.0, channel_axis=lambda path, x: 0 if x.shape[0] > 4 else -1)
    a, b = (tx.update(grads, tx.init(params), params)[0] for tx in (by_tree, by_path))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    c = optim.adamp(0.1, delta=5.0).update(grads, by_tree.init(params), params)[0]
    assert np.abs(c["e"] - a["e"]).max() > 1e-3
    with pytest.raises(ValueError, match="channel_axis must be"):
        optim.adamp(0.1, channel_axis={"e": "rows"})


def turned(x, heads=3):
    """(out, in) to Flax's (in, heads, head_dim)."""
    return jnp.float32(x.T.reshape(x.shape[1], heads, -1))


@pytest.mark.parametrize("make", [optim.adamp, optim.sgdp])
def test_attention_kernels_have_the_rows_of_their_matrix(make):
    """Heads and their features are the outputs: the projection is that of the (out, in) matrix."""
    rng = np.random.default_rng(1)
    p, g = rng.standard_normal((2, 12, 20))
    g -= p * np.sum(g * p, 1, keepdims=True) / np.sum(p * p, 1, keepdims=True)
    flat = {"w": jnp.float32(p)}
    tx = make(0.1, channel_axis=0)
    expected = tx.update({"w": jnp.float32(g)}, tx.init(flat), flat)[0]["w"]
    numbers = optax.contrib.MuonDimensionNumbers(0, (1, 2))
    named = {"query": {"kernel": turned(p)}}
    for axis in ((1, 2), (-2, -1), numbers, lambda path, x: (1, 2), -1):
        tx = make(0.1, channel_axis=axis)
        grads = {"query": {"kernel": turned(g)}}
        got = tx.update(grads, tx.init(named), named)[0]["query"]["kernel"]
        np.testing.assert_allclose(got, turned(np.asarray(expected)), atol=1e-6)
    injected = optax.inject_hyperparams(make)(0.1, channel_axis=-1)
    got = injected.update(grads, injected.init(named), named)[0]["query"]["kernel"]
    np.testing.assert_allclose(got, turned(np.asarray(expected)), atol=1e-6)

    # Without a name: as many features as the heads have together, unless it is a convolution.
    for name, axis in (("w", (1, 2)), ("Conv_0", 2)):
        params, grads = ({name: turned(x[:, :12])} for x in (p, g))
        given = make(0.1, delta=9.0, channel_axis=axis), make(0.1, delta=9.0)
        want, got = (tx.update(grads, tx.init(params), params)[0] for tx in given)
        np.testing.assert_array_equal(got[name], want[name])

    # Axes that dimension numbers leave out stack tensors.
    stack = {"w": jnp.stack([jnp.float32(p), 2 * jnp.float32(g)], 1)}
    grads = {"w": jnp.stack([jnp.float32(g), jnp.float32(p)], 1)}
    axis = optax.contrib.MuonDimensionNumbers(2, 0)
    branches = optim.projection_branches(grads, stack, channel_axis=axis)["w"]
    assert branches.shape == (2,)
    tx = make(0.1, channel_axis=axis)
    got = tx.update(grads, tx.init(stack), stack)[0]["w"][:, 0]
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["query/bias", "LayerNorm_0/scale", "conv/bias"])
def test_vectors_are_never_projected(name):
    """A bias of (heads, head_dim), a norm of (layers, features): as the flat vector."""
    p, g = np.random.default_rng(2).standard_normal((2, 8)).astype(np.float32)
    g -= p * np.dot(g, p) / np.dot(p, p)
    shape = {"conv/bias": (8, 1, 1)}.get(name, (2, 4))
    keys = name.split("/")
    for make in (optim.adamp, optim.sgdp):
        tx = make(0.1, weight_decay=0.5)
        flat, _ = tx.update({"b": g}, tx.init({"b": p}), {"b": p})
        params, grads = ({keys[0]: {keys[1]: x.reshape(shape)}} for x in (p, g))
        got, _ = tx.update(grads, tx.init(params), params)
        np.testing.assert_array_equal(jax.tree.leaves(got)[0].ravel(), flat["b"])
