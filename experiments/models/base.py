"""A model at the boundary: two pure functions over plain nested dicts of arrays.

Optimizers, masks, parameter groups, checkpoints and bilevel solvers see ``params`` as a dict such
as ``{"layers_0": {"kernel": ..., "bias": ...}}``; what is inside (NNX or Linen) stays inside.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

Params = dict[str, Any]
Stats = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """A pair of pure functions.

    Attributes:
      init: ``init(key) -> (params, stats)``, compiled as a whole. ``stats`` holds what a forward
        pass updates and no optimizer touches (BatchNorm's running mean and variance); ``{}``
        where there is none. Under ``jax_enable_x64`` float32 numbers of both are float64.
      apply: ``apply(params, stats, x, *, train, key=None) -> (logits, new_stats)``. Logits are
        float32 (float64 where they come so). ``train`` is a Python bool; ``key`` is needed by
        models with dropout only.
    """

    init: Callable[..., tuple[Params, Stats]]
    apply: Callable[..., tuple[jax.Array, Stats]]


def count(params: Params) -> int:
    """Returns the number of parameters; takes arrays or ``jax.ShapeDtypeStruct`` leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """Returns the :class:`Model` of an NNX module.

    Args:
      make: Builds the module, ``lambda rngs: MyModule(..., rngs=rngs)``. It is called under
        tracing: nothing is allocated until ``init``.

    Raises:
      ValueError: The module holds state that is neither parameter, BatchNorm statistic nor
        random stream.
    """
    traced = []

    @jax.jit
    def init(key):
        graph, *states = nnx.split(make(nnx.Rngs(key)), nnx.Param, nnx.BatchStat, ...)
        traced.append((graph, *jax.eval_shape(lambda: states)))
        return _default_float(_to_dict(states[0])), _default_float(_to_dict(states[1]))

    # One trace gives the module's structure here and is reused when init runs.
    init.eval_shape(jax.eval_shape(lambda: jax.random.key(0)))
    graph, params, stats, rest = traced[0]
    for path, variable in nnx.to_flat_state(rest):
        if not isinstance(variable, nnx.RngState):
            name = "/".join(map(str, path))
            raise ValueError(
                f"{name} is a {type(variable).__name__}; a model may hold Param, BatchStat and "
                "random streams only"
            )

    def apply(new_params, new_stats, x, *, train, key=None):
        module: Any = nnx.merge(
            graph, _to_state(params, new_params), _to_state(stats, new_stats), _streams(rest, key)
        )
        if train:
            module.train()
        else:
            module.eval()
        logits = module(x)
        return _at_least_float32(logits), _to_dict(nnx.state(module, nnx.BatchStat))

    return Model(init, apply)


def _default_float(tree: dict[str, Any]) -> dict[str, Any]:
    """Float32 leaves in JAX's default type: float64 under ``jax_enable_x64``."""
    default = jnp.result_type(float)
    return jax.tree.map(lambda x: x.astype(default) if x.dtype == jnp.float32 else x, tree)


def _at_least_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _to_dict(state: nnx.State) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, variable in nnx.to_flat_state(state):
        node = tree
        for name in path[:-1]:
            node = node.setdefault(str(name), {})
        node[str(path[-1])] = variable.get_value()
    return tree


def _to_state(like: nnx.State, tree: dict[str, Any]) -> nnx.State:
    flat = []
    for path, variable in nnx.to_flat_state(like):
        node: Any = tree
        for name in path:
            node = node[str(name)]
        flat.append((path, variable.replace(node)))
    return nnx.from_flat_state(flat)


def _streams(rest: nnx.State, key: jax.Array | None) -> nnx.State:
    # Each dropout layer owns a stream; folding its position in keeps their masks independent.
    flat = []
    for i, (path, variable) in enumerate(nnx.to_flat_state(rest)):
        if isinstance(variable, nnx.RngKey):
            base = jax.random.key(0) if key is None else key
            flat.append((path, variable.replace(jax.random.fold_in(base, i))))
        else:
            flat.append((path, variable.replace(jnp.zeros((), jnp.uint32))))
    return nnx.from_flat_state(flat)


def from_linen(
    module: linen.Module, *, input_shape: Sequence[int], dtype: Any = jnp.float32
) -> Model:
    """Returns the :class:`Model` of a Linen module.

    ``train`` reaches ``__call__`` under whichever name it has there: ``train``,
    ``deterministic`` or ``use_running_average`` (the last two negated); a module with none of
    them gets ``x`` alone.

    Args:
      module: Its collections are ``params`` and, updated in training, ``batch_stats``.
      input_shape: Shape of one example.
      dtype: Dtype of the example that ``init`` traces with.
    """
    names = inspect.signature(module.__call__).parameters
    flag = next((n for n in ("train", "deterministic", "use_running_average") if n in names), None)

    def mode(train: bool) -> dict[str, Any]:
        return {} if flag is None else {flag: train if flag == "train" else not train}

    def init(key):
        variables: Any = module.init(key, jnp.zeros((1, *input_shape), dtype), **mode(False))
        params, stats = variables["params"], variables.get("batch_stats", {})
        return _default_float(dict(params)), _default_float(dict(stats))

    def apply(params, stats, x, *, train, key=None):
        output: Any = module.apply(
            {"params": params, "batch_stats": stats},
            x,
            rngs=None if key is None else {"dropout": key},
            mutable=["batch_stats"] if train else [],
            **mode(train),
        )
        logits, updated = output
        return _at_least_float32(logits), dict(updated.get("batch_stats", stats))

    return Model(jax.jit(init), apply)
