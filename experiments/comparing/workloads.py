"""The workloads that optimizers are compared on: small problems of different kinds, one interface.

Each trains in seconds on one core, on data that is generated or comes with scikit-learn where that
is possible. A workload is the problem alone: no optimizer, no learning rate, no target.
"""

import functools
import hashlib
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import data
from optim import _checks

__all__ = [
    "NAMES",
    "SMOKE",
    "VARIANTS",
    "Workload",
    "about",
    "build",
    "fingerprint",
    "gather",
    "needs_data",
]

Arrays = dict[str, Any]


def gather(train: Arrays, index: jax.Array, key: jax.Array) -> Arrays:
    """Returns the examples of a batch and its random key; the loop compiles it into the step."""
    return {"examples": jax.tree.map(lambda x: x[index], train), "key": key}


class Workload(NamedTuple):
    """One problem.

    Attributes:
      name: In :data:`NAMES`.
      init: ``init(key) -> (params, stats)``; ``stats`` is what a forward pass updates and no
        optimizer touches (BatchNorm's averages), ``{}`` where there is none.
      loss: ``loss(params, stats, batch, key) -> (scalar, new_stats)``, of a training batch.
      evaluate: ``evaluate(params, stats, examples) -> scalar``, the metric on all examples of a
        split; smaller is better.
      data: ``{"train", "valid", "test"}``, each a dict of arrays with the examples first. Without
        ``"test"`` nothing is tested; without ``"train"`` the batches come whole.
      metric: What ``evaluate`` gives, for people.
      batch_size: Examples in a batch.
      steps: Steps in which the baselines were tuned to set the target.
      evaluations: How often within these steps the metric is taken.
      prepare: ``prepare(data["train"], inputs, key) -> {"examples", "key"}``, a part of the step.
      feed: ``feed(seed)`` returns the inputs for the loop; ``None``: indices of random batches.
      side_by_side: Whether several runs are quicker as one population. Large products are not: with
        weights of its own for each run they take more time than one after another.
    """

    name: str
    init: Callable[[jax.Array], tuple[Any, Any]]
    loss: Callable[..., tuple[jax.Array, Any]]
    evaluate: Callable[..., jax.Array]
    data: dict[str, Arrays]
    metric: str
    batch_size: int
    steps: int
    evaluations: int = 20
    prepare: Callable[..., Arrays] = gather
    feed: Callable[[int], Any] | None = None
    side_by_side: bool = True

    @property
    def budget(self) -> int:
        """Steps of a run: a third more than those that set the target."""
        return -(-4 * self.steps // 3)

    @property
    def period(self) -> int:
        """Steps from one evaluation to the next, the same for all methods."""
        return max(1, self.steps // self.evaluations)

    def batches(self, seed: int) -> Any:
        """Returns the inputs of the steps, for the loop."""
        if self.feed is not None:
            return self.feed(seed)
        n = len(jax.tree.leaves(self.data["train"])[0])
        return data.epoch_batches(n, self.batch_size, seed)


def build(name: str, data_dir: str | None = None) -> Workload:
    """Returns the workload of that name; its data are read or made once.

    Raises:
      ValueError: Unknown name; the nearest are listed.
      FileNotFoundError: Its data are not below ``data_dir``.
    """
    _checks.choice("workload", name, tuple(_WORKLOADS))
    return _built(name, data_dir)


@functools.lru_cache(maxsize=32)
def _built(name: str, data_dir: str | None) -> Workload:
    return _WORKLOADS[name](name, data_dir)


def about(name: str) -> str:
    """Returns one line on a workload."""
    return " ".join((_WORKLOADS[name].__doc__ or "").split("\n\n")[0].split())


def needs_data(name: str) -> bool:
    """Returns whether a workload reads files below ``--data_dir``."""
    return name in _NEED_DATA


def fingerprint(workload: Workload) -> dict[str, Any]:
    """Returns what tells a workload from an earlier version of it.

    That are a hash of its data, its sizes, and the loss and the gradient's norm of the first batch
    at the start, to four digits, which change with the model and the loss.
    """
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(workload.data):
        array = np.asarray(leaf)
        sha.update(f"{array.shape} {array.dtype}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    to_init, to_batch = jax.random.split(jax.random.key(0))
    params, stats = jax.jit(workload.init)(to_init)
    index = next(workload.batches(0)(0))
    batch = workload.prepare(workload.data["train"], index, to_batch)

    @jax.jit
    def start(params, stats, batch, valid):
        value_and_grad = jax.value_and_grad(workload.loss, has_aux=True)
        (loss, _), gradient = value_and_grad(params, stats, batch["examples"], batch["key"])
        return loss, optax.tree.norm(gradient), workload.evaluate(params, stats, valid)

    first = start(params, stats, batch, workload.data["valid"])
    loss, norm, valid = (float(x) for x in first)
    return {
        "data": sha.hexdigest()[:16],
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "start": [f"{x:.4g}" for x in (loss, norm, valid)],
        "metric": workload.metric,
        "batch_size": workload.batch_size,
        "steps": workload.steps,
        "evaluations": workload.evaluations,
    }


# Parts of the networks: plain dicts of arrays.


def _dense(key, inputs: int, outputs: int, scale: float = 1.0) -> Arrays:
    kernel = scale * jax.random.normal(key, (inputs, outputs)) / math.sqrt(inputs)
    return {"kernel": kernel, "bias": jnp.zeros(outputs)}


def _affine(layer: Arrays, x: jax.Array) -> jax.Array:
    y = x @ layer["kernel"]
    return y + _like(layer["bias"], y)


def _like(vector: jax.Array, x: jax.Array) -> jax.Array:
    """A vector, or the trailing axes of ``x``, along all its leading axes."""
    return jnp.broadcast_to(vector, x.shape)


def _layers(key, widths: tuple[int, ...], scale: float = math.sqrt(2)) -> Arrays:
    keys = jax.random.split(key, len(widths) - 1)
    pairs = zip(keys, itertools.pairwise(widths), strict=True)
    return {f"dense_{i}": _dense(k, m, n, scale) for i, (k, (m, n)) in enumerate(pairs)}


def _perceptron(layers: Arrays, x: jax.Array, activation=jax.nn.relu) -> jax.Array:
    for i in range(len(layers)):
        x = _affine(layers[f"dense_{i}"], activation(x) if i else x)
    return x


def _normed(norm: Arrays, x: jax.Array) -> jax.Array:
    """LayerNorm over the last axis."""
    x = x - x.mean(-1, keepdims=True)
    return _like(norm["scale"], x) * x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)


def _norm(width: int) -> Arrays:
    return {"scale": jnp.ones(width)}


def _attention_block(key, width: int) -> Arrays:
    keys = jax.random.split(key, 4)
    return {
        "norm_1": _norm(width),
        "qkv": _dense(keys[0], width, 3 * width),
        "out": _dense(keys[1], width, width, 0.5),
        "norm_2": _norm(width),
        "up": _dense(keys[2], width, 4 * width),
        "down": _dense(keys[3], 4 * width, width, 0.5),
    }


def _attend(
    block: Arrays, x: jax.Array, heads: int, causal: bool, post_norm: bool = False
) -> jax.Array:
    batch, length, width = x.shape

    def attention(x):
        q, k, v = jnp.split(_affine(block["qkv"], x), 3, -1)
        q, k, v = (y.reshape(batch, length, heads, -1) for y in (q, k, v))
        y = jax.nn.dot_product_attention(q, k, v, is_causal=causal)
        return _affine(block["out"], y.reshape(batch, length, width))

    def perceptron(x):
        return _affine(block["down"], jax.nn.gelu(_affine(block["up"], x)))

    for norm, part in ((block["norm_1"], attention), (block["norm_2"], perceptron)):
        x = _normed(norm, x + part(x)) if post_norm else x + part(_normed(norm, x))
    return x


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _error(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return (jnp.argmax(logits, -1) != labels).mean()


def _classifier(name, arrays, init, logits, *, metric="error rate", **sizes) -> Workload:
    """A workload with labels: ``logits(params, x)``, cross-entropy, and error rate or loss."""
    measure = {"error rate": _error, "loss": _cross_entropy}[metric]

    def loss(params, stats, batch, key):
        return _cross_entropy(logits(params, batch["x"]), batch["label"]), stats

    def evaluate(params, stats, examples):
        return measure(logits(params, examples["x"]), examples["label"])

    return Workload(
        name, lambda key: (init(key), {}), loss, evaluate, arrays, metric=f"valid {metric}", **sizes
    )


def _images(name: str, data_dir: str | None, train: int | None = None, other: int | None = None):
    """Images in [0, 1] of shape (n, height, width) with their labels, the first of each split."""
    dataset = data.load(name, data_dir)
    many = {"train": train, "valid": other, "test": other}
    return {
        split: {
            "x": np.float32(getattr(dataset, split)["image"][:n, ..., 0]) / dataset.scale,
            "label": np.int32(getattr(dataset, split)["label"][:n]),
        }
        for split, n in many.items()
    }


def _flat(arrays: dict[str, Arrays]) -> dict[str, Arrays]:
    return {k: {**v, "x": v["x"].reshape(len(v["x"]), -1)} for k, v in arrays.items()}


def _softmax(name: str, data_dir: str | None) -> Workload:
    """Softmax regression on digits with features scaled over two decades: convex, control.

    The condition number of the Hessian is that of the scales squared.
    """
    arrays = _flat(_images("digits", None))
    scales = np.logspace(0, -2, 64, dtype=np.float32)[np.random.default_rng(0).permutation(64)]
    arrays = {k: {**v, "x": 4 * v["x"] * scales} for k, v in arrays.items()}
    sizes = {"batch_size": 64, "steps": 600}

    def init(key):
        del key  # Convex: there is no reason for chance.
        return {"kernel": jnp.zeros((64, 10)), "bias": jnp.zeros(10)}

    return _classifier(name, arrays, init, _affine, metric="loss", **sizes)


def _digits_layernorm(name: str, data_dir: str | None, post_norm: bool = False) -> Workload:
    """A vision transformer with LayerNorm on the 8x8 digits: 16 patches of 2x2, width 32."""
    arrays: dict[str, Arrays] = _images("digits", None)
    for split in arrays.values():
        x = split["x"].reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4)
        split["x"] = x.reshape(-1, 16, 4)

    def init(key):
        keys = jax.random.split(key, 5)
        return {
            "patches": _dense(keys[0], 4, 32, 2.0),
            "positions": 0.1 * jax.random.normal(keys[1], (16, 32)),
            "block_0": _attention_block(keys[2], 32),
            "block_1": _attention_block(keys[3], 32),
            "norm": _norm(32),
            "head": _dense(keys[4], 32, 10),
        }

    def logits(params, x):
        x = _affine(params["patches"], x)
        x = x + _like(params["positions"], x)
        for block in ("block_0", "block_1"):
            x = _attend(params[block], x, heads=4, causal=False, post_norm=post_norm)
        return _affine(params["head"], _normed(params["norm"], x).mean(1))

    return _classifier(name, arrays, init, logits, metric="loss", batch_size=64, steps=400)


def _digits_post_norm(name: str, data_dir: str | None) -> Workload:
    """digits_vit with each LayerNorm behind the sum in place of before the layer."""
    return _digits_layernorm(name, data_dir, post_norm=True)


def _fashion_mlp(name: str, data_dir: str | None) -> Workload:
    """A multi-layer perceptron 784-128-64-10 on 20,000 images of Fashion-MNIST."""
    arrays = _flat(_images("fashion_mnist", data_dir, 20_000, 2_000))
    widths = (784, 128, 64, 10)

    def init(key):
        return _layers(key, widths)

    return _classifier(name, arrays, init, _perceptron, metric="loss", batch_size=128, steps=800)


def _fashion_cnn(name: str, data_dir: str | None) -> Workload:
    """Three convolutions with BatchNorm on a tenth of Fashion-MNIST."""
    arrays = _images("fashion_mnist", data_dir, 6_000, 1_000)
    widths = (1, 8, 16, 32)

    def init(key):
        keys = jax.random.split(key, 4)
        params: Arrays = {"head": _dense(keys[3], 32, 10)}
        stats: Arrays = {}
        for i, (m, n) in enumerate(itertools.pairwise(widths)):
            kernel = math.sqrt(2 / (9 * m)) * jax.random.normal(keys[i], (3, 3, m, n))
            params[f"conv_{i}"] = {"kernel": kernel}
            params[f"norm_{i}"] = {"scale": jnp.ones(n), "bias": jnp.zeros(n)}
            stats[f"norm_{i}"] = {"mean": jnp.zeros(n), "var": jnp.ones(n)}
        return params, stats

    def logits(params, stats, x, train):
        x, new = x[..., None], {}
        for i in range(3):
            x = _convolve(x, params[f"conv_{i}"]["kernel"])
            old, norm = stats[f"norm_{i}"], params[f"norm_{i}"]
            here = {"mean": x.mean((0, 1, 2)), "var": x.var((0, 1, 2))} if train else old
            new[f"norm_{i}"] = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, old, here)
            x = (x - _like(here["mean"], x)) * _like(jax.lax.rsqrt(here["var"] + 1e-5), x)
            x = jax.nn.relu(x * _like(norm["scale"], x) + _like(norm["bias"], x))
        return _affine(params["head"], x.mean((1, 2))), new

    def loss(params, stats, batch, key):
        out, new = logits(params, stats, batch["x"], train=True)
        return _cross_entropy(out, batch["label"]), new

    def evaluate(params, stats, examples):
        out, _ = logits(params, stats, examples["x"], train=False)
        return _cross_entropy(out, examples["label"])

    return Workload(
        name,
        init,
        loss,
        evaluate,
        arrays,
        metric="valid loss",
        batch_size=64,
        steps=400,
        side_by_side=False,
    )


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 3x3 convolution of stride 2, as one matrix product: quick in loops on CPU too."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = (x.shape[1] - 3) // 2 + 1, (x.shape[2] - 3) // 2 + 1
    parts = [
        x[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2]
        for i in range(3)
        for j in range(3)
    ]
    return jnp.concatenate(parts, -1) @ kernel.reshape(-1, kernel.shape[-1])


def _windows(data_dir: str | None, length: int, train: int, other: int):
    """Windows of characters of tinyshakespeare, and the next characters as labels."""
    dataset = data.load("text:tinyshakespeare", data_dir)
    arrays = {}
    for split, n in (("train", train), ("valid", other), ("test", other)):
        tokens = np.asarray(getattr(dataset, split)["tokens"])
        starts = np.linspace(0, len(tokens) - length - 1, n).astype(int)
        windows = tokens[starts[:, None] + np.arange(length + 1)].astype(np.int32)
        arrays[split] = {"x": windows[:, :-1], "label": windows[:, 1:]}
    return arrays, dataset.num_classes


def _characters_transformer(name: str, data_dir: str | None) -> Workload:
    """A character transformer of two blocks, width 48, on windows of 32 of tinyshakespeare."""
    width = 48
    arrays, vocabulary = _windows(data_dir, 32, 30_000, 200)

    def init(key):
        keys = jax.random.split(key, 5)
        return {
            "embedding": 0.1 * jax.random.normal(keys[0], (vocabulary, width)),
            "positions": 0.1 * jax.random.normal(keys[1], (32, width)),
            "block_0": _attention_block(keys[2], width),
            "block_1": _attention_block(keys[3], width),
            "norm": _norm(width),
            "head": _dense(keys[4], width, vocabulary),
        }

    def logits(params, x):
        x = params["embedding"][x]
        x = x + _like(params["positions"], x)
        for block in ("block_0", "block_1"):
            x = _attend(params[block], x, heads=4, causal=True)
        return _affine(params["head"], _normed(params["norm"], x))

    return _classifier(name, arrays, init, logits, metric="loss", batch_size=16, steps=400)


def _characters_gru(name: str, data_dir: str | None) -> Workload:
    """A gated recurrent unit of 64 on windows of 32 characters of tinyshakespeare."""
    arrays, vocabulary = _windows(data_dir, 32, 30_000, 500)

    def init(key):
        keys = jax.random.split(key, 5)
        return {
            "embedding": 0.5 * jax.random.normal(keys[0], (vocabulary, 32)),
            "gates": _dense(keys[1], 32 + 64, 2 * 64),
            "candidate": _dense(keys[2], 32 + 64, 64),
            "head": _dense(keys[3], 64, vocabulary),
        }

    def logits(params, x):
        inputs = params["embedding"][x].swapaxes(0, 1)

        def cell(h, x):
            both = jnp.concatenate([x, h], -1)
            reset, update = jnp.split(jax.nn.sigmoid(_affine(params["gates"], both)), 2, -1)
            new = jnp.tanh(_affine(params["candidate"], jnp.concatenate([x, reset * h], -1)))
            h = update * h + (1 - update) * new
            return h, h

        _, states = jax.lax.scan(cell, jnp.zeros((x.shape[0], 64)), inputs)
        return _affine(params["head"], states.swapaxes(0, 1))

    return _classifier(name, arrays, init, logits, metric="loss", batch_size=32, steps=500)


def _clicks(name: str, data_dir: str | None) -> Workload:
    """A click model with embeddings of six hashed fields; most rows of the table get no gradient.

    Fields have Zipf-distributed values; clicks are drawn from a logistic model with pairwise terms.
    """
    fields, values, buckets, width = 6, 2000, 4096, 8
    rng = np.random.default_rng(0)
    n = {"train": 40_000, "valid": 4_000, "test": 4_000}
    effect = rng.normal(size=(fields, values))
    vector = rng.normal(size=(fields, values, 4)) / 2
    arrays = {}
    for split, many in n.items():
        value = np.minimum(rng.zipf(1.3, size=(many, fields)) - 1, values - 1)
        field = np.arange(fields)
        summed = vector[field, value].sum(1)
        pairs = (summed**2 - (vector[field, value] ** 2).sum(1)).sum(-1) / 2
        logit = 0.7 * effect[field, value].sum(1) + pairs / 3 - 1
        click = rng.random(many) < 1 / (1 + np.exp(-logit))
        hashed = (value * 2_654_435_761 + field * 97_003) % buckets
        arrays[split] = {"x": hashed.astype(np.int32), "label": click.astype(np.float32)}

    def init(key):
        keys = jax.random.split(key, 2)
        table = 0.1 * jax.random.normal(keys[0], (buckets, width))
        return {"embedding": table, "layers": _layers(keys[1], (fields * width, 32, 1))}

    def log_loss(params, batch):
        x = params["embedding"][batch["x"]].reshape(len(batch["x"]), -1)
        logit = _perceptron(params["layers"], x)[:, 0]
        return optax.sigmoid_binary_cross_entropy(logit, batch["label"]).mean()

    return Workload(
        name,
        lambda key: (init(key), {}),
        lambda params, stats, batch, key: (log_loss(params, batch), stats),
        lambda params, stats, examples: log_loss(params, examples),
        arrays,
        metric="valid loss",
        batch_size=256,
        steps=400,
    )


def _autoencoder(name: str, data_dir: str | None, scale: float = 1.0) -> Workload:
    """An autoencoder of the digits through 8 numbers, with absolute errors."""
    arrays = {k: {"x": v["x"]} for k, v in _flat(_images("digits", None)).items()}

    def init(key):
        return _layers(key, (64, 64, 8, 64, 64), scale)

    def error(params, x):
        return jnp.abs(_perceptron(params, x, jnp.tanh) - x).mean()

    return Workload(
        name,
        lambda key: (init(key), {}),
        lambda params, stats, batch, key: (error(params, batch["x"]), stats),
        lambda params, stats, examples: error(params, examples["x"]),
        arrays,
        metric="valid mean absolute error",
        batch_size=64,
        steps=800,
    )


def _autoencoder_twice(name: str, data_dir: str | None) -> Workload:
    """autoencoder from initial weights that are twice as large."""
    return _autoencoder(name, data_dir, scale=2.0)


def _modular(name: str, data_dir: str | None) -> Workload:
    """Addition modulo 31 from 60 % of the pairs: memorized first, understood later (grokking)."""
    p = 31
    pairs = np.stack(np.divmod(np.random.default_rng(0).permutation(p * p), p), -1).astype(np.int32)
    ends = {"train": (0, 576), "valid": (576, 768), "test": (768, p * p)}
    arrays = {
        split: {"x": pairs[a:b], "label": pairs[a:b].sum(-1) % p} for split, (a, b) in ends.items()
    }

    def init(key):
        keys = jax.random.split(key, 2)
        table = jax.random.normal(keys[0], (p, 32)) / math.sqrt(32)
        return {"embedding": table, "layers": _layers(keys[1], (32, 128, p))}

    def logits(params, x):
        return _perceptron(params["layers"], params["embedding"][x].sum(1))

    return _classifier(name, arrays, init, logits, batch_size=192, steps=1500)


def _factorization(name: str, data_dir: str | None) -> Workload:
    """Completion of a 80x60 matrix of rank 5 from a third of its entries, factors of rank 10."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(80, 5)) @ rng.normal(size=(5, 60)) / math.sqrt(5)
    places = rng.permutation(80 * 60)
    ends = {"train": (0, 1600), "valid": (1600, 3200), "test": (3200, 4800)}
    arrays = {}
    for split, (a, b) in ends.items():
        row, column = np.divmod(places[a:b], 60)
        noise = 0.05 * rng.normal(size=b - a) if split == "train" else 0.0
        entry = (truth[row, column] + noise).astype(np.float32)
        arrays[split] = {"row": row, "column": column, "entry": entry}

    def init(key):
        keys = jax.random.split(key)
        return {
            "left": 0.1 * jax.random.normal(keys[0], (80, 10)),
            "right": 0.1 * jax.random.normal(keys[1], (60, 10)),
        }

    def square(params, batch):
        product = params["left"][batch["row"]] * params["right"][batch["column"]]
        return jnp.square(product.sum(-1) - batch["entry"]).mean()

    return Workload(
        name,
        lambda key: (init(key), {}),
        lambda params, stats, batch, key: (square(params, batch), stats),
        lambda params, stats, examples: square(params, examples),
        arrays,
        metric="valid mean squared error",
        batch_size=160,
        steps=1000,
    )


_WORKLOADS: dict[str, Callable[[str, str | None], Workload]] = {
    "softmax": _softmax,
    "digits_vit": _digits_layernorm,
    "autoencoder": _autoencoder,
    "clicks": _clicks,
    "modular": _modular,
    "factorization": _factorization,
    "fashion_mlp": _fashion_mlp,
    "fashion_cnn": _fashion_cnn,
    "characters_transformer": _characters_transformer,
    "characters_gru": _characters_gru,
    "digits_vit_post_norm": _digits_post_norm,
    "autoencoder_twice": _autoencoder_twice,
}
# What is changed about a workload to see whether its best settings still serve.
VARIANTS = {"digits_vit": "digits_vit_post_norm", "autoencoder": "autoencoder_twice"}
NAMES = tuple(name for name in _WORKLOADS if name not in VARIANTS.values())
_NEED_DATA = ("fashion_mlp", "fashion_cnn", "characters_transformer", "characters_gru")
SMOKE = ("softmax", "factorization")
