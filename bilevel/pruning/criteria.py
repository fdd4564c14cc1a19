"""Scores that say which weights matter. In every one of them the larger score is kept."""

import contextlib
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.pruning import density as density_lib
from bilevel.pruning import masks as masks_lib
from bilevel.pruning._zo_grasp import zo_grasp

__all__ = ["grasp", "magnitude", "popup", "random", "snip", "synflow", "synflow_masks", "zo_grasp"]


def _on(chosen: Any, params: Any) -> Callable[[Any], Any]:
    """A function that puts the prunable leaves back among the others."""
    return lambda z: masks_lib.map_leaves(lambda new, x: x if new is None else new, z, params)


def _wide(x: jax.Array) -> jax.Array:
    """``x`` in float32 at least, where products and sums neither overflow nor vanish."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _share(raw: Any) -> Any:
    """``raw`` divided by its sum; zero where nothing has a score."""
    total = jnp.asarray(sum(x.sum() for x in jax.tree.leaves(raw)))
    return jax.tree.map(lambda x: jnp.where(total > 0, x / jnp.where(total > 0, total, 1), 0), raw)


def magnitude(params: Any, rule: masks_lib.Rule | None = None) -> Any:
    r"""Magnitudes :math:`|\theta|` of the prunable leaves.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.criteria.magnitude({"kernel": jnp.array([[-2.0, 1.0]]), "bias": jnp.ones(2)})
      {'bias': None, 'kernel': Array([[2., 1.]], dtype=float32)}
    """
    return jax.tree.map(jnp.abs, masks_lib.prunable(params, rule))


def random(key: jax.Array, params: Any, rule: masks_lib.Rule | None = None) -> Any:
    """Uniform random scores; with an allocator's densities, random pruning with ERK and others.

    The key must be another one than the weights were drawn with: equal keys give equal bits, and
    the scores would be ordered as the weights. Where they are, it warns (not under ``jit``).

    Example:
      >>> import jax, jax.numpy as jnp, bilevel
      >>> bilevel.criteria.random(jax.random.key(0), {"w": jnp.ones((2, 3))})["w"].shape
      (2, 3)
    """
    named, treedef = jax.tree_util.tree_flatten_with_path(masks_lib.prunable(params, rule))
    leaves = [x for _, x in named]
    keys = jax.random.split(key, len(leaves))
    # Never 0, so that a score of 0 always means pruned.
    draws = [
        # In float32 at least: the few numbers of a 16-bit float would be equal, and equal scores
        # are dropped in their order.
        1 - jax.random.uniform(k, x.shape, jnp.promote_types(x.dtype, jnp.float32))
        for k, x in zip(keys, leaves, strict=True)
    ]
    alike = [
        masks_lib.path_name(path)
        for (path, x), draw in zip(named, draws, strict=True)
        if _ordered_alike(x, draw)
    ]
    if alike:
        warnings.warn(
            f"the random scores of {', '.join(alike)} are ordered as the weights, which were "
            "drawn with the same key: give another one",
            stacklevel=2,
        )
    return jax.tree.unflatten(treedef, draws)


def _ordered_alike(x: Any, draw: jax.Array, some: int = 64) -> bool:
    """Whether the first few numbers of two arrays rise in one order, or in the opposite one."""
    traced = any(isinstance(a, jax.core.Tracer) for a in (x, draw))
    if traced or x.size < 16 or not getattr(x, "is_fully_addressable", True):
        return False
    order, other = (np.argsort(np.asarray(a.ravel()[:some]), kind="stable") for a in (x, draw))
    return np.array_equal(order, other) or np.array_equal(order, other[::-1])


def popup(params: Any, rule: masks_lib.Rule | None = None) -> Any:
    r"""Initial popup scores of Hydra: :math:`\sqrt{6/\text{fan}_{in}}\;\theta / \max|\theta|`.

    A layer of zeros has scores of zero.

    Args:
      params: Parameters of a dense model.
      rule: Which leaves are prunable; see :func:`bilevel.masks.prunable`.

    Returns:
      Scores, ``None`` where nothing is pruned.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.criteria.popup({"w": jnp.array([[1.0, -2.0], [0.0, 2.0], [1.0, 1.0]])})["w"][0]
      Array([ 0.7071..., -1.41421...], dtype=float32)

    References:
      Sehwag et al., HYDRA: Pruning Adversarially Robust Neural Networks, NeurIPS 2020.
    """

    def one(w):
        fan_in = w.size // w.shape[-1]
        largest = jnp.max(jnp.abs(w))
        scale = jnp.sqrt(6 / fan_in).astype(w.dtype)
        return scale * w / jnp.where(largest > 0, largest, 1)

    return jax.tree.map(one, masks_lib.prunable(params, rule))


def snip(
    loss: Callable[..., jax.Array], params: Any, batch: Any, rule: masks_lib.Rule | None = None
) -> Any:
    r"""SNIP's connection sensitivity, :math:`|\theta \odot \nabla_\theta \ell| / \sum`.

    Args:
      loss: ``loss(params, batch) -> scalar``.
      params: Parameters at initialization.
      batch: One batch.
      rule: Which leaves are prunable; see :func:`bilevel.masks.prunable`.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> loss = lambda params, x: (x @ params["w"]).sum()
      >>> s = bilevel.criteria.snip(loss, {"w": jnp.array([[1.0], [-3.0]])}, jnp.ones((1, 2)))
      >>> s["w"][:, 0]
      Array([0.25, 0.75], dtype=float32)

    References:
      Lee, Ajanthan, Torr, SNIP: Single-shot Network Pruning, ICLR 2019.
    """
    chosen = masks_lib.prunable(params, rule)
    put = _on(chosen, params)
    g = jax.grad(lambda z: loss(put(z), batch))(chosen)
    raw = jax.tree.map(lambda w, g: jnp.abs(_wide(w) * _wide(g)), chosen, g)
    return _share(raw)


def grasp(
    loss: Callable[..., jax.Array],
    params: Any,
    batches: Sequence[Any],
    rule: masks_lib.Rule | None = None,
) -> Any:
    r"""GraSP's preservation of gradient flow.

    .. math::
      s = \frac{\theta \odot H g}{\left|\sum \theta \odot H g\right| + 10^{-10}}, \qquad
      g = \sum_b \nabla\ell_b,\quad H = \sum_b \nabla^2\ell_b

    The authors write :math:`-\theta \odot Hg` and remove the largest; here the sign is such that
    the largest is kept, as in every criterion of this module. Their code divides the logits by
    200 before the loss, gives the two halves of a batch sorted by class, and draws new linear
    layers for scoring: the first two are the caller's to do, the last is not done.

    Args:
      loss: ``loss(params, batch) -> scalar``; the authors' is the cross-entropy of logits / 200.
      params: Parameters at initialization.
      batches: Batches whose losses are added.
      rule: Which leaves are prunable; see :func:`bilevel.masks.prunable`.

    Returns:
      Signed scores: pass ``absolute=False`` to :func:`bilevel.masks.from_scores`.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> loss = lambda params, x: ((x @ params["w"]) ** 2).sum()
      >>> s = bilevel.criteria.grasp(loss, {"w": jnp.array([[1.0], [3.0]])}, [jnp.eye(2)])
      >>> [round(float(x), 3) for x in s["w"][:, 0]]
      [0.1, 0.9]

    References:
      Wang, Zhang, Grosse, Picking Winning Tickets Before Training, ICLR 2020.
    """
    if isinstance(batches, jax.Array | np.ndarray) or not batches:
        raise ValueError("batches must be a list of one batch or more")
    chosen = masks_lib.prunable(params, rule)
    put = _on(chosen, params)
    gradient = jax.grad(lambda z: sum(loss(put(z), b) for b in batches))
    g = gradient(chosen)
    _, hg = jax.jvp(gradient, (chosen,), (g,))
    raw = jax.tree.map(lambda w, hg: _wide(w) * _wide(hg), chosen, hg)
    total = jnp.abs(sum(x.sum() for x in jax.tree.leaves(raw)))
    return jax.tree.map(lambda x: x / (total + 1e-10), raw)


def synflow(
    forward: Callable[..., jax.Array], params: Any, x: jax.Array, rule: masks_lib.Rule | None = None
) -> Any:
    r"""SynFlow: :math:`s = |\theta| \odot \partial R / \partial|\theta|`, without data.

    .. math::
      R = \mathbb{1}^\top f_{|\theta|}(x), \qquad x = \mathbb{1}

    R grows exponentially with the depth: by a factor of 18 per layer of 256 units. It is computed
    in float64, on the CPU (an accelerator may have none), and where the scores are beyond the range
    of the parameters' dtype all of them are divided by one power of two. That keeps their order.
    Under ``jax.jit`` it is computed in the dtype of the parameters, which may overflow.

    Args:
      forward: ``forward(params, x) -> logits``, in evaluation mode. It must not cast to a narrower
        dtype of its own.
      params: Every array the forward pass reads (biases and BatchNorm statistics too): all are
        replaced by their magnitudes, as in the authors' code.
      x: Ones of the input's shape, with a batch of one.
      rule: Which leaves are prunable; see :func:`bilevel.masks.prunable`.

    Returns:
      Scores, ``None`` where nothing is pruned.

    Raises:
      ValueError: When the scores are beyond the range of float64, or of a dtype that ``forward``
        casts to (a leaf is named).

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> params = {"w": jnp.array([[1.0, -2.0]])}
      >>> bilevel.criteria.synflow(lambda p, x: x @ p["w"], params, jnp.ones((1, 1)))
      {'w': Array([[1., 2.]], dtype=float32)}

    References:
      Tanaka et al., Pruning neural networks without any data, NeurIPS 2020.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((params, x))):
        return _synflow(forward, rule, params, x)
    dtypes = jax.tree.map(lambda p: jnp.asarray(p).dtype, masks_lib.prunable(params, rule))
    with _float64():
        scores = jax.jit(functools.partial(_synflow, forward, rule))(*_doubled(params, x))
        _refuse_overflow(scores)
        largest = max(float(s.max()) for s in jax.tree.leaves(scores))
        limit = min(float(jnp.finfo(d).max) for d in jax.tree.leaves(dtypes))
        # A square root of the range is left below and above.
        if largest > limit / 2:
            scale = 2.0 ** (math.floor(math.log2(limit) / 2) - math.ceil(math.log2(largest)))
            scores = jax.tree.map(lambda s: s * scale, scores)
        narrow = jax.tree.map(lambda s, d: np.asarray(s).astype(d), scores, dtypes)
    return jax.tree.map(jnp.asarray, narrow)


