"""Parameter sharing at equal memory: one small pool of numbers from which all weights are read."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.problem import Gradients, Problem, Solver
from bilevel.pruning import _common
from bilevel.pruning import masks as masks_lib
from optim import _checks, _paths

__all__ = ["Expand", "Shared", "SharedState", "share", "training"]

_MAPPINGS = ("pareto", "roast", "hash")
_RULES = ("v1", "v3", "v5")
_PRIME = 2038074743  # Of the authors' hash.


class Shared(NamedTuple):
    """What is trained and stored of a model whose weights are shared.

    Attributes:
      pool: Numbers that the shared weights are read from: an array of shape (size,), or with the
        scope ``"layer"`` a tuple of one for each shared leaf.
      rest: The other parameters; ``None`` where a leaf is shared.
    """

    pool: Any
    rest: Any


def _check_shared(name: str, given: Any) -> None:
    if not isinstance(given, Shared):
        raise ValueError(f"{name} must be what bilevel.share returns, got {type(given).__name__}")


def _mixed(x: jax.Array, salt: int) -> jax.Array:
    """A hash of 32 bits (the finalizer of MurmurHash3) of each entry of ``x``."""
    # The barrier keeps the compiler from making an array as large as the weights beforehand.
    x = x.astype(jnp.uint32) ^ jax.lax.optimization_barrier(jnp.uint32(salt))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)


@dataclasses.dataclass(frozen=True, eq=False)
class _Layer:
    """Where the weights of one leaf are in its pool, and by what they are multiplied.

    Attributes:
      path: Path of the leaf.
      shape: Its shape.
      start: Weights of the leaves before it.
      pool: Number of its pool.
      size: Size of its pool.
      factor: Of its weights.
      index: Positions of its weights, where they are given.
      sign: Signs of its weights, where they are given; None for none or for hashed ones.
    """

    path: str
    shape: tuple[int, ...]
    start: int
    pool: int
    size: int
    factor: float
    index: np.ndarray | None
    sign: np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False)
class Expand:
    """Reads the parameters of a model from what is shared; made by :func:`bilevel.share`.

    Attributes:
      compression: Size of the pools over the number of weights that are read from them.
    """

    compression: float
    _layers: tuple[_Layer, ...]
    _treedef: Any
    _shared: tuple[bool, ...]
    _mapping: str
    _block: tuple[int, int]
    _salts: tuple[int, int]
    _offsets: np.ndarray
    _signs: bool

    def __call__(self, shared: Shared) -> Any:
        """Returns parameters, differentiable; arrays are made when they are read."""
        _check_shared("shared", shared)
        rest = iter(self._treedef.flatten_up_to(shared.rest))
        layers = iter(self._layers)
        leaves = []
        for is_shared in self._shared:
            leaf = next(rest)
            if is_shared:
                layer = next(layers)
                leaf = self._read(layer, _pool_of(shared.pool, layer))
            leaves.append(leaf)
        return jax.tree.unflatten(self._treedef, leaves)

    def _read(self, layer: _Layer, pool: jax.Array) -> jax.Array:
        if pool.shape != (layer.size,):
            raise ValueError(f"pool of shape {pool.shape} for {layer.path}, made for {layer.size}")
        index = self._index(layer) if layer.index is None else layer.index
        w = layer.factor * pool[index]
        if layer.sign is not None:
            return w * layer.sign.astype(w.dtype)
        if not self._signs:
            return w
        odd = _mixed(self._places(layer), self._salts[1]) & 1
        return jnp.where(odd == 1, -w, w)

    @staticmethod
    def _places(layer: _Layer) -> jax.Array:
        n = int(np.prod(layer.shape))
        return jnp.arange(n, dtype=jnp.uint32).reshape(layer.shape) + jnp.uint32(layer.start)

    def _index(self, layer: _Layer) -> jax.Array:
        places, size = self._places(layer), layer.size
        if self._mapping == "hash":
            return (_mixed(places, self._salts[0]) % jnp.uint32(size)).astype(jnp.int32)
        if self._mapping == "pareto":
            chunk = (places // jnp.uint32(size)).astype(jnp.int32)
            inside = (places % jnp.uint32(size)).astype(jnp.int32)
            return (jnp.asarray(self._offsets)[chunk] + inside) % size
        (rows, columns), (k, n) = self._block, _matrix(layer.shape)
        i, j = jnp.arange(k, dtype=jnp.uint32)[:, None], jnp.arange(n, dtype=jnp.uint32)[None]
        # Blocks are numbered as those of all layers that begin at the place of the layer.
        block = (i // rows) * (-(-n // columns)) + j // columns + jnp.uint32(layer.start)
        at = _mixed(block, self._salts[0]) % jnp.uint32(size - rows * columns + 1)
        place = at + (i % rows) * columns + j % columns
        return place.astype(jnp.int32).reshape(layer.shape)

    def _positions(self, layer: _Layer) -> np.ndarray:
        if layer.index is not None:
            return layer.index
        return np.asarray(jax.jit(lambda: self._index(layer))())

    def index(self) -> Any:
        """Returns the position in its pool of each shared weight, ``None`` at other leaves."""
        layers = iter(self._layers)
        found = [self._positions(next(layers)) if s else None for s in self._shared]
        return jax.tree.unflatten(self._treedef, found)

    def nbytes(self, shared: Shared) -> int:
        """Bytes that are stored: pools, other parameters, factors, offsets, and what was given."""
        arrays = [*jax.tree.leaves(shared), self._offsets]
        arrays += [x for layer in self._layers for x in (layer.index, layer.sign) if x is not None]
        return sum(x.nbytes for x in arrays) + 4 * len(self._layers) + 8

    def scale_gradients(self, rule: str = "v1") -> optax.GradientTransformation:
        r"""Divides the gradient of each number of a pool by what it moves; first in a chain.

        .. math::
          g_j \leftarrow \frac{g_j}{10^{-6} + q_j}, \qquad
          q = \frac{A^2}{c + 10^{-3}} \text{ (v1)}, \quad \frac{A}{c + 10^{-3}} \text{ (v3)}, \quad
          \textstyle\sum_l c_l \lambda_l^2 \text{ (v5)}, \qquad A = \sum_l c_l \lambda_l

        with :math:`c_{lj}` weights of layer :math:`l`, of factor :math:`\lambda_l`, that read the
        number :math:`j`, and :math:`c = \sum_l c_l`. Under v1 a step moves a weight by the mean
        gradient of those that read its number, whatever the factors.

        Args:
          rule: ``"v1"``, ``"v3"`` or ``"v5"``.

        Raises:
          ValueError: On another rule.
        """
        _checks.choice("rule", rule, _RULES)
        pools: dict[int, list[np.ndarray]] = {}
        for layer in self._layers:
            index = self._positions(layer).ravel()
            count = np.bincount(index, minlength=layer.size).astype(np.float64)
            c, a, square = pools.setdefault(layer.pool, [np.zeros(layer.size)] * 3)
            weighted = layer.factor * count
            pools[layer.pool] = [c + count, a + weighted, square + layer.factor * weighted]
        found = []
        for _, (c, a, square) in sorted(pools.items()):
            q = {"v1": a**2 / (0.001 + c), "v3": a / (0.001 + c), "v5": square}[rule]
            found.append(1e-6 + q)

        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            del params
            pool, rest = updates
            flat, treedef = jax.tree.flatten(pool)
            flat = [g / jnp.asarray(q, g.dtype) for g, q in zip(flat, found, strict=True)]
            return Shared(jax.tree.unflatten(treedef, flat), rest), state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _pool_of(pool: Any, layer: _Layer) -> jax.Array:
    return pool[layer.pool] if isinstance(pool, tuple | list) else pool


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return int(np.prod(shape[:-1])), int(shape[-1])


def _hashed_by_authors(
    mapping: str, shape: tuple[int, ...], start: int, size: int, numbers: Any, block: Any
) -> np.ndarray:
    """Positions as the authors' package makes them, with its hash of 64 bits, which may wrap."""
    r = np.array([int(x) for x in numbers[:3]], np.int64)
    if mapping == "roast":
        (rows, columns), (k, n) = block, _matrix(shape)
        i, j = np.arange(k)[:, None], np.arange(n)[None]
        a, b = i // rows + start, j // columns + start + k
        at = (r[0] * a + r[1] * b + r[2]) % _PRIME % (size - rows * columns)
        index = at + (i % rows) * columns + j % columns
        return index.reshape(shape).astype(np.int32)
    places = start + np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    c = places // size if mapping == "pareto" else places
    h = (r[0] * c + r[1] * c * c + r[2]) % _PRIME % size
    index = (h + places - c * size) % size if mapping == "pareto" else h
    return index.astype(np.int32)


