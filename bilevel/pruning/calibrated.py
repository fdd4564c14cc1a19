"""Calibrated one-shot pruning: what each layer is fed, and the cuts that are made from it.

The program that JAX makes of a forward pass is run with a tap at every product and convolution, so
that any model is served: plain functions, Linen, NNX, Equinox. A kernel is seen as the matrix
(outputs, inputs) that the product multiplies by, whatever its axes are called; a convolution is fed
its patches; its groups, and the batch axes of a product, are layers of their own.
"""

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from bilevel.pruning import masks as masks_lib
from bilevel.pruning._dsnot import dsnot
from bilevel.pruning._flap import flap, flap_masks
from bilevel.pruning._layer_masks import row_masks, share_masks
from bilevel.pruning._layer_scores import gblm, wanda
from bilevel.pruning._layer_stats import Stats, of_sums, stats_of
from bilevel.pruning._positions import SAME
from bilevel.pruning._sparsegpt import sparsegpt, sparsegpt_scores
from optim import _checks, _paths

__all__ = [
    "METHODS",
    "Layer",
    "Stats",
    "calibrate",
    "dsnot",
    "flap",
    "flap_masks",
    "gblm",
    "prune",
    "row_masks",
    "share_masks",
    "sparsegpt",
    "sparsegpt_scores",
    "stats_of",
    "wanda",
]

METHODS = ("magnitude", "wanda", "gblm", "sparsegpt", "dsnot", "flap")


class Layer(NamedTuple):
    """A kernel as the matrices that inputs are multiplied by, one for each group.

    Attributes:
      where: Flat positions in the kernel, of shape (groups, outputs, inputs).
      stats: :class:`Stats` with a leading axis of groups.
    """

    where: np.ndarray
    stats: Any

    def matrices(self, kernel: jax.Array) -> jax.Array:
        """Returns the matrices of a kernel, or of anything of its shape."""
        return jnp.ravel(kernel)[self.where]

    def kernel(self, matrices: jax.Array, like: Any) -> jax.Array:
        """Returns matrices as a kernel of the shape of ``like``."""
        flat = jnp.zeros(np.size(like), matrices.dtype)
        return flat.at[self.where.ravel()].set(matrices.ravel()).reshape(np.shape(like))


def _name(path: Any) -> str:
    return masks_lib.path_name(_paths.of_variable(path))


class _Owned(NamedTuple):
    """A value that holds the entries of one kernel: its path, and which entry is where."""

    path: str
    index: np.ndarray


def _moved(name: str, params: Any, index: np.ndarray) -> np.ndarray | None:
    """What becomes of the positions of a kernel's entries, or None for what does not move them."""
    if name == "reshape" and params.get("dimensions") is None:
        return index.reshape(params["new_sizes"])
    if name == "transpose":
        return index.transpose(params["permutation"])
    if name == "squeeze":
        return index.squeeze(params["dimensions"])
    if name == "rev":
        return np.flip(index, params["dimensions"])
    if name == "expand_dims":
        return np.expand_dims(index, params["dimensions"])
    if name == "broadcast_in_dim" and np.prod(params["shape"]) == index.size:
        return index.reshape(params["shape"])
    return index if name in SAME else None


def _dot(x: Any, index: np.ndarray, dims: Any, first: bool) -> tuple[jax.Array, np.ndarray]:
    """Returns inputs (groups, tokens, inputs) and positions (groups, outputs, inputs)."""
    (left, right), (left_batch, right_batch) = dims
    ours, theirs = (left, right) if first else (right, left)
    ours_batch, theirs_batch = (left_batch, right_batch) if first else (right_batch, left_batch)

    def matrix(a, contracted, batch):
        rest = [i for i in range(a.ndim) if i not in (*contracted, *batch)]
        a = a.transpose((*batch, *rest, *contracted))
        groups = a.shape[: len(batch)]
        inputs = a.shape[a.ndim - len(contracted) :]
        return a.reshape(int(np.prod(groups)), -1, int(np.prod(inputs)))

    return matrix(x, theirs, theirs_batch), matrix(index, ours, ours_batch)


