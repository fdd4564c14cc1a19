r"""Subspaces of a tensor for :func:`optim.frugal`: choose one, project onto it, come back.

A subspace of the space of a tensor's gradients :math:`G` is given by three functions: ``select``
draws a basis :math:`B`, ``down`` gives the coordinates :math:`D = P_B G` and ``up`` embeds them,
:math:`P_B^\top D`. The rows of :math:`P_B` are orthonormal.

================================  =================================  ==========================
subspace                          kept                               basis in the state
================================  =================================  ==========================
``block(order)``                  whole tensors                      one bool per tensor
``columns()``, ``rows()``         ``int(size * density)`` of them    the indices
``randk()``                       ``int(total * density)`` entries   the indices (4 bytes each)
``svd(side)``                     leading singular directions        a matrix
``random_orthogonal(side)``       random orthonormal directions      a matrix
``randperm(side)``                random rows, columns or both       the indices
================================  =================================  ==========================

A user's own subspace is a :class:`Subspace` of three functions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optim import _checks

__all__ = [
    "Block",
    "Subspace",
    "block",
    "by_name",
    "columns",
    "randk",
    "random_orthogonal",
    "randperm",
    "rows",
    "svd",
]

ORDERS = ("random", "ascending", "descending", "mirror", "gauss_southwell", "lipschitz")
SIDES = ("std", "reverse_std", "left", "right", "full")


class Subspace(NamedTuple):
    """A subspace of one tensor.

    Attributes:
      select: ``select(key, grad, *, density, step, path) -> basis``: a basis for the interval that
        begins at ``step`` (int32 scalar, traced). ``key`` depends on seed, step and path alone;
        ``path`` is the leaf's path as a string. The basis is a pytree of arrays of static shapes.
      down: ``down(full, basis) -> low``.
      up: ``up(low, basis, shape) -> full``, zero outside of the subspace.
      merge: ``merge(low, basis, full) -> full`` with the coordinates in the subspace replaced by
        ``low``. Only where the subspace is spanned by entries of the tensor; it saves a pass.
      matrix: Whether tensors of more than two axes are to be reshaped to matrices first.
    """

    select: Callable[..., Any]
    down: Callable[[jax.Array, Any], jax.Array]
    up: Callable[[jax.Array, Any, tuple[int, ...]], jax.Array]
    merge: Callable[[jax.Array, Any, jax.Array], jax.Array] | None = None
    matrix: bool = False


class Block(NamedTuple):
    """Whole tensors: which of them are state-full is decided for all at once.

    Attributes:
      order: As in :func:`block`.
      stratify: As in :func:`block`.
      authors: As in :func:`block`.
      lipschitz: As in :func:`block`.
      norm: As in :func:`block`.
    """

    order: str | Callable[..., jax.Array]
    stratify: bool
    authors: bool = False
    lipschitz: Any = None
    norm: int = 2


def share(size: int, density: float, rounded: Callable[[float], int], authors: bool) -> int:
    """How many of ``size`` are kept: at least one at a positive density, unless as the authors."""
    k = rounded(size * density)
    return k if authors or density == 0 else min(max(k, 1), size)


class Space(NamedTuple):
    """A subspace of all projectable leaves together, as :func:`optim.frugal` uses it.

    Attributes:
      select: ``select(key, interval, step, grads) -> basis``.
      down: ``down(leaves, basis) -> low``, coordinates in the subspace.
      update: ``update(directions, low, basis, grads)``: the directions of ``low`` embedded, plus
        the state-free rule on what ``low`` leaves of the gradients.
      owners: ``owners(leaves)``: for each array of ``low`` the list of leaves it serves.
      idle: ``idle(leaves, low)``: paths of the leaves that never have a part in ``low``.
      inner: The state-full direction on ``low``.
    """

    select: Callable[..., Any]
    down: Callable[[Any, Any], Any]
    update: Callable[..., Any]
    owners: Callable[[Any], Any]
    idle: Callable[[Any, Any], list[str]]
    inner: optax.GradientTransformationExtraArgs


def block(
    order: str | Callable[..., jax.Array] = "random",
    *,
    stratify: bool = True,
    authors: bool = False,
    lipschitz: Any = None,
    norm: int = 2,
) -> Block:
    r"""A fraction of the tensors is state-full, the others are state-free.

    Of :math:`n` projectable tensors, in the order of their paths (numbers in them compare as
    numbers), :math:`k = \mathrm{round}(\rho n)` are active (Python's ``round``: half to even), at
    least one if :math:`\rho > 0`. In the interval :math:`u = 0, 1, \dots` these are, for
    :math:`i < k`,

    .. math::
      (uk + i) \bmod n, \qquad (n - 1 - uk - i) \bmod n, \qquad
      \{j, n - 1 - j\}\ \text{with}\ j = (u \tfrac k2 + i) \bmod \lfloor \tfrac n2 \rfloor,\
      i < \tfrac k2

    for ``"ascending"``, ``"descending"`` and ``"mirror"``, which needs an even :math:`k` and never
    takes the middle tensor of an odd :math:`n`. ``"gauss_southwell"`` is greedy: the k tensors with
    the largest gradients at the change,

    .. math::
      \|g_b\| \qquad \text{or, with constants } L_b, \qquad \|g_b\| / \sqrt{L_b},

    of equal ones the first (rules GS and GSL of block coordinate descent). ``"lipschitz"`` draws
    them one after another with probabilities in proportion to :math:`L_b`.

    Args:
      order: ``"random"``, ``"ascending"``, ``"descending"``, ``"mirror"``, ``"gauss_southwell"``,
        ``"lipschitz"``, or a function ``order(u, n, k, key) -> int array [k]`` of the active
        positions in interval ``u``.
      stratify: With ``"random"``, draw within classes of tensors of the same shape, of which each
        gets its share of ``k`` (by largest remainder; classes whose share is below one tensor are
        one pool; a pool gives at least one). So the state has the same size whatever is drawn. The
        authors draw from all tensors (``False``): the state must then hold the ``k`` largest ones.
      authors: Whether :math:`k` may round to 0, as in the authors' code: a quarter of two tensors
        is none.
      lipschitz: Constants :math:`L_b > 0` of the tensors, for the last two orders: a sequence of n
        numbers in the order of the paths, or a function ``lipschitz(path, shape) -> number`` of the
        leaf's path, joined by slashes, and the tensor's shape.
      norm: 2, the paper's; or 1, as in the code of its authors, whose ``"gauss_southwell"`` sums
        absolute values.

    Returns:
      The choice of tensors, a :class:`Block`.

    Raises:
      ValueError: If ``order`` is neither a function nor one of these names, ``"lipschitz"`` has no
        constants, another order has some, ``norm`` is neither 1 nor 2, or a flag is no bool.

    Example:
      >>> import optim
      >>> optim.subspaces.block("descending").order
      'descending'

    References:
      Luo et al., `BAdam <https://arxiv.org/abs/2404.02827>`_, 2024, for the idea;
      Nutini, Laradji & Schmidt, `Let's Make Block Coordinate Descent Converge Faster
      <https://arxiv.org/abs/1712.08859>`_, 2017, for the greedy rules
    """
    if not callable(order):
        _checks.choice("order", order, ORDERS, "a function")
    if order == "lipschitz" and lipschitz is None:
        raise ValueError("lipschitz must be given for order='lipschitz'")
    if order not in ("gauss_southwell", "lipschitz") and lipschitz is not None:
        raise ValueError(
            f"lipschitz must be None but for the orders gauss_southwell and lipschitz, got "
            f"order={order!r}"
        )
    if lipschitz is not None and not callable(lipschitz):
        lipschitz = np.asarray(lipschitz)
        _checks.number("lipschitz", lipschitz, 0, open_low=True, array=True)
    if norm not in (1, 2):
        raise ValueError(f"norm must be 1 or 2, got {norm!r}")
    _checks.flag("stratify", stratify)
    _checks.flag("authors", authors)
    return Block(order, stratify, authors, lipschitz, norm)


def _along(index: jax.Array, like: jax.Array, axis: int) -> jax.Array:
    # Index array with the shape of ``like`` but for ``axis``. XLA:CPU compiles this gather of
    # single entries to a vector loop; a gather of whole columns becomes two transposes.
    shape = [1] * like.ndim
    shape[axis] = index.shape[0]
    full = list(like.shape)
    full[axis] = index.shape[0]
    return jnp.broadcast_to(index.reshape(shape), full)


def _gather(full: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    where = (slice(None),) * (axis % full.ndim) + (index,)
    return jnp.asarray(full).at[where].get(mode="promise_in_bounds")


def _put(low: jax.Array, index: jax.Array, full: jax.Array, axis: int) -> jax.Array:
    # full[..., index, ...] = low as an elementwise function of ``full``: a scatter would need a
    # second array of its size.
    if not index.size:
        return full
    slot = jnp.full((full.shape[axis],), -1, jnp.int32)
    slot = slot.at[index].set(
        jnp.arange(index.shape[0], dtype=jnp.int32), unique_indices=True, mode="promise_in_bounds"
    )
    kept = _gather(low, jnp.maximum(slot, 0), axis)
    return jnp.where(_along(slot >= 0, full, axis), kept, full)


def _drawn(key: jax.Array, size: int, k: int) -> jax.Array:
    # Sorted, for the locality of the gathers; the order of the coordinates has no meaning.
    return jnp.sort(jax.random.permutation(key, jnp.arange(size, dtype=jnp.int32))[:k])


def _slices(axis: int, authors: bool) -> Subspace:
    _checks.integer("axis", axis)
    _checks.flag("authors", authors)

    def select(key, grad, *, density, step, path):
        shape = _matrix(grad, path).shape
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"axis must be one of {path} of shape {shape}, got {axis}")
        size = shape[axis]
        return _drawn(key, size, share(size, density, int, authors))

    def merge(low, basis, full):
        return _put(low, basis, full, axis)

    return Subspace(
        select,
        lambda full, basis: _gather(full, basis, axis),
        lambda low, basis, shape: merge(low, basis, jnp.zeros(shape, low.dtype)),
        merge,
    )


def columns(axis: int = -2, *, authors: bool = False) -> Subspace:
    """``int(size * density)`` random input features, at least one if the density is positive.

    Columns and rows are those of the authors, whose weights are (out, in). In JAX's layout, (in,
    out), their columns lie along axis -2, and each is contiguous in memory. Rows, along the last
    axis, are not, and cost more: ``results/frugal_cpu.md``.

    Args:
      axis: Along which to draw; -1 for weights stored as (out, in). Axes before the last two
        (convolution taps) are kept whole.
      authors: Whether the number may round to 0, as in the authors' code.

    Returns:
      The :class:`Subspace`; its basis are int32 indices [k].

    Raises:
      ValueError: If ``axis`` is no integer or ``authors`` no bool; at init, if a leaf has no such
        axis.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> s = optim.subspaces.columns()
      >>> g = jnp.arange(8.0).reshape(4, 2)
      >>> b = s.select(jax.random.key(0), g, density=0.5, step=0, path="w")
      >>> s.down(g, b).shape, s.up(s.down(g, b), b, g.shape).shape
      ((2, 2), (4, 2))
    """
    return _slices(axis, authors)


def rows(axis: int = -1, *, authors: bool = False) -> Subspace:
    """``int(size * density)`` random output features, at least one; see :func:`columns`.

    Args:
      axis: Along which to draw; -2 for weights stored as (out, in).
      authors: Whether the number may round to 0, as in the authors' code.

    Returns:
      The :class:`Subspace`; its basis are int32 indices [k].

    Raises:
      ValueError: As :func:`columns`.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> s, g = optim.subspaces.rows(), jnp.zeros((6, 4))
      >>> basis = jax.eval_shape(lambda k: s.select(k, g, density=0.5, step=0, path="w"),
      ...   jax.random.key(0))
      >>> jax.eval_shape(s.down, g, basis).shape
      (6, 2)
    """
    return _slices(axis, authors)


def randk(*, authors: bool = False) -> Subspace:
    """``int(m * n * density)`` random entries of a matrix, independent for every tensor.

    For tensors of more than two axes the pairs of the last two axes are drawn, with everything
    before them (convolution taps) kept whole. The indices are part of the state: 4 bytes for each
    kept entry, beside the moments. At least one is kept if the density is positive.

    Args:
      authors: Whether the number may round to 0, as in the authors' code.

    Returns:
      The :class:`Subspace`; its basis are int32 indices [k] into the flattened last two axes.

    Raises:
      ValueError: If ``authors`` is no bool.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> s, g = optim.subspaces.randk(), jnp.zeros((6, 4))
      >>> basis = jax.eval_shape(lambda k: s.select(k, g, density=0.5, step=0, path="w"),
      ...   jax.random.key(0))
      >>> jax.eval_shape(s.down, g, basis).shape
      (12,)
    """
    _checks.flag("authors", authors)

    def flat(x):
        return x.reshape(-1, x.shape[-2] * x.shape[-1])

    def select(key, grad, *, density, step, path):
        size = flat(_matrix(grad, path)).shape[1]
        return _drawn(key, size, share(size, density, int, authors))

    def down(full, basis):
        low = flat(full).at[:, basis].get(mode="promise_in_bounds")
        return low[0] if full.ndim == 2 else low

    def merge(low, basis, full):
        put = dict(unique_indices=True, mode="promise_in_bounds")
        return (
            flat(full).at[:, basis].set(low.reshape(-1, low.shape[-1]), **put).reshape(full.shape)
        )

    return Subspace(
        select,
        down,
        lambda low, basis, shape: merge(low, basis, jnp.zeros(shape, low.dtype)),
        merge,
    )


def _matrix(grad: Any, path: str, exact: bool = False) -> Any:
    if grad.ndim < 2 or (exact and grad.ndim != 2):
        kind = "a matrix" if exact else "at least two axes"
        raise ValueError(f"this subspace needs {kind} at {path}, got shape {grad.shape}")
    return grad


def _side(shape: tuple[int, ...], side: str) -> str:
    if side in ("std", "reverse_std"):
        return "right" if (shape[0] >= shape[1]) == (side == "std") else "left"
    return side


def _rank(shape: tuple[int, ...], side: str, density: float, authors: bool) -> int:
    size = {"left": shape[0], "right": shape[1], "full": min(shape)}[side]
    return share(size, density, round, authors)


def _rotation(
    side: str, authors: bool, bases: Callable[..., tuple[jax.Array, jax.Array]]
) -> Subspace:
    # ``bases(key, grad, side, rank)`` gives (m, r) and (r, n) matrices, of which ``side`` uses one
    # or both. They are made in float32 whatever the gradient's type, as the authors do.
    _checks.choice("side", side, SIDES)
    _checks.flag("authors", authors)

    def select(key, grad, *, density, step, path):
        which = _side(_matrix(grad, path, exact=True).shape, side)
        left, right = bases(key, grad, which, _rank(grad.shape, which, density, authors))
        left, right = left.astype(grad.dtype), right.astype(grad.dtype)
        return {"left": left, "right": right, "full": (left, right)}[which]

    def down(full, basis):
        which = _side(full.shape, side)
        if which == "full":
            return basis[0].T @ full @ basis[1].T
        return full @ basis.T if which == "right" else basis.T @ full

    def up(low, basis, shape):
        which = _side(shape, side)
        if which == "full":
            return basis[0] @ low @ basis[1]
        return low @ basis if which == "right" else basis @ low

    return Subspace(select, down, up, matrix=True)


def svd(side: str = "std", *, authors: bool = False) -> Subspace:
    r"""The leading singular directions of the gradient at the change (GaLore's subspace).

    With :math:`G = U \Sigma V^\top`: side right keeps :math:`D = G V_r` of rank
    :math:`r = \mathrm{round}(\rho n)`, left :math:`D = U_r^\top G` of rank
    :math:`\mathrm{round}(\rho m)`, full :math:`U_r^\top G V_r` of rank
    :math:`\mathrm{round}(\rho \min(m, n))`, never more than :math:`\min(m, n)`, and at least 1 if
    :math:`\rho > 0`.

    Args:
      side: ``"std"`` (right if m >= n, else left: the shorter side), ``"reverse_std"``,
        ``"left"``, ``"right"`` or ``"full"``. On a square matrix ``"std"`` rotates the last axis:
        inputs in PyTorch's layout, outputs in Flax's.
      authors: Whether the rank may round to 0, as in the authors' code.

    Returns:
      The :class:`Subspace`; its basis is :math:`V_r^\top` [r, n] (right), :math:`U_r` [m, r]
      (left), or both (full).

    Raises:
      ValueError: If ``side`` is not one of these names, or ``authors`` no bool.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> s, g = optim.subspaces.svd(), jnp.zeros((6, 4))
      >>> basis = jax.eval_shape(lambda k: s.select(k, g, density=0.5, step=0, path="w"),
      ...   jax.random.key(0))
      >>> jax.eval_shape(s.down, g, basis).shape
      (6, 2)

    References:
      Zhao et al., `GaLore <https://arxiv.org/abs/2403.03507>`_, 2024
    """

    def bases(key, grad, which, rank):
        u, _, vt = jnp.linalg.svd(grad.astype(jnp.float32), full_matrices=False)
        return u[:, :rank], vt[:rank]

    return _rotation(side, authors, bases)


def random_orthogonal(side: str = "std", *, authors: bool = False) -> Subspace:
    """Random orthonormal directions, uniform: the QR decomposition of a Gaussian matrix.

    Args:
      side: As in :func:`svd`.
      authors: As in :func:`svd`.

    Returns:
      The :class:`Subspace`; its basis has the shapes of that of :func:`svd`.

    Raises:
      ValueError: As :func:`svd`.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> s, g = optim.subspaces.random_orthogonal(), jnp.zeros((6, 4))
      >>> basis = jax.eval_shape(lambda k: s.select(k, g, density=0.5, step=0, path="w"),
      ...   jax.random.key(0))
      >>> jax.eval_shape(s.down, g, basis).shape
      (6, 2)
    """

    def orthonormal(key, size, rank):
        q, r = jnp.linalg.qr(jax.random.normal(key, (size, rank), jnp.float32))
        return q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0)[None, :]

    def bases(key, grad, which, rank):
        keys = jax.random.split(key)
        return (
            orthonormal(keys[0], grad.shape[0], rank if which != "right" else 0),
            orthonormal(keys[1], grad.shape[1], rank if which != "left" else 0).T,
        )

    return _rotation(side, authors, bases)


def randperm(side: str = "std", *, authors: bool = False) -> Subspace:
    """Random columns (right), rows (left) or both (full); ``side`` and ranks as in :func:`svd`.

    The authors multiply with permutation matrices; indices give the same numbers.

    Args:
      side: As in :func:`svd`.
      authors: As in :func:`svd`.

    Returns:
      The :class:`Subspace`; its basis are int32 indices [r], or a pair of them (full).

    Raises:
      ValueError: As :func:`svd`.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> s, g = optim.subspaces.randperm(), jnp.zeros((6, 4))
      >>> basis = jax.eval_shape(lambda k: s.select(k, g, density=0.5, step=0, path="w"),
      ...   jax.random.key(0))
      >>> jax.eval_shape(s.down, g, basis).shape
      (6, 2)
    """
    _checks.choice("side", side, SIDES)
    _checks.flag("authors", authors)

    def select(key, grad, *, density, step, path):
        m, n = _matrix(grad, path, exact=True).shape
        which = _side((m, n), side)
        rank = _rank((m, n), which, density, authors)
        if which == "full":
            keys = jax.random.split(key)
            return _drawn(keys[0], m, rank), _drawn(keys[1], n, rank)
        return _drawn(key, n if which == "right" else m, rank)

    def down(full, basis):
        which = _side(full.shape, side)
        if which == "full":
            return _gather(_gather(full, basis[0], 0), basis[1], 1)
        return _gather(full, basis, 1 if which == "right" else 0)

    def merge(low, basis, full):
        which = _side(full.shape, side)
        if which == "full":
            return _put(_put(low, basis[1], _gather(full, basis[0], 0), 1), basis[0], full, 0)
        return _put(low, basis, full, 1 if which == "right" else 0)

    return Subspace(
        select,
        down,
        lambda low, basis, shape: merge(low, basis, jnp.zeros(shape, low.dtype)),
        merge,
        matrix=True,
    )


_NAMES: dict[str, Callable[[], Subspace | Block]] = {
    "block": block,
    "columns": columns,
    "rows": rows,
    "randk": randk,
    "svd": svd,
    "random_orthogonal": random_orthogonal,
    "randperm": randperm,
}


def by_name(subspace: str | Subspace | Block) -> Subspace | Block:
    """The subspace of that name with its defaults.

    Args:
      subspace: One of the names of the table above, or an object of this module.

    Returns:
      The subspace; an object is returned as it is.

    Raises:
      ValueError: If there is no such name, with the nearest one.
    """
    if isinstance(subspace, Subspace | Block):
        return subspace
    _checks.choice("subspace", subspace, _NAMES, "an optim.subspaces.Subspace")
    return _NAMES[subspace]()
