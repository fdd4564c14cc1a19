r"""The convex functions :math:`\mathcal K` of Lion-K: value, gradient, conjugate, implied problem.

Lion-K with decay :math:`\lambda` minimizes :math:`f(x) + \tfrac1\lambda\mathcal K^*(\lambda x)`
(:func:`optim.lion_k`), so the choice of :math:`\mathcal K` is the choice of a regularizer or of a
constraint set:

=================  ===========================================  ==================================
kappa              gradient                                     problem solved
=================  ===========================================  ==================================
``l1``             sign(c)                                      f, every abs(x_i) <= 1/λ
``l2_squared``     c                                            f + λ/2 ‖x‖²
``l2``             c/‖c‖                                        f, ‖x‖ <= 1/λ
``lp(p)``          sign(c) (abs(c)/‖c‖_p)^(p-1)                 f, ‖x‖_q <= 1/λ, 1/p + 1/q = 1
``group_l2``       c_G/‖c_G‖                                    f, every ‖x_G‖ <= 1/λ
``huber(e)``       clip(c/e, -1, 1)                             f + λe/2 ‖x‖², abs(x_i) <= 1/λ
``dead_zone(e)``   sign(c) where abs(c) > e, else 0             f + e‖x‖₁, abs(x_i) <= 1/λ
``top_k(k)``       sign(c) on the k largest abs(c)              f, ‖x‖₁ <= k/λ, abs(x_i) <= 1/λ
``spectral()``     matrix sign U Vᵀ of c = U S Vᵀ               f, every singular value <= 1/λ
=================  ===========================================  ==================================

Each kappa takes one leaf as one vector (``spectral``: one matrix). :func:`over_tree` makes it act
on all leaves as one vector, :func:`over_axis` on every row or column separately; ``group_l2`` is
``over_axis(l2, -1)``, and a stack of matrices takes ``stacked(spectral())``. A kappa of your own is
a :class:`Kappa` of three functions.
"""

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optim import _checks, _paths, _trees

__all__ = [
    "Kappa",
    "dead_zone",
    "group_l2",
    "huber",
    "l1",
    "l2",
    "l2_squared",
    "lp",
    "over_axis",
    "over_tree",
    "spectral",
    "stacked",
    "top_k",
]


class Kappa(NamedTuple):
    r"""A convex, even function with its gradient and its conjugate, each of one pytree.

    Attributes:
      name: Name with its parameters.
      value: :math:`c \mapsto \mathcal K(c)`, a scalar.
      grad: :math:`c \mapsto \nabla\mathcal K(c)`, a subgradient where it has a kink.
      conjugate: :math:`y \mapsto \mathcal K^*(y)`, infinite outside its domain.
      problem: What :func:`optim.lion_k` solves with it, ``lam`` being the weight decay.
      joint: Whether it takes all leaves of a tree as one vector, not each leaf by itself.
    """

    name: str
    value: Callable[[Any], jax.Array]
    grad: Callable[[Any], Any]
    conjugate: Callable[[Any], jax.Array]
    problem: str
    joint: bool = False


def _sum(f: Callable[[jax.Array], jax.Array], tree: Any) -> jax.Array:
    return _total([jnp.sum(f(c)) for c in jax.tree.leaves(tree)])