def _convolution(x: Any, index: np.ndarray, params: Any) -> tuple[jax.Array, np.ndarray]:
    numbers = params["dimension_numbers"]
    groups = params["feature_group_count"]
    if params["batch_group_count"] != 1:
        raise ValueError("a convolution with batch_group_count is not supported")
    window = [index.shape[i] for i in numbers.rhs_spec[2:]]
    patches = jax.lax.conv_general_dilated_patches(
        x,
        window,
        params["window_strides"],
        params["padding"],
        lhs_dilation=params["lhs_dilation"],
        rhs_dilation=params["rhs_dilation"],
        dimension_numbers=numbers,
        precision=params["precision"],
    )
    x = jnp.moveaxis(patches, numbers.out_spec[1], -1)
    # Patches are ordered by input, then by place in the window; groups of N:M run along inputs.
    inputs, places = index.shape[numbers.rhs_spec[1]], int(np.prod(window))
    x = x.reshape(-1, groups, inputs, places).transpose(1, 0, 3, 2)
    kernel = np.moveaxis(index.transpose(numbers.rhs_spec), 1, -1)
    n = inputs * places
    return x.reshape(groups, -1, n), kernel.reshape(groups, -1, n)


def _taps(forward: Callable[..., Any], params: Any, x: Any, wanted: Any, take: Any) -> None:
    """Runs ``forward`` and calls ``take(path, inputs, where)`` at each product with a kernel."""
    closed = jax.make_jaxpr(forward)(params, x)
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    names = [_name(path) for path, _ in flat]
    values = [leaf for _, leaf in flat] + jax.tree.leaves(x)
    owners: list[Any] = [
        _Owned(name, np.arange(np.size(leaf)).reshape(np.shape(leaf))) if name in wanted else None
        for name, (_, leaf) in zip(names, flat, strict=True)
    ]
    owners += [None] * (len(values) - len(owners))
    _run(closed.jaxpr, closed.consts, values, owners, take)


def _run(jaxpr: Any, consts: Any, values: Any, owners: Any, take: Any) -> tuple[Any, Any]:
    held = dict(zip(jaxpr.constvars, consts, strict=True))
    held |= dict(zip(jaxpr.invars, values, strict=True))
    owned = dict(zip(jaxpr.invars, owners, strict=True))

    def read(var):
        return var.val if isinstance(var, jax.extend.core.Literal) else held[var]

    def owner(var):
        return None if isinstance(var, jax.extend.core.Literal) else owned.get(var)

    for eqn in jaxpr.eqns:
        given, kernels = [read(v) for v in eqn.invars], [owner(v) for v in eqn.invars]
        name, inner = eqn.primitive.name, _inlined(eqn)
        if inner is not None:
            # The last inputs of an equation are those of the program inside it.
            skip = len(given) - len(inner.jaxpr.invars)
            outs, found = _run(inner.jaxpr, inner.consts, given[skip:], kernels[skip:], take)
        else:
            if name == "dot_general" and (kernels[0] is None) != (kernels[1] is None):
                first = kernels[0] is not None
                kernel: Any = kernels[0] if first else kernels[1]
                x = given[1] if first else given[0]
                dims = eqn.params["dimension_numbers"]
                take(kernel.path, *_dot(x, kernel.index, dims, first))
            elif name == "conv_general_dilated" and kernels[1] is not None:
                take(kernels[1].path, *_convolution(given[0], kernels[1].index, eqn.params))
            outs = eqn.primitive.bind(*given, **eqn.primitive.get_bind_params(eqn.params))
            outs = outs if eqn.primitive.multiple_results else [outs]
            found: Any = [None] * len(outs)
            if kernels and kernels[0] is not None:
                index = _moved(name, eqn.params, kernels[0].index)
                found[0] = None if index is None else _Owned(kernels[0].path, index)
        held |= dict(zip(eqn.outvars, outs, strict=True))
        owned |= dict(zip(eqn.outvars, found, strict=True))
    return [read(v) for v in jaxpr.outvars], [owner(v) for v in jaxpr.outvars]


