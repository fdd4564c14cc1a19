"""Which leaves of a parameter tree an optimizer treats in which way."""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

__all__ = ["is_hidden_matrix", "of_variable", "resolve"]

# Parts of a path are compared word by word: "lm_head" is an output head, but
# "MultiHeadDotProductAttention" is not.
_ANYWHERE = re.compile(r"embed|norm|bias|logits|vocab")
_WORDS = {"emb", "wte", "wpe", "ln", "scale", "classifier"}
_LAST = {"head"}
_TOP = {"out", "output"}


def _words(part: str) -> list[str]:
    return [w.lower() for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", part)]


def is_hidden_matrix(path: tuple[Any, ...], leaf: Any) -> bool:
    """Whether a leaf is a hidden weight: two axes or more, and no embedding, norm, bias or head.

    Args:
      path: The leaf's path, as in ``jax.tree_util.tree_map_with_path``. Excluded are leaves with
        embed, norm, bias, logits or vocab anywhere in their path, those with one of the words emb,
        wte, wpe, ln, scale, classifier, those in a part that ends in the word head (``lm_head``),
        and a top-level out or output.
      leaf: The parameter, or anything with a shape.

    Returns:
      True for a hidden weight.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> params = {"attn": {"q": jnp.zeros((4, 4))}, "lm_head": jnp.zeros((4, 9))}
      >>> jax.tree_util.tree_map_with_path(optim.is_hidden_matrix, params)
      {'attn': {'q': True}, 'lm_head': False}
    """
    if len(np.shape(leaf)) < 2:
        return False
    parts = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    for i, part in enumerate(parts):
        words = _words(part)
        if _ANYWHERE.search(part.lower()) or _WORDS.intersection(words):
            return False
        if words and (words[-1] in _LAST or (i == 0 and len(words) == 1 and words[0] in _TOP)):
            return False
    return True


def of_variable(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns ``path`` without the last step into a Flax NNX variable.

    ``nnx.Optimizer`` shows an optimizer variables at init and their values at update.
    """
    end = jax.tree_util.GetAttrKey("value")
    return path[:-1] if len(path) > 1 and path[-1] == end else path


def resolve(name: str, where: Any | Callable[..., bool] | None, tree: Any) -> list[bool]:
    """Evaluates a tree of bools (a prefix will do) or a function of (path, leaf) on ``tree``.

    ``None`` is false everywhere.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    if where is None:
        return [False] * len(leaves)
    if callable(where):
        return [bool(where(of_variable(path), leaf)) for path, leaf in leaves]
    try:
        full = jax.tree.map(lambda b, sub: jax.tree.map(lambda _: b, sub), where, tree)
        out = treedef.flatten_up_to(full)
    except ValueError as e:
        raise ValueError(f"{name} must be a tree of bools like the parameters: {e}") from e
    return [bool(b) for b in out]
