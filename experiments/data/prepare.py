"""Batches made on the device from the resident data set: gather, normalize, augment."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.base import Dataset
from optim import _checks

Prepare = Callable[[dict[str, jax.Array], Any, jax.Array | None], dict[str, jax.Array]]


def prepare(
    dataset: Dataset, *, augment: bool = False, pad: int = 4, length: int | None = None
) -> Prepare:
    """Returns ``prepare(data, inputs, key) -> batch`` for the loop.

    ``data`` is ``dataset.train`` (or ``valid``, ``test``) on the device; ``inputs`` is an index
    array, or a dict with ``"index"`` whose other entries pass through to the batch (the
    ``"weight"`` of ``eval_batches``), or, for streamed sets, the rows themselves. The batch is
    ``{"x", "label", ...}``: ``x`` normalized float32, or int32 tokens with the next tokens as
    ``label``.

    Args:
      dataset: Tells the kind of data, scale, mean and standard deviation.
      augment: Whether images are padded by ``pad``, cropped at random and mirrored with
        probability 1/2; uses ``key``.
      pad: Pixels, at least 0.
      length: Tokens that the model sees, for text.

    Example:
      >>> from experiments import data
      >>> digits = data.load("digits")
      >>> batch = prepare(digits)(digits.train, np.arange(2), None)
      >>> batch["x"].shape, float(batch["x"].max())
      ((2, 8, 8, 1), 1.0)
    """
    if "tokens" in dataset.train:
        shortest = min(len(p["tokens"]) for p in (dataset.train, dataset.valid, dataset.test))
        if length is None or not 1 <= length < shortest:
            raise ValueError(
                f"length must be in [1, {shortest - 1}] for {dataset.name}, got {length}"
            )
        return _windows(length)
    kind = "image" if "image" in dataset.train else "x"
    if augment and kind != "image":
        raise ValueError(f"augment must be False for {dataset.name}, which has no images")
    _checks.count("pad", pad, 0)
    mean = np.asarray(dataset.mean, np.float32) * dataset.scale
    inverse = 1.0 / (np.asarray(dataset.std, np.float32) * dataset.scale)

    def make(data, inputs, key=None):
        batch = dict(inputs) if isinstance(inputs, dict) else {"index": inputs}
        if "label" not in batch:
            batch |= {name: array[batch["index"]] for name, array in data.items()}
        x = batch.pop(kind)
        if augment:
            if key is None:
                raise ValueError("augment needs a key, got None")
            x = pad_crop_flip(x, key, pad)
        if kind == "image":
            x = (x.astype(jnp.float32) - mean.reshape(1, 1, 1, -1)) * inverse.reshape(1, 1, 1, -1)
        return {**batch, "x": x}

    return make


def _windows(length: int) -> Prepare:
    span = np.arange(length + 1, dtype=np.int32)[None]

    def make(data, inputs, key=None):
        del key
        batch = dict(inputs) if isinstance(inputs, dict) else {"index": inputs}
        if "tokens" in batch:  # Streamed: the windows themselves.
            window = batch.pop("tokens")
        else:
            window = data["tokens"][batch["index"][:, None] + span]
        window = window.astype(jnp.int32)
        return {**batch, "x": window[:, :-1], "label": window[:, 1:]}

    return make


def pad_crop_flip(x: jax.Array, key: jax.Array, pad: int = 4) -> jax.Array:
    """Pads (b, h, w, c) images with zeros, crops (h, w) at random, mirrors every other one."""
    b, h, w, _ = x.shape
    key_y, key_x, key_f = jax.random.split(key, 3)
    dy = jax.random.randint(key_y, (b, 1), 0, 2 * pad + 1) - pad
    dx = jax.random.randint(key_x, (b, 1), 0, 2 * pad + 1) - pad
    flip = jax.random.bernoulli(key_f, 0.5, (b, 1))
    rows = jnp.arange(h)[None] + dy
    columns = jnp.arange(w)[None]
    columns = jnp.where(flip, w - 1 - columns, columns) + dx
    inside = ((rows >= 0) & (rows < h))[:, :, None] & ((columns >= 0) & (columns < w))[:, None, :]
    batch = jnp.arange(b)[:, None, None]
    out = x[batch, jnp.clip(rows, 0, h - 1)[:, :, None], jnp.clip(columns, 0, w - 1)[:, None, :]]
    return jnp.where(inside[..., None], out, 0)