# Primitives that run a program once.
_CALLS = {
    "jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "custom_jvp_call",
    "custom_vjp_call", "custom_vjp_call_jaxpr",
}  # fmt: skip


def _inlined(eqn: Any) -> Any:
    """The program inside an equation that runs it once, or None."""
    if eqn.primitive.name not in _CALLS:
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(key)
        if hasattr(inner, "consts"):
            return inner
        if hasattr(inner, "eqns"):
            return jax.extend.core.ClosedJaxpr(inner, ())
    return None


def _examples(x: Any) -> int:
    leaves = jax.tree.leaves(x)
    if not leaves or not np.ndim(leaves[0]):
        raise ValueError("a calibration batch needs arrays with the examples on the leading axis")
    return np.shape(leaves[0])[0]


def _collector(forward: Callable[..., Any], wanted: tuple[str, ...], gram: bool) -> Any:
    """Returns ``collect(params, x) -> sums`` and the positions, which its first call fills."""
    places: dict[str, np.ndarray] = {}

    @jax.jit
    def collect(params, x):
        sums: dict[str, Any] = {}

        def take(path, inputs, where):
            if path in places and not np.array_equal(places[path], where):
                raise ValueError(f"{path} is read in two ways: its layers cannot be one matrix")
            places[path] = where
            inputs = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
            outer = jnp.einsum("gti,gtj->gij", inputs, inputs) if gram else None
            new = (inputs.sum(1), (inputs**2).sum(1), outer, jnp.int32(inputs.shape[1]))
            sums[path] = jax.tree.map(jnp.add, sums[path], new) if path in sums else new

        _taps(forward, params, x, wanted, take)
        return sums

    return collect, places


def _collected(collect: Any, places: Any, params: Any, batches: list[Any]) -> dict[str, Layer]:
    total, examples = None, 0
    for x in batches:
        sums = collect(params, x)
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        examples += _examples(x)
    assert total is not None
    layers = {}
    for path, (first, second, gram, count) in total.items():
        # One kernel that is read k times has k times the tokens.
        stats = of_sums((first, second, gram), examples, int(count))
        if not bool(jnp.isfinite(stats.norm).all()):
            raise ValueError(
                f"the inputs of {path} are not finite: is there a NaN or an infinity in batches or "
                "parameters?"
            )
        layers[path] = Layer(places[path], stats)
    return layers


def calibrate(
    forward: Callable[..., Any],
    params: Any,
    batches: Iterable[Any],
    *,
    rule: masks_lib.Rule | None = None,
    gram: bool = True,
) -> dict[str, Layer]:
    r"""Collects what each layer is fed over some batches: norms, means, variances, Gram matrices.

    .. math::
      n_j = \sqrt{\tfrac1S \sum x_j^2}, \qquad H = \tfrac2S \sum x x^\top

    The program of ``forward`` is run with a tap at each product and each convolution that reads a
    kernel, so that models need not be changed. What a loop of ``jax.lax`` reads inside of its
    body is not seen; its layers are given by hand to :func:`bilevel.calibrated.stats_of`.

    Args:
      forward: ``forward(params, x)``, of a model in evaluation mode.
      params: Parameters.
      batches: Batches ``x``: arrays, or trees of arrays, with examples on the leading axis.
      rule: Which leaves are calibrated; see :func:`bilevel.masks.prunable`.
      gram: Whether Gram matrices are made, of the square of the inputs each.

    Returns:
      Path of a kernel -> :class:`bilevel.calibrated.Layer`, in the order in which the forward pass
      reads them.

    Raises:
      ValueError: When there is no batch, or no product reads a kernel (named).

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> forward = lambda params, x: jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 1))}
      >>> layers = bilevel.calibrate(forward, params, [jnp.array([[3.0, 0.0], [4.0, 1.0]])])
      >>> list(layers), layers["a"].stats.norm.round(2)
      (['a', 'b'], Array([[3.54, 0.71]], dtype=float32))
    """
    _checks.flag("gram", gram)
    batches = _list(batches)
    wanted = _chosen(masks_lib.prunable(params, rule))
    collect, places = _collector(forward, wanted, gram)
    layers = _collected(collect, places, params, batches)
    missing = [name for name in wanted if name not in layers]
    if missing:
        raise ValueError(
            f"no product of the forward pass reads {', '.join(missing)} (bodies of loops are not "
            "seen): leave it out by rule="
        )
    return {path: layers[path] for path in places}


