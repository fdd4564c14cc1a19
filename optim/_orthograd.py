"""OrthoGrad: gradients without their part along the weights."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optim import _checks, _trees

__all__ = ["orthograd"]


def orthograd(
    inner: optax.GradientTransformation | None = None,
    *,
    rescale: bool = True,
    eps: float = 1e-30,
    guard: float = 1e-6,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Makes the gradient of each leaf orthogonal to its weights, before any optimizer.

    .. math::
      g_\perp = g - \frac{\langle w, g\rangle}{\langle w, w\rangle + \epsilon}\, w, \qquad
      g \leftarrow \frac{\|g\|}{\|g_\perp\| + \epsilon}\, g_\perp

    Along the weights lies the direction in which a network that classifies all examples lowers its
    loss by scaling its logits alone; without it the weights go on to change their function.

    ``orthograd(optax.adamw(1e-3))`` and ``optax.chain(orthograd(), optax.adamw(1e-3))`` are the
    same. Where g is parallel to w nothing is left but rounding errors, which the second step would
    blow up to the norm of g: with :math:`\|g_\perp\| \le` ``guard`` :math:`\|g\|` the result is 0.
    So **a leaf of one element never moves**; leave such leaves out by ``mask``.

    Args:
      inner: Any optimizer, which then sees the projected gradients; ``None`` for the
        transformation alone.
      rescale: Whether the projected gradient gets the norm of the gradient, as in the authors'
        code, which has no other choice.
      eps: :math:`\epsilon \ge 0`. Of weights whose squared norm lies far below it nothing is
        removed.
      guard: Share of the gradient, in [0, 1), that must be left; 0 gives the authors' code.
      mask: Which leaves are projected: a tree of bools (a prefix will do), a function of the
        parameters that returns one, or one of (path, leaf), such as
        :func:`optim.is_hidden_matrix`. All of them if ``None``.

    Returns:
      The transformation; its state is that of ``inner``, none without it. ``update`` needs
      ``params``.

    Raises:
      ValueError: If an argument is out of its range, a leaf is complex or ``params`` is missing.

    Notes:
      The authors' optimizer projects before it calls a closure, whose gradients then are not
      projected, and arguments given to it after ``load_state_dict`` do not reach its base
      optimizer. There is nothing of this kind here.

    Example:
      >>> import jax.numpy as jnp, optax, optim
      >>> tx = optim.orthograd(optax.sgd(1.0))
      >>> w, g = jnp.array([2.0, 0.0]), jnp.array([3.0, 4.0])
      >>> tx.update(g, tx.init(w), w)[0] + 0.0  # As long as g, and orthogonal to w.
      Array([ 0., -5.], dtype=float32)

    References:
      Prieto et al., Grokking at the Edge of Numerical Stability, 2025,
      https://arxiv.org/abs/2501.04697
    """
    if inner is not None:
        _checks.transform("inner", inner)
    _checks.flag("rescale", rescale)
    _checks.number("eps", eps, 0)
    _checks.number("guard", guard, 0, 1, open_high=True)
    inner = optax.with_extra_args_support(optax.identity() if inner is None else inner)

    def init_fn(params):
        _trees.resolve_mask(mask, params)
        return inner.init(params)

    def update_fn(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError(_checks.NO_PARAMS)

        def project(path, g, w, projects):
            _trees.check_gradient(path, g, w)
            if not projects:
                return (g,)
            dtype = jnp.result_type(g)
            g, w = _trees.widen(g, w)
            # In units of a power of two near the largest entry: no square overflows or vanishes.
            _, exponent = jnp.frexp(jax.lax.stop_gradient(jnp.max(jnp.abs(g), initial=0.0)))
            unit = jnp.ldexp(jnp.ones([], g.dtype), exponent - 1)
            g = g / unit
            left = g - jnp.sum(w * g) / (jnp.sum(w * w) + eps) * w
            norm, norm_left = (_trees.root(jnp.sum(x * x)) for x in (g, left))
            nothing = norm_left <= guard * norm
            if rescale:
                left = left * (norm / (jnp.where(nothing, 1.0, norm_left) + eps))
            return ((unit * jnp.where(nothing, 0.0, left)).astype(dtype),)

        masks = _trees.resolve_mask(mask, params)
        (projected,) = _trees.map_unzip(project, 1, updates, params, masks)
        return inner.update(projected, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