def share(
    params: Any,
    compression: float,
    key: jax.Array,
    *,
    mapping: str = "pareto",
    scope: str = "global",
    signs: Any = True,
    block: tuple[int, int] = (4, 4),
    std: float | None = None,
    rule: masks_lib.Rule | None = None,
    cut: masks_lib.Cut | None = None,
    authors: bool = False,
    hash_numbers: Sequence[Sequence[int]] | None = None,
    index: Any = None,
) -> tuple[Shared, Expand, optax.GradientTransformation]:
    r"""Reads all weights of a model from a pool of few numbers, which is trained in their place.

    .. math::
      W_l = \lambda_l\, \epsilon_l \odot z[i_l], \qquad z \in \mathbb R^m, \quad
      m = \lfloor c \textstyle\sum_l n_l \rfloor, \qquad \lambda_l = \frac{\mathrm{std}(W_l^0)}
      {\mathrm{std}(z)}

    with signs :math:`\epsilon` and positions :math:`i` that a hash makes anew at each call, so
    that neither is stored:

    ==========  ============================================================================
    ``pareto``  the weights of the model, one after another, in chunks of :math:`m`; each
                begins at a random place and goes round: a number is used
                :math:`\lfloor n/m \rfloor` or :math:`\lceil n/m \rceil` times (STABLE-RPS)
    ``roast``   blocks of a kernel begin at random places of the pool (ROAST)
    ``hash``    each weight on its own (HashedNets)
    ==========  ============================================================================

    ``index`` and ``hash_numbers`` reproduce the authors' package, where each layer has a hash of
    its own (so that a chunk that two layers share lands in two places), the pool is uniform on
    :math:`\pm` the number that :math:`\lambda` takes for its standard deviation (weights start
    :math:`\sqrt 3` too small; ``authors=True``), and positions and signs are stored.

    Args:
      params: Initial parameters. Shared leaves must not be constant: their spread is what the
        weights start with.
      compression: :math:`c` in (0, 1]: numbers of the pool over weights.
      key: Of the pool, the positions and the signs.
      mapping: One of the above.
      scope: ``"global"``, one pool for all leaves, or ``"layer"``, one for each.
      signs: Whether weights have signs of their own; or a tree of them (+1 and -1) for the shared
        leaves.
      block: Rows and columns of the blocks of ``"roast"``, of a kernel as the matrix of all axes
        but the last times the last.
      std: Standard deviation that a pool starts with, > 0. Default: 0.05, and with the scope
        ``"layer"`` :math:`1/\sqrt{\text{inputs}}` of the layer.
      rule: Which leaves are shared; see :func:`bilevel.masks.prunable`. Biases and norms are not.
      cut: Axes of the kernels, where they are not Flax's.
      authors: Whether the pool is uniform on :math:`\pm` ``std``, as in the authors' package.
      hash_numbers: The numbers :math:`r_0, r_1, r_2` of each shared leaf for the authors' hash,
        :math:`(r_0 c + r_1 c^2 + r_2) \bmod 2038074743`, made on the host.
      index: A tree of positions for the shared leaves, in place of a mapping.

    Returns:
      ``(shared, expand, scale)``: the :class:`bilevel.sharing.Shared` to train,
      ``expand(shared) -> params``, and the optax transform ``expand.scale_gradients()``, first in a
      chain before any optimizer.

    Raises:
      ValueError: On an argument outside its range, a constant leaf (named), or a pool that is
        empty or smaller than a block.

    Example:
      >>> import jax, jax.numpy as jnp, optax, bilevel
      >>> params = {"w": jax.random.normal(jax.random.key(0), (8, 4)), "b": jnp.zeros(4)}
      >>> shared, expand, scale = bilevel.share(params, 0.25, jax.random.key(1))
      >>> shared.pool.shape, shared.rest["w"], expand(shared)["w"].shape
      ((8,), None, (8, 4))
      >>> tx = optax.chain(scale, optax.sgd(0.1, momentum=0.9))
      >>> loss = lambda shared: jnp.sum(expand(shared)["w"] ** 2)
      >>> updates, _ = tx.update(jax.grad(loss)(shared), tx.init(shared), shared)
      >>> float(loss(optax.apply_updates(shared, updates))) < float(loss(shared))
      True

    References:
      Desai and Shrivastava, In Defense of Parameter Sharing for Model-Compression, ICLR 2024; Desai
      et al., Hardware-Aware Compression with Random Operation Access Specific Tile (ROAST) Hashing,
      ICML 2023; Chen et al., Compressing Neural Networks with the Hashing Trick, ICML 2015.
    """
    _check_options(compression, mapping, scope, block, std, authors)
    chosen = masks_lib.prunable(params, rule)
    masks_lib.refuse_nan("params", chosen)
    flat = jax.tree_util.tree_flatten_with_path(chosen)[0]
    weights = [(masks_lib.path_name(_paths.of_variable(path)), x) for path, x in flat]
    sizes = [int(x.size) for _, x in weights]
    starts = [0, *itertools.accumulate(sizes)]
    signs_of = _of_leaves("signs", None if isinstance(signs, bool) else signs, len(flat))
    index_of = _of_leaves("index", index, len(flat))
    if hash_numbers is not None:
        _of_leaves("hash_numbers", list(hash_numbers), len(flat))
    to_pool, to_offsets, to_salts = jax.random.split(key, 3)

    # How large the pools are, and where each layer is in its own.
    pooled = [int(compression * n) for n in sizes]
    if scope == "global":
        pooled = [int(compression * starts[-1])] * len(flat)
    stds = _start_stds(weights, scope, masks_lib.cut_of(cut), std)
    layers = []
    for i, (name, x) in enumerate(weights):
        _check_pool(name, pooled[i], compression, mapping, block)
        place = None if index_of is None else np.asarray(index_of[i], np.int32)
        if place is None and hash_numbers is not None:
            numbers = hash_numbers[i]
            place = _hashed_by_authors(mapping, x.shape, starts[i], pooled[i], numbers, block)
        sign = None if signs_of is None else np.asarray(signs_of[i], np.int8)
        _check_given(name, x.shape, pooled[i], place, sign)
        layers.append(
            _Layer(
                path=name,
                shape=x.shape,
                # With a pool of its own a layer has chunks of its own.
                start=0 if scope == "layer" and mapping == "pareto" else starts[i],
                pool=0 if scope == "global" else i,
                size=pooled[i],
                factor=_spread(name, x) / stds[i],
                index=place,
                sign=sign,
            )
        )

    # What is drawn: the pools, the places of chunks, and what hashes begin with.
    dtype = jnp.result_type(*(x.dtype for _, x in weights))
    pool: Any
    if scope == "global":
        pool = _uniform(to_pool, pooled[0], stds[0], dtype, authors)
    else:
        keys = jax.random.split(to_pool, len(layers))
        pool = tuple(
            _uniform(k, n, s, dtype, authors) for k, n, s in zip(keys, pooled, stds, strict=True)
        )
    chunks = 0
    if mapping == "pareto":
        ends = [layer.start + n for layer, n in zip(layers, sizes, strict=True)]
        chunks = max(-(-end // size) for end, size in zip(ends, pooled, strict=True))
    offsets = np.asarray(jax.random.randint(to_offsets, (chunks,), 0, max(pooled)), np.int32)
    salts = jax.random.bits(to_salts, (2,), jnp.uint32)

    leaves, treedef = jax.tree.flatten(params)
    is_shared = tuple(mark is not None for mark in treedef.flatten_up_to(chosen))
    rest = [None if own else jnp.array(x) for x, own in zip(leaves, is_shared, strict=True)]
    total = pooled[0] if scope == "global" else sum(pooled)
    expand = Expand(
        compression=total / starts[-1],
        _layers=tuple(layers),
        _treedef=treedef,
        _shared=is_shared,
        _mapping=mapping,
        _block=tuple(block),
        _salts=(int(salts[0]), int(salts[1])),
        _offsets=offsets,
        _signs=signs is True,
    )
    return Shared(pool, jax.tree.unflatten(treedef, rest)), expand, expand.scale_gradients()


def _check_options(compression, mapping, scope, block, std, authors) -> None:
    _checks.number("compression", compression, 0, 1, open_low=True)
    _checks.choice("mapping", mapping, _MAPPINGS)
    _checks.choice("scope", scope, ["global", "layer"])
    _checks.flag("authors", authors)
    if np.shape(block) != (2,):
        raise ValueError(f"block must be two integers, rows and columns, got {block!r}")
    for name, side in zip(("block[0]", "block[1]"), block, strict=True):
        _checks.count(name, side)
    if std is not None:
        _checks.number("std", std, 0, open_low=True)


def _of_leaves(name: str, tree: Any, count: int) -> list[Any] | None:
    """The leaves of an argument that has one for each shared leaf; None where it is not given."""
    if tree is None:
        return None
    leaves = tree if name == "hash_numbers" else jax.tree.leaves(tree)
    if len(leaves) != count:
        raise ValueError(f"{name} must be of the {count} shared leaves, got {len(leaves)}")
    return leaves


def _check_pool(name: str, size: int, compression: float, mapping: str, block: Any) -> None:
    least = block[0] * block[1] + 1 if mapping == "roast" else 1
    if size < least:
        raise ValueError(
            f"compression={compression:g} leaves a pool of {size} for {name}: at least {least} "
            f"are needed by mapping {mapping!r}"
        )


def _check_given(name: str, shape: tuple[int, ...], size: int, index: Any, sign: Any) -> None:
    for what, array in (("index", index), ("signs", sign)):
        if array is not None and array.shape != shape:
            raise ValueError(f"{what} of shape {array.shape} for {name} of shape {shape}")
    if index is not None and (index.min() < 0 or index.max() >= size):
        raise ValueError(f"index of {name} must be in [0, {size}), its pool")


def _spread(name: str, x: Any) -> float:
    """The standard deviation of a leaf, which its weights are to start with."""
    spread = float(np.std(np.asarray(x, np.float64), ddof=1)) if x.size > 1 else 0.0
    if not spread:
        raise ValueError(f"{name} is constant: the shared weights would all be zero")
    return spread


def _start_stds(weights: Any, scope: str, cut: Any, std: float | None) -> list[float]:
    """The standard deviation that the pool of each leaf starts with."""
    if std is not None or scope == "global":
        return [std or 0.05] * len(weights)
    found = []
    for name, x in weights:
        outputs = np.prod([x.shape[axis] for axis in cut.of(name, x).outputs])
        found.append(float((x.size / outputs) ** -0.5))
    return found


def _uniform(key: jax.Array, size: int, std: float, dtype: Any, authors: bool) -> jax.Array:
    """Uniform numbers of standard deviation ``std``; the authors' are those of ``std / sqrt 3``."""
    width = std if authors else 3**0.5 * std
    return jax.random.uniform(key, (size,), dtype, -width, width)


class SharedState(NamedTuple):
    """State of :func:`bilevel.sharing.training`.

    Attributes:
      problem: The problem, part of the structure.
      count: Steps made, int32 of shape ().
      y: The :class:`Shared`.
      stats: Statistics of the model, or None.
      opt: State of the optimizer.
    """

    problem: Problem
    count: jax.Array
    y: Any
    stats: Any
    opt: Any

    x = property(lambda state: None, doc="None: nothing is masked.")
    params = _common.PARAMS


def training(
    lower_step: Any, expand: Expand, *, rule: str | None = "v1", axis_name: str | None = None
) -> Solver:
    r"""Trains what a model shares, with any optimizer.

    .. math::
      z \leftarrow z + \mathrm{lower}\Big(\frac{\nabla_z \ell(W(z))}{10^{-6} + q}\Big)

    Args:
      lower_step: Step of the pool and of the other parameters: an optax optimizer, or a number or
        schedule for SGD.
      expand: Of :func:`bilevel.share`.
      rule: :math:`q`, see :meth:`Expand.scale_gradients`; None for :math:`q = 1`.
      axis_name: Mapped axis to average over inside the user's own ``pmap`` or ``shard_map``.

    Returns:
      A :class:`bilevel.Solver`. ``init(problem, None, shared, *, stats=None)`` takes a problem of
      :func:`bilevel.pruning.problem` in the parameters of the model. ``step(state, batch)`` has
      metrics ``loss`` and ``density``, numbers of the pools over weights. ``export(state)`` returns
      ``(params, masks)`` of the model that is read from the pool; its masks keep everything.

    Raises:
      ValueError: On another rule, masks for ``x0``, or parameters that are not shared.

    Example:
      >>> import jax, jax.numpy as jnp, bilevel
      >>> params = {"w": jax.random.normal(jax.random.key(0), (8, 4))}
      >>> shared, expand, _ = bilevel.share(params, 0.25, jax.random.key(1))
      >>> problem = bilevel.pruning.problem(lambda p, batch: jnp.sum((p["w"] - batch) ** 2))
      >>> solver = bilevel.sharing.training(0.1, expand)
      >>> state = solver.init(problem, None, shared)
      >>> for _ in range(20):
      ...   state, metrics = solver.step(state, 1.0)
      >>> float(metrics["density"]), solver.export(state)[0]["w"].shape
      (0.25, (8, 4))
    """
    tx = _common.step("lower_step", lower_step)
    if not isinstance(expand, Expand):
        raise ValueError(f"expand must be what bilevel.share returns, got {type(expand).__name__}")
    if rule is not None:
        tx = optax.chain(expand.scale_gradients(rule), tx)

    def init(problem: Problem, x0: Any, y0: Any, *, stats: Any = None) -> SharedState:
        _common.check_problem(problem)
        if x0 is not None:
            raise ValueError("sharing has no masks: x0 must be None")
        _check_shared("y0", y0)
        y, stats = _common.copy((y0, stats))
        return SharedState(problem, jnp.int32(0), y, stats, tx.init(y))

    def step(state: SharedState, batch: Any) -> tuple[SharedState, dict[str, Any]]:
        z, pull = jax.vjp(expand, state.y)
        value, stats, gz = _common.gradient(state, z, batch, axis_name)
        updates, opt = tx.update(pull(gz)[0], state.opt, state.y)
        y = optax.apply_updates(state.y, updates)
        new = SharedState(state.problem, state.count + 1, y, stats, opt)
        return new, {"loss": value, "density": jnp.float32(expand.compression)}

    def export(state: SharedState) -> tuple[Any, Any]:
        params = jax.jit(expand)(state.y)
        masks = jax.tree.map(lambda i: jnp.ones(i.shape, bool), expand.index())
        return _common.copy((params, masks))

    return Solver(
        init, step, axis_name, name="sharing", gradients=Gradients(lower=1), batch="one",
        step_names=("lower_step",), residuals=(), export=export,
    )  # fmt: skip
