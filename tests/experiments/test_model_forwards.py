"""Forward passes of the networks, written a second time in NumPy from their papers' figures.

Training mode normalizes by the batch and moves the running statistics by a tenth of the way, as
PyTorch's default does; evaluation mode uses the running statistics.
"""

import jax
import numpy as np
import pytest

from experiments import models
from experiments.models import vgg
from experiments.models.resnet import ResNet, WideResNet

RNG = np.random.default_rng(3)
EPSILON = 1e-5


def relu(x):
    return np.maximum(x, 0)


def conv(x, layer, strides=1, padding=0):
    """Correlates NHWC with HWIO, pixel by pixel."""
    kernel = layer["kernel"]
    size = kernel.shape[0]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = range(0, x.shape[1] - size + 1, strides)
    columns = range(0, x.shape[2] - size + 1, strides)
    y = [
        [np.einsum("nhwc,hwco->no", x[:, i : i + size, j : j + size], kernel) for j in columns]
        for i in rows
    ]
    return np.stack([np.stack(row, 1) for row in y], 1) + layer.get("bias", 0)


def dense(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def halve(x):
    """Maxima of squares of two by two pixels."""
    h, w = x.shape[1] // 2, x.shape[2] // 2
    return np.stack(
        [
            np.stack([x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((1, 2)) for j in range(w)], 1)
            for i in range(h)
        ],
        1,
    )


class Norms:
    """BatchNorm by path; keeps the running statistics that a training pass leaves."""

    def __init__(self, params, stats, train):
        self.params, self.stats, self.train = params, stats, train
        self.new = jax.tree.map(np.array, stats)

    def __call__(self, x, *path):
        p, old, new = self.params, self.stats, self.new
        for name in path:
            p, old, new = p[name], old[name], new[name]
        mean, var = old["mean"], old["var"]
        if self.train:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            new["mean"] = 0.9 * old["mean"] + 0.1 * mean
            new["var"] = 0.9 * old["var"] + 0.1 * var
        return (x - mean) / np.sqrt(var + EPSILON) * p["scale"] + p["bias"]


def resnet(p, norm, x):
    x = relu(norm(conv(x, p["conv"], padding=1), "norm"))
    for name in [k for k in p if k.startswith("block")]:
        block, strides = p[name], 2 if name == "block_1_0" else 1
        y = relu(norm(conv(x, block["conv_0"], strides, 1), name, "norm_0"))
        y = norm(conv(y, block["conv_1"], 1, 1), name, "norm_1")
        if "shortcut_conv" in block:
            x = norm(conv(x, block["shortcut_conv"], strides), name, "shortcut_norm")
        elif y.shape != x.shape:  # Option A: every other pixel, zeros for the new channels.
            x, narrow = np.zeros_like(y), x[:, ::2, ::2]
            before = (y.shape[-1] - narrow.shape[-1]) // 2
            x[..., before : before + narrow.shape[-1]] = narrow
        x = relu(x + y)
    return dense(x.mean((1, 2)), p["classifier"])


def wide_resnet(p, norm, x):
    x = conv(x, p["conv"], padding=1)
    for name in [k for k in p if k.startswith("block")]:
        block, strides = p[name], 2 if name in ("block_1_0", "block_2_0") else 1
        h = relu(norm(x, name, "norm_0"))
        y = relu(norm(conv(h, block["conv_0"], strides, 1), name, "norm_1"))
        # The shortcut of a block that changes the shape starts behind the shared activation.
        short = conv(h, block["shortcut"], strides) if "shortcut" in block else x
        x = short + conv(y, block["conv_1"], 1, 1)
    return dense(relu(norm(x, "norm")).mean((1, 2)), p["classifier"])


def vgg16(p, norm, x):
    for stage, layers in enumerate((2, 2, 3, 3, 3)):
        for j in range(layers):
            x = relu(norm(conv(x, p[f"conv_{stage}_{j}"], padding=1), f"norm_{stage}_{j}"))
        x = halve(x)
    return dense(x.mean((1, 2)), p["classifier"])


def small(cls, shape, **options):
    return models.from_nnx(lambda rngs: cls(shape, 3, rngs=rngs, **options))


NETWORKS = {
    "resnet_pad": (
        resnet,
        lambda: small(ResNet, (6, 8, 2), blocks=(1, 2), widths=(2, 5), shortcut="pad"),
        (6, 8, 2),
    ),
    "resnet_conv": (
        resnet,
        lambda: small(ResNet, (6, 8, 2), blocks=(1, 2), widths=(3, 4), shortcut="conv"),
        (6, 8, 2),
    ),
    "wrn": (wide_resnet, lambda: small(WideResNet, (8, 8, 2), depth=10, width=1), (8, 8, 2)),
    "vgg": (vgg16, lambda: small(vgg.VGG16, (32, 32, 1)), (32, 32, 1)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_convnets_in_both_modes(name, monkeypatch):
    thin = ((2, 3), (3, 4), (4, 3, 3), (4, 3, 4), (3, 4, 5))
    monkeypatch.setattr(vgg, "STAGES", thin)  # The published widths would take a minute.
    forward, build, shape = NETWORKS[name]
    model = build()
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda s: RNG.normal(size=s.shape) * 0.6, params)
    stats = jax.tree.map(lambda s: RNG.uniform(0.5, 1.5, s.shape), stats)
    first, second, third = RNG.normal(size=(3, 4, *shape))

    @jax.jit
    def two_steps_and_an_evaluation(params, stats):
        a, after_a = model.apply(params, stats, first, train=True)
        b, after_b = model.apply(params, after_a, second, train=True)
        c, same = model.apply(params, after_b, third, train=False)
        return [a, b, c], [after_a, after_b, same]

    with jax.enable_x64(True):
        logits, left = two_steps_and_an_evaluation(params, stats)
    for x, train, found, new in zip(
        (first, second, third), (True, True, False), logits, left, strict=True
    ):
        norm = Norms(params, stats, train)
        wanted = forward(params, norm, x)
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), new, norm.new)
        stats = norm.new


def lenet5(p, x):
    x = halve(conv(x, p["conv_0"]))
    x = halve(conv(x, p["conv_1"]))
    return dense(relu(dense(x.reshape(len(x), -1), p["hidden"])), p["classifier"])


def cnn(p, x):
    for i in range(2):
        x = relu(halve(conv(x, p[f"conv_{i}"], padding=1)))
    return dense(relu(dense(x.reshape(len(x), -1), p["hidden"])), p["classifier"])


def mlp(p, x):
    x = relu(dense(x.reshape(len(x), -1), p["layers_0"]))
    return dense(relu(dense(x, p["layers_1"])), p["layers_2"])


def logistic(p, x):
    return dense(x.reshape(len(x), -1), p["linear"])


@pytest.mark.parametrize(
    ("forward", "shape", "options"),
    [
        (lenet5, (18, 16, 1), {}),
        (cnn, (5, 8, 2), {"widths": (3, 4), "hidden": 6}),
        (mlp, (3, 4, 1), {"widths": (6, 5)}),
        (logistic, (3, 4, 1), {}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_networks_without_statistics(forward, shape, options):
    model = models.build(forward.__name__, input_shape=shape, num_classes=3, **options)
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    assert stats == {}
    params = jax.tree.map(lambda s: RNG.normal(size=s.shape) / 3, params)
    x = RNG.normal(size=(2, *shape))
    with jax.enable_x64(True):
        found, _ = jax.jit(lambda p: model.apply(p, {}, x, train=False))(params)
    wanted = forward(params, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
