"""Estimates of one block of the parameters at a time."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optim.zeroth_order._estimator import Estimator
from optim.zeroth_order._rge import or_rge

__all__ = ["blocks_of", "blockwise", "check_rule", "part_of", "path_names", "replaced"]


def blockwise(
    rule: str | Callable[[tuple, Any], Any],
    estimator: Estimator | None = None,
    *,
    shared_noise: bool = False,
) -> Estimator:
    r"""Estimates the gradient block by block, each with the other blocks at their places.

    .. math::
      \hat g_b = \hat g\bigl(\theta_b \mapsto f(\theta_1, \dots, \theta_b, \dots, \theta_B)\bigr)

    All blocks are measured at the same parameters (Jacobi); :func:`block_descent` moves each block
    before it measures the next (Gauss-Seidel).

    Args:
      rule: A function ``(path, leaf) -> block``, any hashable name, ``None`` for leaves that are
        not trained; or a regex that is searched in ``"layers_0/kernel"``: its first group (or all
        of the match) names the block, leaves where it is not found are not trained.
      estimator: Of each block; default ``rge()``.
      shared_noise: The authors' program draws all blocks from one seed, so that blocks of equal
        shapes get identical directions. ``True`` repeats that; blocks are independent otherwise.

    Returns:
      The estimator. Leaves in no block get gradient zero.

    Raises:
      ValueError: If an argument is of the wrong kind; when used, if the rule puts no leaf in a
        block.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> params = {"a": jnp.ones(2), "b": jnp.ones(2)}
      >>> estimator = optim.zeroth_order.blockwise("a", optim.zeroth_order.cge(central=True))
      >>> vg = optim.zeroth_order.value_and_grad(
      ...     lambda p, batch: p["a"] @ p["a"] + p["b"] @ p["b"], estimator
      ... )
      >>> vg(params, None, jax.random.key(0))[1]["b"]
      Array([0., 0.], dtype=float32)

    References:
      Zhang et al., Revisiting Zeroth-Order Optimization for Memory-Efficient LLM Fine-Tuning,
      2024, https://arxiv.org/abs/2402.11592
    """
    inner = or_rge(estimator)
    check_rule(rule)

    def estimate(f, params, key, step):
        gradient, values, aux = jax.tree.map(jnp.zeros_like, params), [], None
        for b, members in enumerate(blocks_of(rule, params)):
            of_block, own = part_of(f, params, members)
            own_key = key if shared_noise else jax.random.fold_in(key, b)
            (value, aux), part = inner.estimate(of_block, own, own_key, step)
            values.append(value)
            gradient = replaced(gradient, part)
        return (jnp.stack(values).mean(), aux), gradient

    def evaluations(params):
        blocks = blocks_of(rule, params)
        return sum(inner.evaluations(part_of(None, params, block)[1]) for block in blocks)

    return Estimator(estimate, evaluations)


def path_names(tree: Any) -> list[str]:
    """Returns the path of each leaf as ``"layers_0/kernel"``; no two are the same."""
    names: list[str] = []
    for path, _ in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        while name in names:  # {"a": {"b": x}, "a/b": y}
            name += "'"
        names.append(name)
    return names


def replaced(tree: Any, part: dict[str, Any]) -> Any:
    """Returns ``tree`` with the leaves that ``part`` names replaced."""
    leaves, treedef = jax.tree.flatten(tree)
    pairs = zip(path_names(tree), leaves, strict=True)
    return treedef.unflatten([part.get(name, x) for name, x in pairs])


def part_of(f: Any, params: Any, members: list[str]) -> tuple[Callable[[Any], Any], dict[str, Any]]:
    """Returns ``f`` as a function of the named leaves alone, and these leaves."""
    leaves = dict(zip(path_names(params), jax.tree.leaves(params), strict=True))
    return lambda own: f(replaced(params, own)), {k: leaves[k] for k in members}


def blocks_of(rule: str | Callable[[tuple, Any], Any], params: Any) -> list[list[str]]:
    """Returns the names of the leaves of each block, in the order of their first leaves."""
    found: dict[Any, list[str]] = {}
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for name, (path, leaf) in zip(path_names(params), leaves, strict=True):
        if isinstance(rule, str):
            match = re.search(rule, name)
            block = None if match is None else match.group(1 if match.re.groups else 0)
        else:
            block = rule(path, leaf)
        if block is not None:
            found.setdefault(block, []).append(name)
    if not found:
        raise ValueError(f"rule puts no leaf in a block: {rule!r}")
    return list(found.values())


def check_rule(rule: Any) -> None:
    """Raises ``ValueError`` unless ``rule`` is a function of (path, leaf) or a regex."""
    if callable(rule):
        return
    try:
        re.compile(rule)
    except (TypeError, re.error) as error:
        raise ValueError(
            f"rule must be a function (path, leaf) -> block or a regex, got {rule!r}: {error}"
        ) from error
