"""Scores that say which weights matter. In every one of them the larger score is kept."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bilevel.pruning import density as density_lib
from bilevel.pruning import masks as masks_lib
from bilevel.pruning._zo_grasp import zo_grasp

__all__ = ["grasp", "magnitude", "popup", "random", "snip", "synflow", "synflow_masks", "zo_grasp"]


def _on(chosen: Any, params: Any) -> Callable[[Any], Any]:
    """A function that puts the prunable leaves back among the others."""
    return lambda z: masks_lib.map_leaves(lambda new, x: x if new is None else new, z, params)


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

    Example:
      >>> import jax, jax.numpy as jnp, bilevel
      >>> bilevel.criteria.random(jax.random.key(0), {"w": jnp.ones((2, 3))})["w"].shape
      (2, 3)
    """
    leaves, treedef = jax.tree.flatten(masks_lib.prunable(params, rule))
    keys = jax.random.split(key, len(leaves))
    # Never 0, so that a score of 0 always means pruned.
    draws = [1 - jax.random.uniform(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, draws)


def popup(params: Any, rule: masks_lib.Rule | None = None) -> Any:
    r"""Initial popup scores of Hydra: :math:`\sqrt{6/\text{fan}_{in}}\;\theta / \max|\theta|`.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.criteria.popup({"w": jnp.array([[1.0, -2.0], [0.0, 2.0], [1.0, 1.0]])})["w"][0]
      Array([ 0.7071..., -1.41421...], dtype=float32)

    References:
      Sehwag et al., HYDRA: Pruning Adversarially Robust Neural Networks, NeurIPS 2020.
    """

    def one(w):
        fan_in = w.size // w.shape[-1]
        return jnp.sqrt(6 / fan_in).astype(w.dtype) * w / jnp.max(jnp.abs(w))

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
    raw = jax.tree.map(lambda w, g: jnp.abs(w * g), chosen, g)
    total = sum(x.sum() for x in jax.tree.leaves(raw))
    return jax.tree.map(lambda x: x / total, raw)


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
    chosen = masks_lib.prunable(params, rule)
    put = _on(chosen, params)
    gradient = jax.grad(lambda z: sum(loss(put(z), b) for b in batches))
    g = gradient(chosen)
    _, hg = jax.jvp(gradient, (chosen,), (g,))
    raw = jax.tree.map(jnp.multiply, chosen, hg)
    total = jnp.abs(sum(x.sum() for x in jax.tree.leaves(raw)))
    return jax.tree.map(lambda x: x / (total + 1e-10), raw)


def synflow(
    forward: Callable[..., jax.Array], params: Any, x: jax.Array, rule: masks_lib.Rule | None = None
) -> Any:
    r"""SynFlow: :math:`s = |\theta| \odot \partial R / \partial|\theta|`, without data.

    .. math::
      R = \mathbb{1}^\top f_{|\theta|}(x), \qquad x = \mathbb{1}

    Args:
      forward: ``forward(params, x) -> logits``, in evaluation mode.
      params: Every array the forward pass reads (biases and BatchNorm statistics too): all are
        replaced by their magnitudes, as in the authors' code.
      x: Ones of the input's shape, with a batch of one.
      rule: Which leaves are prunable; see :func:`bilevel.masks.prunable`.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> params = {"w": jnp.array([[1.0, -2.0]])}
      >>> bilevel.criteria.synflow(lambda p, x: x @ p["w"], params, jnp.ones((1, 1)))
      {'w': Array([[1., 2.]], dtype=float32)}

    References:
      Tanaka et al., Pruning neural networks without any data, NeurIPS 2020.
    """
    positive = jax.tree.map(jnp.abs, params)
    chosen = masks_lib.prunable(positive, rule)
    put = _on(chosen, positive)
    g = jax.grad(lambda z: forward(put(z), x).sum())(chosen)
    return jax.tree.map(jnp.multiply, chosen, g)


def synflow_masks(
    forward: Callable[..., jax.Array],
    params: Any,
    x: jax.Array,
    density: float,
    rounds: int = 100,
    rule: masks_lib.Rule | None = None,
) -> Any:
    r"""Iterative SynFlow: density :math:`\rho^{r/R}` in round r, scores anew on the masked net.

    Args:
      forward, params, x, rule: See :func:`synflow`.
      density: Final density :math:`\rho`, in (0, 1].
      rounds: :math:`R`; the paper's 100. One compiled round serves them all.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> params = {"w": jnp.array([[1.0, -2.0]])}
      >>> bilevel.criteria.synflow_masks(lambda p, x: x @ p["w"], params, jnp.ones((1, 1)), 0.5, 3)
      {'w': Array([[False,  True]], dtype=bool)}
    """
    chosen = masks_lib.prunable(params, rule)
    counts = [masks_lib.drop_counts(chosen, d) for d in density_lib.exponential(density, rounds)]

    @jax.jit
    def one_round(masks, drop):
        scores = synflow(forward, masks_lib.apply(masks, params), x, rule)
        return masks_lib.from_counts(scores, drop)

    masks = masks_lib.ones(params, rule)
    for drop in counts:
        masks = one_round(masks, drop)
    return masks