def _synflow(forward: Any, rule: Any, params: Any, x: jax.Array) -> Any:
    positive = jax.tree.map(jnp.abs, params)
    chosen = masks_lib.prunable(positive, rule)
    put = _on(chosen, positive)
    g = jax.grad(lambda z: forward(put(z), x).sum())(chosen)
    return jax.tree.map(jnp.multiply, chosen, g)


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    with jax.default_device(jax.local_devices(backend="cpu")[0]), jax.enable_x64(True):
        yield


def _doubled(*trees: Any) -> Any:
    """Trees with their floating-point leaves in float64, on the CPU."""

    def double(x):
        x = np.asarray(x)
        return jnp.asarray(x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x)

    return jax.tree.map(double, trees)


def _refuse_overflow(scores: Any) -> None:
    for path, s in jax.tree_util.tree_flatten_with_path(scores)[0]:
        if not bool(jnp.isfinite(s).all()):
            raise ValueError(
                f"SynFlow's scores of {masks_lib.path_name(path)} are beyond the range of the "
                "dtype in which forward computes"
            )


def synflow_masks(
    forward: Callable[..., jax.Array],
    params: Any,
    x: jax.Array,
    density: float,
    rounds: int = 100,
    rule: masks_lib.Rule | None = None,
    *,
    min_keep: int = 0,
) -> Any:
    r"""Iterative SynFlow: density :math:`\rho^{r/R}` in round r, scores anew on the masked net.

    Args:
      forward, params, x, rule: See :func:`synflow`.
      density: Final density :math:`\rho`, in (0, 1].
      rounds: :math:`R`; the paper's 100. One compiled round serves them all.
      min_keep: Least number of weights that every layer keeps, >= 0.

    Returns:
      Boolean masks, ``None`` where nothing is pruned.

    Raises:
      ValueError: On a value outside its range, and as :func:`synflow`. A layer that is left
        without a weight is a warning.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> params = {"w": jnp.array([[1.0, -2.0]])}
      >>> bilevel.criteria.synflow_masks(lambda p, x: x @ p["w"], params, jnp.ones((1, 1)), 0.5, 3)
      {'w': Array([[False,  True]], dtype=bool)}
    """
    chosen, cut = masks_lib.prunable(params, rule), masks_lib.Cut(min_keep=min_keep)
    densities = density_lib.exponential(density, rounds)
    counts = [masks_lib.drop_counts(chosen, d, cut) for d in densities]

    @jax.jit
    def one_round(masks, params, x, drop):
        scores = _synflow(forward, rule, masks_lib.apply(masks, params), x)
        return masks_lib.from_counts(scores, drop, cut), scores

    with _float64():
        wide, ones = _doubled(params, x)
        masks: Any = jax.tree.map(jnp.asarray, jax.device_get(masks_lib.ones(params, rule)))
        scores: Any = None
        for drop in counts:
            masks, scores = one_round(masks, wide, ones, np.int32(drop))
        _refuse_overflow(scores)
        found = jax.device_get(masks)
    masks = jax.tree.map(jnp.asarray, found)
    masks_lib.warn(masks)
    return masks