def _list(batches: Iterable[Any]) -> list[Any]:
    if isinstance(batches, jax.Array | np.ndarray):
        raise ValueError(f"batches must be a list of batches, got an array of {batches.shape}")
    batches = list(batches)
    if not batches:
        raise ValueError("batches is empty: calibration needs one or more")
    for x in batches:
        _examples(x)
    return batches


def _chosen(chosen: Any) -> tuple[str, ...]:
    flat = jax.tree_util.tree_flatten_with_path(chosen)[0]
    return tuple(_name(path) for path, _ in flat)


def _leaf(tree: Any, path: str) -> Any:
    for key, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if _name(key) == path:
            return leaf
    return None


def _with_leaf(tree: Any, path: str, new: Any) -> Any:
    def one(key, leaf):
        if _name(key) != path:
            return leaf
        return jnp.asarray(new, jnp.result_type(leaf)).reshape(jnp.shape(leaf))

    return jax.tree_util.tree_map_with_path(one, tree)


def prune(
    forward: Callable[..., Any],
    params: Any,
    batches: Iterable[Any],
    density: float | None = None,
    method: str = "wanda",
    *,
    structure: str | None = None,
    scope: str = "row",
    sequential: bool = True,
    rule: masks_lib.Rule | None = None,
    loss: Callable[[Any, Any], jax.Array] | None = None,
    **options: Any,
) -> tuple[Any, Any]:
    r"""Prunes a trained model once, layer by layer, from a few batches and without training.

    Layers are taken in the order in which the forward pass reads them; each is fed by those that
    are pruned already, as the authors do.

    ==============  ========================================================================
    ``magnitude``   :math:`|W|`, for comparison
    ``wanda``       :func:`bilevel.calibrated.wanda`
    ``gblm``        :func:`bilevel.calibrated.gblm`, with gradients of ``loss`` at the dense model
    ``sparsegpt``   :func:`bilevel.calibrated.sparsegpt`, which changes weights too; its count is
                    exact in a layer, not in a row
    ``dsnot``       :func:`bilevel.calibrated.dsnot` from Wanda's masks, or those that the option
                    ``start`` names: ``"magnitude"``, ``"sparsegpt"`` (its scores, by row)
    ``flap``        :func:`bilevel.calibrated.flap`: whole inputs leave, their means go to the bias
    ==============  ========================================================================

    Args:
      forward: ``forward(params, x)``, of a model in evaluation mode.
      params: Parameters of the trained model.
      batches: Calibration batches; see :func:`bilevel.calibrate`.
      density: Share that is kept, in (0, 1].
      method: One of the above.
      structure: ``"N:M"`` instead of a density: N of each M consecutive inputs (of one output, in
        the order of the kernel) are kept. Not of FLAP.
      scope: ``"row"``, the density in each output; ``"layer"``, in each kernel; ``"share"``, one
        share of the scores of each output (:func:`bilevel.calibrated.share_masks`), for
        ``magnitude``, ``wanda`` and ``gblm``; of FLAP
        ``"layer"`` or (default) ``"row"`` for one cut through all layers, by scores that are
        standardized in each.
      sequential: Whether inputs are collected anew for each layer; one pass over the batches for
        each of them. FLAP collects once.
      rule: Which leaves are pruned; see :func:`bilevel.masks.prunable`. Each must be read by a
        product; what FLAP prunes needs a leaf ``bias`` beside it.
      loss: ``loss(params, x)`` on a batch of one example, for GBLM.
      **options: Of the method's function (``block``, ``damp``, ``alpha``, ``cycles``, ...).

    Returns:
      ``(params, masks)``: weights that are zero where pruned, and boolean masks, ``None`` where a
      leaf is not pruned.

    Raises:
      ValueError: On an argument outside its range, or what a method needs and was not given.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> forward = lambda params, x: x @ params["w"]
      >>> params = {"w": jnp.array([[2.0], [1.0]])}
      >>> new, masks = bilevel.calibrated.prune(forward, params, [jnp.array([[1.0, 4.0]])], 0.5)
      >>> new["w"][:, 0]
      Array([0., 1.], dtype=float32)

    References:
      Sun et al., ICLR 2024 (Wanda); Das et al., 2023 (GBLM); Frantar and Alistarh, ICML 2023
      (SparseGPT); Zhang et al., ICLR 2024 (DSnoT); An et al., AAAI 2024 (FLAP).
    """
    _checks.choice("method", method, METHODS)
    _checks.choice("scope", scope, ["row", "layer", "share"])
    _checks.flag("sequential", sequential)
    if (density is None) == (structure is None):
        raise ValueError(f"one of density and structure is needed, got {density} and {structure!r}")
    if density is not None:
        _checks.number("density", density, 0, 1, open_low=True)
    if structure is not None and (method == "flap" or scope != "row"):
        raise ValueError(f"structure {structure!r} has scope 'row' and is not of method 'flap'")
    if (method == "gblm") != (loss is not None):
        raise ValueError(f"loss is needed by method='gblm', and by it alone, got {method!r}")
    if scope != "row" and method == "dsnot":
        raise ValueError("method 'dsnot' exchanges within rows: scope must be 'row'")
    if scope == "share" and method in ("sparsegpt", "flap"):
        raise ValueError(f"scope 'share' is not of method {method!r}")
    start = options.pop("start", "wanda") if method == "dsnot" else method
    if method == "dsnot":
        _checks.choice("start", start, ["wanda", "magnitude", "sparsegpt"])
    batches, gram = _list(batches), start == "sparsegpt"
    chosen = masks_lib.prunable(params, rule)
    masks_lib.refuse_nan("params", chosen)
    layers = calibrate(forward, params, batches, rule=rule, gram=gram)
    grads = None if loss is None else _mean_gradients(loss, params, batches, chosen)
    if method == "flap":
        return _flap(params, chosen, layers, density, scope, **options)
    masks = jax.tree.map(lambda x: jnp.ones(jnp.shape(x), bool), chosen)
    for i, (path, layer) in enumerate(layers.items()):
        if sequential and i:
            # Nothing after this layer is computed: the program ends where its inputs are known.
            collect, places = _collector(forward, (path,), gram)
            layer = _collected(collect, places, params, batches)[path]
        kernel = _leaf(params, path)
        matrices = layer.matrices(kernel).astype(layer.stats.norm.dtype)
        g = None if grads is None else layer.matrices(_leaf(grads, path))
        new, kept = [], []
        for group, w in enumerate(matrices):
            stats = jax.tree.map(lambda s, i=group: s if jnp.ndim(s) == 0 else s[i], layer.stats)
            given = None if g is None else g[group]
            w, mask = _cut(w, stats, given, method, start, density, structure, scope, options)
            new.append(w)
            kept.append(mask)
        mask = layer.kernel(jnp.stack(kept), kernel)
        changed = layer.kernel(jnp.stack(new), kernel) if method == "sparsegpt" else kernel
        params = _with_leaf(params, path, jnp.where(mask, changed, 0))
        masks = _with_leaf(masks, path, mask)
    masks_lib.warn(masks)
    return params, masks


