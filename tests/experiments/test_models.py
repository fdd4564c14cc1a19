"""Published parameter counts, plain trees, and the parts that papers define."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax.sharding import PartitionSpec as P

from experiments import models
from experiments.models import llama
from experiments.models.cnn import max_pool
from experiments.models.conv import conv, im2col
from experiments.models.resnet import batch_norm, pad_shortcut

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
CIFAR = {"input_shape": (32, 32, 3), "num_classes": 10}
TEXT = {"input_shape": (8,), "num_classes": 32000}


def shapes(name, **options):
    return jax.eval_shape(models.build(name, **options).init, KEY)


def weights(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim > 1)


@pytest.mark.parametrize(
    ("name", "options", "total", "prunable"),
    [
        ("mlp", {"input_shape": (28, 28, 1)}, 266_610, 266_200),
        ("logistic", {"input_shape": (28, 28, 1)}, 7_850, 7_840),
        ("lenet5", {"input_shape": (28, 28, 1)}, 431_080, 430_500),
        ("resnet20", {}, 269_722, 268_336),
        ("resnet56", {}, 853_018, 848_944),
        ("resnet18", {}, 11_173_962, 11_164_352),
        ("wrn16_8", {}, 10_961_370, 10_954_160),
        ("wrn16_8", {"depth": 28, "width": 10}, 36_479_194, 36_461_232),
        ("vgg16_bn", {}, 14_728_266, 14_715_584),
        ("llama", {"size": "9M", **TEXT}, 8_995_968, 8_994_816),
        ("llama", {"size": "60M", **TEXT}, 58_073_600, 58_064_896),
        ("llama", {"size": "130M", **TEXT}, 134_105_856, 134_086_656),
        ("llama", {"size": "350M", **TEXT}, 367_969_280, 367_919_104),
        ("llama", {"size": "1B", **TEXT}, 1_339_082_752, 1_338_982_400),
    ],
)
def test_published_parameter_counts(name, options, total, prunable):
    params, _ = shapes(name, **{**CIFAR, **options})
    assert models.count(params) == total
    assert weights(params) == prunable


def test_parameters_are_plain_dicts_with_readable_paths():
    params, stats = shapes("resnet20", **CIFAR)
    paths = {
        "/".join(k.key for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)
    }
    assert {"conv/kernel", "block_2_0/conv_1/kernel", "classifier/bias"} <= paths
    assert type(params) is type(params["conv"]) is dict
    assert set(stats["norm"]) == {"mean", "var"}
    assert not any(path.startswith("block_1_0/shortcut") for path in paths)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mpl", {}, "unknown model 'mpl'; nearest: mlp"),
        ("resnet2", {}, "unknown model 'resnet2'; nearest: resnet20"),
        ("mlp", {"width": 3}, r"'mlp' takes no model\.options\.width; it takes widths"),
        ("resnet20", {"widths": 3}, r"'resnet20' takes no model\.options\.widths; it takes axis_n"),
        ("cnn", {"impl": "fft"}, "impl must be one of lax, im2col, got 'fft'"),
        ("lenet5", {"input_shape": (8, 8, 1)}, "at least 16 x 16 pixels, got 8 x 8"),
        ("vgg16_bn", {"input_shape": (28, 28, 1)}, "at least 32 x 32 pixels"),
        ("wrn16_8", {"depth": 15}, r"depth must be 6n \+ 4 with n >= 1, got 15"),
        ("llama", {"size": "7T"}, "size must be one of char, 9M, .* got '7T'"),
    ],
)
def test_wrong_names_and_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, **{**CIFAR, **options})


@pytest.mark.parametrize("impl", ["lax", "im2col"])
@pytest.mark.parametrize("name", ["resnet18", "wrn16_8", "vgg16_bn"])
def test_forward_keeps_the_trees(name, impl):
    model = models.build(name, **{**CIFAR, "num_classes": 7}, dtype="bfloat16", impl=impl)
    params, stats = jax.eval_shape(model.init, KEY)
    x = jax.ShapeDtypeStruct((4, 32, 32, 3), np.float32)
    logits, new = jax.eval_shape(lambda *a: model.apply(*a, train=True), params, stats, x)
    assert (logits.shape, logits.dtype) == ((4, 7), np.float32)
    assert jax.tree.map(lambda s: (s.shape, s.dtype), new) == jax.tree.map(
        lambda s: (s.shape, s.dtype), stats
    )


@pytest.fixture(scope="module")
def tiny_llama():
    """One layer of LLaMA: its size's name, model, and jitted apply."""
    llama.SIZES["tiny"] = (32, 64, 1, 4)
    model = models.build("llama", input_shape=(8,), num_classes=10, size="tiny")
    yield model, jax.jit(lambda params, x: model.apply(params, {}, x, train=False)[0])
    del llama.SIZES["tiny"]