def _total(parts: list[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, parts) if parts else jnp.zeros(())


def _anywhere(kappa: "Kappa") -> "Kappa":
    """Returns ``kappa`` for leaves that are sharded over explicit axes of a mesh, too."""
    value, grad, conjugate = map(_trees.on_auto_axes, (kappa.value, kappa.grad, kappa.conjugate))
    return kappa._replace(value=value, grad=grad, conjugate=conjugate)


def _max_abs(tree: Any) -> jax.Array:
    largest = [jnp.max(jnp.abs(c), initial=0.0) for c in jax.tree.leaves(tree)]
    return jnp.max(jnp.stack([*largest, jnp.zeros((), jnp.result_type(*largest, 0.0))]))


def _indicator(x: jax.Array, bound: float) -> jax.Array:
    # Iterates end on the boundary: let them be outside of it by rounding.
    slack = 1 + 64 * jnp.finfo(x.dtype).eps
    return jnp.where(x <= bound * slack, 0.0, jnp.inf).astype(x.dtype)


def _elementwise(name, value, grad, conjugate, problem, box=True):
    return Kappa(
        name,
        value=partial(_sum, value),
        grad=partial(jax.tree.map, grad),
        conjugate=lambda y: _sum(conjugate, y) + (_indicator(_max_abs(y), 1.0) if box else 0.0),
        problem=problem,
    )


l1 = _elementwise("l1", jnp.abs, jnp.sign, jnp.zeros_like, "min f(x), every |x_i| <= 1/lam")

l2_squared = _elementwise(
    "l2_squared",
    lambda c: jnp.square(c) / 2,
    lambda c: c,
    lambda y: jnp.square(y) / 2,
    "min f(x) + lam/2 |x|^2",
    box=False,
)


def huber(e: float) -> Kappa:
    r"""Returns the Huber function: quadratic below its threshold, linear above.

    .. math::
      \mathcal K(c) = \textstyle\sum_i h(c_i), \qquad
      h(c) = \tfrac{c^2}{2e} \text{ where } |c| \le e \text{, else } |c| - \tfrac e2

    Args:
      e: Threshold > 0, in the units of the momentum.

    Returns:
      The kappa.

    Raises:
      ValueError: If ``e`` is not > 0.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> optim.kappas.huber(0.5).grad(jnp.array([0.25, -3.0]))
      Array([ 0.5, -1. ], dtype=float32)
    """
    _positive("e", e)
    shown = _shown(e, "e")
    return _elementwise(
        f"huber({shown})",
        lambda c: jnp.where(jnp.abs(c) <= e, jnp.square(c) / (2 * e), jnp.abs(c) - e / 2),
        lambda c: jnp.clip(c / e, -1.0, 1.0),
        lambda y: e / 2 * jnp.square(y),
        f"min f(x) + {shown} lam/2 |x|^2, every |x_i| <= 1/lam",
    )


def dead_zone(e: float) -> Kappa:
    r"""Returns :math:`\sum_i\max(|c_i| - e, 0)`: entries up to the threshold do not move.

    Args:
      e: Threshold >= 0, in the units of the momentum.

    Returns:
      The kappa.

    Raises:
      ValueError: If ``e`` is negative.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> optim.kappas.dead_zone(0.5).grad(jnp.array([0.25, -3.0]))
      Array([ 0., -1.], dtype=float32)
    """
    _checks.number("e", e, 0)
    shown = _shown(e, "e")
    return _elementwise(
        f"dead_zone({shown})",
        lambda c: jnp.maximum(jnp.abs(c) - e, 0.0),
        lambda c: jnp.where(jnp.abs(c) <= e, jnp.zeros_like(c), jnp.sign(c)),  # NaN stays.
        lambda y: e * jnp.abs(y),
        f"min f(x) + {shown} |x|_1, every |x_i| <= 1/lam",
    )


def _shown(number: Any, letter: str) -> str:
    """A number in a name; a traced one is a letter."""
    return letter if isinstance(number, jax.core.Tracer) else f"{float(number):g}"


def _norm(tree: Any, p: float) -> jax.Array:
    # Divided by the largest entry first, so that squares of small entries do not vanish.
    largest = _max_abs(tree)
    scale = jnp.where(largest > 0, largest, 1.0)
    total = _sum(lambda c: _power(jnp.abs(c) / scale, p), tree)
    return scale * _power(total, 1 / p)


def _power(x: jax.Array, p: float) -> jax.Array:
    if not isinstance(p, jax.core.Tracer) and float(p).is_integer():
        return x ** int(p)
    return jnp.where(x == 0, 0.0, jnp.where(x == 0, 1.0, x) ** p)  # The derivative at 0 is 0.


def lp(p: float) -> Kappa:
    r"""Returns the norm :math:`\|c\|_p`.

    Args:
      p: Order of the norm, in (1, inf).

    Returns:
      The kappa.

    Raises:
      ValueError: If ``p`` is out of its range.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> optim.kappas.lp(2).grad(jnp.array([3.0, -4.0]))
      Array([ 0.6, -0.8], dtype=float32)
    """
    _checks.number("p", p, 1, open_low=True)
    q = p / (p - 1)

    def grad(tree):
        norm = _norm(tree, p)
        norm = jnp.where(norm > 0, norm, 1.0)
        return jax.tree.map(lambda c: jnp.sign(c) * _power(jnp.abs(c) / norm, p - 1), tree)

    return Kappa(
        f"lp({_shown(p, 'p')})",
        value=partial(_norm, p=p),
        grad=grad,
        conjugate=lambda y: _indicator(_norm(y, q), 1.0),
        problem=f"min f(x), |x|_{_shown(q, 'q')} <= 1/lam",
    )


l2 = lp(2)._replace(name="l2")


def top_k(k: int) -> Kappa:
    """Returns the sum of the ``k`` largest absolute entries.

    ``top_k(1)`` is the maximum norm: its problem is the ball of the 1-norm.

    Args:
      k: Number of entries >= 1 of a leaf that move; of equal ones the first.

    Returns:
      The kappa.

    Raises:
      ValueError: If ``k`` is no integer >= 1.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> optim.kappas.top_k(1).grad(jnp.array([0.25, -3.0]))
      Array([ 0., -1.], dtype=float32)
    """
    _checks.count("k", k)

    def flat(tree):
        leaves = jax.tree.leaves(tree) or [jnp.zeros(0)]
        return jnp.concatenate([jnp.ravel(c) for c in leaves]) if len(leaves) > 1 else leaves[0]

    def grad(tree):
        vector, treedef = jnp.ravel(flat(tree)), jax.tree.structure(tree)
        _, chosen = jax.lax.top_k(jnp.abs(vector), min(k, vector.size))
        signs = jnp.zeros_like(vector).at[chosen].set(jnp.sign(vector[chosen]))
        leaves, start = [], 0
        for c in jax.tree.leaves(tree):
            leaves.append(signs[start : start + c.size].reshape(c.shape).astype(c.dtype))
            start += c.size
        return treedef.unflatten(leaves)

    def value(tree):
        vector = jnp.abs(jnp.ravel(flat(tree)))
        return jnp.sum(jax.lax.top_k(vector, min(k, vector.size))[0])

    kappa = Kappa(
        f"top_k({k})",
        value=value,
        grad=grad,
        conjugate=lambda y: _indicator(_max_abs(y), 1.0) + _indicator(_sum(jnp.abs, y), float(k)),
        problem=f"min f(x), |x|_1 <= {k}/lam, every |x_i| <= 1/lam",
    )
    return _anywhere(kappa)


def spectral(method: str = "newton_schulz", steps: int = 5, dimension_numbers: Any = None) -> Kappa:
    r"""Returns the nuclear norm: its gradient is the matrix sign, its ball bounds singular values.

    .. math::
      \mathcal K(C) = \textstyle\sum_i s_i(C), \qquad \nabla\mathcal K(C) = U V^\top
      \quad (C = U S V^\top)

    With it Lion-K is Muon's update with Lion's momentum and decay: f is minimized subject to
    :math:`\|X\|_{op}\le1/\lambda`. A leaf is one matrix, all axes but the last by the last (of
    (in, heads, head_dim) with in = heads * head_dim the first by the two last), unless
    ``dimension_numbers`` say otherwise; a vector is one column and is normalized.

    Args:
      method: ``'svd'`` is exact, slow on accelerators. ``'newton_schulz'`` uses products only:
        ``steps`` of Muon's quintic polynomial, which lift small singular values quickly, and three
        of the quintic that converges to 1. With 5 steps singular values above 1e-3 of the
        Frobenius norm come out within 1e-5 of 1, smaller ones between 0 and 1.
      steps: Number of lifting steps, >= 0; each multiplies small singular values by about 3.4.
      dimension_numbers: How a leaf is a matrix, as for ``optax.contrib.muon``:
        ``optax.contrib.MuonDimensionNumbers``, whose ``reduction_axis`` are the rows and
        ``output_axis`` the columns; every other axis stacks matrices. For an attention's query
        (in, heads, head_dim) it is ``MuonDimensionNumbers(0, (1, 2))``. Or a function of the leaf
        that returns them, or ``None`` for the usual matrix.

    Returns:
      The kappa. Value and conjugate always use the singular values.

    Raises:
      ValueError: If ``method`` is unknown, ``steps`` negative, or ``dimension_numbers`` do not fit
        a leaf.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> optim.kappas.spectral("svd").grad(jnp.array([[3.0, 0.0], [0.0, -2.0]])).round(2) + 0.0
      Array([[ 1.,  0.],
             [ 0., -1.]], dtype=float32)

    References:
      Jordan et al., Muon, 2024, https://kellerjordan.github.io/posts/muon/
    """
    _checks.choice("method", method, ["newton_schulz", "svd"])
    _checks.count("steps", steps, 0)
    sign = _matrix_sign if method == "svd" else partial(_newton_schulz, steps=steps)

    def singular_values(c):
        (wide,) = _trees.widen(c)
        return jnp.linalg.svd(_matrices(wide, dimension_numbers)[0], compute_uv=False)

    def conjugate(y):
        return _indicator(_max_abs(jax.tree.map(singular_values, y)), 1.0)

    def grad(c):
        if not c.size:
            return c
        (wide,) = _trees.widen(c)
        matrices, restore = _matrices(wide, dimension_numbers)
        return restore(jax.vmap(sign)(matrices)).astype(c.dtype)

    kappa = Kappa(
        f"spectral({method})",
        value=partial(_sum, singular_values),
        grad=partial(jax.tree.map, grad),
        conjugate=conjugate,
        problem="min f(x), every singular value of x <= 1/lam",
    )
    return _anywhere(kappa)


def _matrices(c: jax.Array, numbers: Any) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Returns a leaf as a stack of matrices, and the way back."""
    numbers = numbers(c) if callable(numbers) else numbers
    if numbers is None or c.ndim < 2:
        outputs = () if c.ndim < 2 else _paths.output_axes((), c.shape)
        columns = math.prod(c.shape[a] for a in outputs)
        return c.reshape(1, -1, columns), lambda x: x.reshape(c.shape)

    def axes(given):
        given = (given,) if isinstance(given, int) else tuple(given)
        return tuple(a + c.ndim if a < 0 else a for a in given)

    rows, columns = axes(numbers.reduction_axis), axes(numbers.output_axis)
    named = (*rows, *columns)
    if not rows or not columns or len({*named} & {*range(c.ndim)}) < len(named):
        raise ValueError(
            f"dimension_numbers must name axes of a leaf of shape {c.shape}, each at most once, "
            f"got {numbers}"
        )
    order = (*(a for a in range(c.ndim) if a not in named), *named)
    turned = c.transpose(order)
    height, width = (math.prod(c.shape[a] for a in group) for group in (rows, columns))

    def restore(x):
        return x.reshape(turned.shape).transpose(sorted(range(c.ndim), key=order.__getitem__))

    return turned.reshape(-1, height, width), restore


def _matrix_sign(c: jax.Array) -> jax.Array:
    u, s, vt = jnp.linalg.svd(c, full_matrices=False)
    # Directions without a singular value have no sign; without this a zero matrix would move.
    rank = s > s[0] * jnp.finfo(s.dtype).eps * max(c.shape)
    signs = jnp.where(rank, 1.0, 0 * s)  # NaN where a singular value is no number.
    return jnp.matmul(u * signs[None, :], vt)


def _newton_schulz(c: jax.Array, steps: int) -> jax.Array:
    x = c.T if c.shape[0] > c.shape[1] else c
    # Divided by the largest entry first, so that squares of small entries do not vanish.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
    x = x / jnp.where(largest == 0, 1.0, largest)
    norm = _trees.root(jnp.sum(jnp.square(x)))
    x = x / jnp.where(norm == 0, 1.0, norm)
    lift, settle = (3.4445, -4.7750, 2.0315), (15 / 8, -10 / 8, 3 / 8)
    for a0, a1, a2 in (lift,) * steps + (settle,) * 3:
        gram = x @ x.T
        x = a0 * x + (a1 * gram + a2 * (gram @ gram)) @ x
    return x.T if c.shape[0] > c.shape[1] else x


def over_tree(kappa: Kappa) -> Kappa:
    """Returns ``kappa`` acting on all leaves of the tree as one vector.

    Args:
      kappa: Any kappa that takes a pytree.

    Returns:
      The kappa, with ``joint`` true.

    Raises:
      ValueError: If ``kappa`` is none.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> optim.kappas.over_tree(optim.kappas.l2).grad({"a": jnp.array([3.0]), "b": jnp.array(4.0)})
      {'a': Array([0.6], dtype=float32), 'b': Array(0.8, dtype=float32)}
    """
    _check_kappa(kappa)
    return kappa._replace(name=f"over_tree({kappa.name})", joint=True)


def over_axis(kappa: Kappa, axis: int) -> Kappa:
    """Returns ``kappa`` acting on every vector along ``axis`` of every leaf by itself.

    Args:
      kappa: Any kappa of a vector.
      axis: Axis along which the vectors lie: of a matrix -1 takes the rows, 0 the columns. A leaf
        that has no such axis, or one axis, is one vector.

    Returns:
      The kappa.

    Raises:
      ValueError: If ``kappa`` is none or ``axis`` no integer.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> rows = optim.kappas.over_axis(optim.kappas.top_k(1), -1)
      >>> rows.grad(jnp.array([[1.0, -2.0], [3.0, 0.5]]))
      Array([[ 0., -1.],
             [ 1.,  0.]], dtype=float32)
    """
    _check_kappa(kappa)
    _checks.integer("axis", axis)

    def along(f, c, out):
        fits = -c.ndim <= axis < c.ndim
        if c.ndim < 2 or not fits:
            return f(c)
        for _ in range(c.ndim - 1):
            f = jax.vmap(f)
        result = f(jnp.moveaxis(c, axis, -1))
        return jnp.moveaxis(result, -1, axis) if out else jnp.sum(result)

    def total(f, tree):
        return _total([along(f, c, False) for c in jax.tree.leaves(tree)])

    on_vectors = Kappa(
        f"over_axis({kappa.name}, {axis})",
        value=partial(total, kappa.value),
        grad=partial(jax.tree.map, lambda c: along(kappa.grad, c, True)),
        conjugate=partial(total, kappa.conjugate),
        problem=f"for every vector along axis {axis}: {kappa.problem}",
    )
    return _anywhere(on_vectors)


def stacked(kappa: Kappa) -> Kappa:
    """Returns ``kappa`` acting on each slice of the first axis: scan-stacked layers.

    Args:
      kappa: Any kappa of one tensor. Leaves of fewer than two axes are taken whole.

    Returns:
      The kappa.

    Raises:
      ValueError: If ``kappa`` is none.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> optim.kappas.stacked(optim.kappas.spectral("svd")).grad(jnp.ones((3, 2, 2))).shape
      (3, 2, 2)
    """
    _check_kappa(kappa)

    def total(f, tree):
        leaves = jax.tree.leaves(tree)
        return _total([jnp.sum(jax.vmap(f)(c)) if c.ndim > 1 else f(c) for c in leaves])

    on_slices = Kappa(
        f"stacked({kappa.name})",
        value=partial(total, kappa.value),
        grad=partial(
            jax.tree.map, lambda c: jax.vmap(kappa.grad)(c) if c.ndim > 1 else kappa.grad(c)
        ),
        conjugate=partial(total, kappa.conjugate),
        problem=f"for every slice of the first axis: {kappa.problem}",
    )
    return _anywhere(on_slices)


def _check_kappa(kappa: Any) -> None:
    if not isinstance(kappa, Kappa):
        raise ValueError(f"kappa must be an optim.kappas.Kappa, got {kappa!r}")


def _positive(name: str, value: float) -> None:
    _checks.number(name, value, 0, open_low=True)


group_l2 = over_axis(l2, -1)._replace(name="group_l2", problem="min f(x), every |x_row| <= 1/lam")