def _cut(w, stats, grad, method, start, density, structure, scope, options):
    """Returns the weights and the mask of one matrix."""
    if method == "sparsegpt":
        new, mask, _ = sparsegpt(w, stats.gram, density, structure, **options)
        return new, mask
    scores = jnp.abs(w) if start == "magnitude" else wanda(w, stats.norm)
    if start == "sparsegpt":
        scores = sparsegpt_scores(w, stats.gram)
    if method == "gblm":
        scores = gblm(w, stats.norm, grad, **options)
    if scope == "share":
        mask = share_masks(scores, density)
    elif scope == "layer":
        mask = row_masks(scores.reshape(1, -1), density).reshape(w.shape)
    else:
        mask = row_masks(scores, density, structure)
    if method == "dsnot":
        mean = stats.mean * stats.tokens
        mask = dsnot(w, mask, stats.norm, mean, stats.var, structure=structure, **options)
    return w, mask


def _mean_gradients(loss: Any, params: Any, batches: list[Any], chosen: Any) -> Any:
    """Means over examples of the sizes of their gradients."""

    @jax.jit
    def sums(params, x):
        def one(x):
            return jax.grad(loss)(params, jax.tree.map(lambda a: a[None], x))

        return jax.tree.map(lambda g: jnp.abs(g).sum(0), jax.vmap(one)(x))

    total = functools.reduce(
        lambda a, b: jax.tree.map(jnp.add, a, b), (sums(params, x) for x in batches)
    )
    count = sum(map(_examples, batches))
    return masks_lib.map_leaves(lambda x, g: None if x is None else g / count, chosen, total)