SMALL = [
    ("logistic", (8, 8, 1), {}),
    ("mlp", (8, 8, 1), {"widths": (16,)}),
    ("cnn", (8, 8, 1), {"widths": (8,), "hidden": 16, "dropout": 0.1}),
    ("llama", (8,), {"size": "tiny"}),
]


@pytest.mark.usefixtures("tiny_llama")
@pytest.mark.parametrize(("name", "shape", "options"), SMALL, ids=[s[0] for s in SMALL])
def test_every_family_learns(name, shape, options):
    model = models.build(name, input_shape=shape, num_classes=10, dtype="bfloat16", **options)
    params, stats = model.init(KEY)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {np.dtype("float32")}
    text = name == "llama"
    labels = RNG.integers(0, 10, (16, 8) if text else 16)
    x = labels if text else np.float32(RNG.normal(size=(10, *shape)))[labels]
    if name == "mlp":
        kernel = params["layers_0"]["kernel"]
        assert float(np.std(kernel)) == pytest.approx((2 / 64) ** 0.5, rel=0.1)

    @jax.jit
    def step(params, stats, key):
        def loss(params):
            logits, new = model.apply(params, stats, x, train=True, key=key)
            assert logits.dtype == jnp.float32
            entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return entropy.mean(), new

        (value, new), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.01 * jnp.sign(g), params, grads), new, value

    values = []
    for i in range(12):
        params, stats, value = step(params, stats, jax.random.fold_in(KEY, i))
        values.append(float(value))
    assert values[-1] < 0.6 * values[0]


# Boundary.