def _flap(params, chosen, layers, density, scope, metric="wifv"):
    """Whole inputs leave each kernel; their means go to the bias."""
    scores, sizes = {}, {}
    for path, layer in layers.items():
        if len(layer.where) > 1:
            raise ValueError(f"method 'flap' prunes inputs of one group: {path} has several")
        if _leaf(params, _bias_of(path)) is None:
            raise ValueError(f"method 'flap' needs a leaf {_bias_of(path)} beside {path}")
        w = layer.matrices(_leaf(params, path))[0]
        stats = jax.tree.map(lambda s: s if jnp.ndim(s) == 0 else s[0], layer.stats)
        s = np.asarray(flap(w, stats, metric), np.float64)
        spread = s.std(ddof=1) if len(s) > 1 else 0.0
        scores[path] = (s - s.mean()) / (spread if spread > 0 else 1.0)
        sizes[path] = len(s)
    if scope == "layer":
        kept = {path: _best(s, len(s) - int((1 - density) * len(s))) for path, s in scores.items()}
    else:  # An input costs as many weights as its layer has outputs.
        flat = [(s, path, j) for path, ss in scores.items() for j, s in enumerate(ss)]
        total = sum(layer.where.size for layer in layers.values())
        budget, spent = (1 - density) * total, 0
        kept = {path: np.ones(n, bool) for path, n in sizes.items()}
        for _, path, j in sorted(flat, key=lambda item: item[0]):
            cost = layers[path].where.shape[1]
            if spent + cost > budget:
                break
            if kept[path].sum() > 1:  # A layer without inputs is no layer.
                kept[path][j], spent = False, spent + cost
    masks = jax.tree.map(lambda x: jnp.ones(jnp.shape(x), bool), chosen)
    for path, layer in layers.items():
        kernel, bias = _leaf(params, path), _leaf(params, _bias_of(path))
        w, keep = layer.matrices(kernel)[0], jnp.asarray(kept[path])
        shift = w @ jnp.where(keep, 0, layer.stats.mean[0]).astype(w.dtype)
        mask = layer.kernel(jnp.broadcast_to(keep, layer.where.shape), kernel)
        params = _with_leaf(params, path, jnp.where(mask, kernel, 0))
        params = _with_leaf(params, _bias_of(path), bias + shift.reshape(jnp.shape(bias)))
        masks = _with_leaf(masks, path, mask)
    return params, masks


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    keep = np.zeros(len(scores), bool)
    keep[np.argsort(-scores, kind="stable")[: max(count, 1)]] = True
    return keep


def _bias_of(path: str) -> str:
    return re.sub(r"[^/]+$", "bias", path)