class Toy(nnx.Module):
    """Every kind of state: parameters in a list, statistics, two dropout streams."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.drop = nnx.List([nnx.Dropout(0.5, rngs=rngs) for _ in range(2)])

    def __call__(self, x):
        x = self.norm(self.layers[1](self.layers[0](x)))
        return jnp.stack([d(x) for d in self.drop])


def test_bytes_are_pixels_for_image_models_and_tokens_for_text(tiny_llama):
    model = models.build("mlp", input_shape=(4, 4, 1), num_classes=3, widths=(8,))
    params, stats = model.init(KEY)
    image = np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1) * 8
    raw, _ = model.apply(params, stats, image, train=False)
    scaled, _ = model.apply(params, stats, np.float32(image) / 255, train=False)
    np.testing.assert_allclose(raw, scaled, rtol=1e-5)
    text, _ = tiny_llama
    params, stats = text.init(KEY)
    tokens = np.arange(8, dtype=np.uint8)[None]
    as_bytes, _ = text.apply(params, stats, tokens, train=False)
    as_integers, _ = text.apply(params, stats, np.int32(tokens), train=False)
    np.testing.assert_array_equal(as_bytes, as_integers)


def test_nnx_at_the_boundary():
    model = models.from_nnx(Toy)
    params, stats = model.init(KEY)
    assert set(params) == {"layers", "norm"}
    assert set(params["layers"]) == {"0", "1"}
    assert np.any(params["layers"]["0"]["kernel"] != params["layers"]["1"]["kernel"])
    x = np.float32(RNG.normal(size=(32, 4)))
    apply = jax.jit(model.apply, static_argnames="train")

    (a, b), new = apply(params, stats, x, train=False)
    np.testing.assert_array_equal(a, b)
    jax.tree.map(np.testing.assert_array_equal, new, stats)

    (a, b), new = apply(params, stats, x, train=True, key=KEY)
    y = x
    for layer in jax.tree.map(np.asarray, list(params["layers"].values())):
        y = y @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(new["norm"]["mean"], 0.1 * y.mean(0), rtol=1e-4, atol=1e-6)
    assert np.any((a == 0) != (b == 0))  # Two layers, two masks.
    other, _ = apply(params, stats, x, train=True, key=jax.random.key(1))[0]
    assert np.any((a == 0) != (other == 0))


def test_other_nnx_state_is_refused():
    class Counter(nnx.Module):
        def __init__(self, rngs):
            self.calls = nnx.Variable(jnp.zeros(()))

    with pytest.raises(ValueError, match="calls is a Variable; a model may hold Param"):
        models.from_nnx(Counter)


class LinenToy(linen.Module):
    @linen.compact
    def __call__(self, x, deterministic: bool):
        x = linen.Dense(5)(x)
        x = linen.BatchNorm(use_running_average=deterministic, momentum=0.9)(x)
        return linen.Dropout(0.5)(x, deterministic=deterministic)


def test_linen_at_the_boundary():
    module = LinenToy()
    model = models.from_linen(module, input_shape=(3,))
    params, stats = model.init(KEY)
    assert type(params) is dict
    assert models.count(params) == 30
    x = np.float32(RNG.normal(size=(8, 3)))
    apply = jax.jit(model.apply, static_argnames="train")
    logits, same = apply(params, stats, x, train=False)
    variables = {"params": params, "batch_stats": stats}
    expected = jax.jit(lambda x: module.apply(variables, x, deterministic=True))(x)
    np.testing.assert_allclose(logits, expected, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, same, stats)
    logits, new = apply(params, stats, x, train=True, key=KEY)
    assert np.any(logits == 0)
    assert np.any(new["BatchNorm_0"]["mean"] != 0)

    plain = models.from_linen(linen.Dense(2), input_shape=(3,))
    params, stats = plain.init(KEY)
    logits, stats = jax.jit(plain.apply, static_argnames="train")(params, stats, x, train=True)
    assert (logits.shape, stats) == ((8, 2), {})


# Layers.


@pytest.mark.parametrize(("size", "strides", "padding"), [(3, 2, "SAME"), (5, 1, [(1, 1), (0, 2)])])
def test_im2col_is_the_convolution(size, strides, padding):
    x = np.float32(RNG.normal(size=(2, 9, 8, 3)))
    kernel = np.float32(RNG.normal(size=(size, size, 3, 4)))
    layout = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def both(x, kernel):
        lax = jax.lax.conv_general_dilated(x, kernel, (strides,) * 2, padding, **layout)
        return (lax**2).sum() - (im2col(x, kernel, (strides,) * 2, padding) ** 2).sum(), lax

    (difference, lax), gradients = jax.jit(jax.value_and_grad(both, (0, 1), has_aux=True))(
        x, kernel
    )
    scale = float((lax**2).sum())
    assert abs(difference) < 1e-4 * scale
    assert max(np.abs(g).max() for g in gradients) < 1e-4 * scale


def test_max_pool_drops_the_odd_row():
    x = np.float32(RNG.normal(size=(2, 5, 6, 3)))
    np.testing.assert_array_equal(max_pool(x), nnx.max_pool(jnp.asarray(x), (2, 2), strides=(2, 2)))


def test_option_a_shortcut():
    x = np.float32(RNG.normal(size=(1, 6, 6, 2)))
    out = pad_shortcut(x, 2, 2)
    np.testing.assert_array_equal(out[..., 1:3], x[:, ::2, ::2])
    np.testing.assert_array_equal(out[..., [0, 3]], 0)


def test_batch_norm_over_devices():
    x = np.float32(RNG.normal(size=(16, 4)) * np.linspace(1, 2, 16)[:, None])

    def run(axis_name):
        def normalize(x):
            norm = batch_norm(4, axis_name=axis_name, dtype=None, rngs=nnx.Rngs(0))
            return norm(x), norm.mean[...]

        return normalize

    whole, mean = jax.jit(run(None))(x)
    shared = jax.pmap(run("data"), axis_name="data")(x.reshape(8, 2, 4))
    np.testing.assert_allclose(shared[0].reshape(16, 4), whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shared[1], np.tile(mean, (8, 1)), rtol=1e-4, atol=1e-6)
    own = jax.pmap(run(None), axis_name="data")(x.reshape(8, 2, 4))
    assert np.abs(own[0].reshape(16, 4) - whole).max() > 0.1
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(x, jax.sharding.NamedSharding(mesh, P("data")))
    np.testing.assert_allclose(jax.jit(run(None))(sharded)[0], whole, rtol=1e-4, atol=1e-5)


def test_he_initialization():
    model = models.from_nnx(lambda rngs: conv(16, 64, 3, rngs=rngs))
    kernel = model.init(KEY)[0]["kernel"]
    assert float(np.std(kernel)) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)


# LLaMA.


def test_rotation_depends_on_distance_alone():
    q, k = (np.float32(RNG.normal(size=8)) for _ in range(2))
    queries, keys = (np.tile(v, (1, 12, 1, 1)).reshape(1, 12, 1, 8) for v in (q, k))
    scores = np.einsum("bthd,bshd->ts", *map(llama.rotate, map(jnp.asarray, (queries, keys))))
    for distance in (0, 3):
        diagonal = np.diagonal(scores, -distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-4)
    pairs = q[:4] + 1j * q[4:], k[:4] + 1j * k[4:]
    turned = pairs[0] * np.exp(3j * 10000.0 ** (-np.arange(4) / 4)) * pairs[1].conj()
    np.testing.assert_allclose(scores[3, 0], turned.real.sum(), rtol=1e-4)


def test_llama_is_causal_and_started_small(tiny_llama):
    model, apply = tiny_llama
    params, stats = model.init(KEY)
    assert stats == {}
    assert float(np.std(params["block_0"]["gate"]["kernel"])) == pytest.approx(0.02, rel=0.08)
    assert float(np.std(params["embedding"]["embedding"])) == pytest.approx(0.02, rel=0.2)
    tokens = RNG.integers(0, 10, (2, 8))
    changed = tokens.copy()
    changed[:, 5] = (changed[:, 5] + 1) % 10
    a, b = np.asarray(apply(params, tokens)), np.asarray(apply(params, changed))
    np.testing.assert_allclose(a[:, :5], b[:, :5], atol=1e-6)
    assert all(np.abs(a[:, t] - b[:, t]).max() > 1e-6 for t in range(5, 8))


def test_llama_equations(tiny_llama):
    model, apply = tiny_llama
    like = jax.eval_shape(model.init, KEY)[0]
    params = jax.tree.map(lambda p: np.float32(RNG.normal(size=p.shape) / 4), like)
    tokens = RNG.integers(0, 10, (2, 8))

    def rms(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale

    x = params["embedding"]["embedding"][tokens]
    w = {name: p.get("kernel", p.get("scale")) for name, p in params["block_0"].items()}
    h = rms(x, w["attention_norm"])
    q, k, v = ((h @ w[n]).reshape(2, 8, 4, 8) for n in "qkv")
    q, k = np.asarray(llama.rotate(jnp.asarray(q))), np.asarray(llama.rotate(jnp.asarray(k)))
    scores = np.einsum("bthd,bshd->bhts", q, k) / np.sqrt(8)
    scores = np.where(np.tri(8, dtype=bool), scores, -np.inf)
    attention = np.exp(scores - scores.max(-1, keepdims=True))
    attention /= attention.sum(-1, keepdims=True)
    x = x + np.einsum("bhts,bshd->bthd", attention, v).reshape(2, 8, 32) @ w["o"]
    h = rms(x, w["mlp_norm"])
    gate = h @ w["gate"]
    x = x + (gate / (1 + np.exp(-gate)) * (h @ w["up"])) @ w["down"]
    expected = rms(x, params["norm"]["scale"]) @ params["head"]["kernel"]
    np.testing.assert_allclose(apply(params, tokens), expected, rtol=1e-3, atol=1e-4)
