"""What a leaf of a parameter tree is, by its path and shape, and which leaves a user chooses.

The names are those of Flax, Haiku, Equinox, Hugging Face's transformers and the Mamba models. Paths
are compared word by word: ``lm_head`` is an output head, ``MultiHeadAttention`` is not; the scale
of a norm is a vector, the kernel of an ``Upscale`` is a matrix.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optim import _checks

__all__ = [
    "check_choice",
    "choose",
    "is_function",
    "is_hidden_matrix",
    "is_named_vector",
    "is_prunable",
    "of_variable",
    "output_axes",
    "resolve",
    "with_paths",
]

# A leaf with one of these words in its own name is a vector, whatever its shape: the bias of an
# attention is (heads, head_dim), the scale of a norm under scan (layers, features).
_VECTORS = {"bias", "biases", "offset", "scale", "scales", "beta", "gamma"}
_NORMS = {"bn", "ln", "gn", "rms", "lnorm", "normalization"}
# Tables that are looked up or added, not multiplied: by the leaf's own name.
_TABLES = {"cls", "token", "tokens", "pos", "position", "positions", "positional", "rel", "table"}
_TABLES |= {"pe", "latents", "codebook", "queries", "prototypes"}
_EMBEDDINGS = {"emb", "embeds", "embeddings", "embedded", "wte", "wpe", "vocab", "vocabulary"}
# Parameters of a recurrence: Mamba's and S4's A and D, the step sizes, RWKV's and Griffin's decays.
_RECURRENT = re.compile(
    r"A|D|Ds|A_?logs?|log_?A|(log_)?A_?(re|im|real|imag)|Lambda(_?(re|im))?|log_step|a_param"
    r"|time_(decay|first|faaaa|mix_\w|maa_\w)"
)
_HEADS = {"classifier", "logits", "score", "predictions"}
_TOP = {"out", "output", "outputs", "head", "fc_out"}
_ATTENTION = {"attention", "attn", "multi", "self", "cross", "query", "key", "value"}
_INPUT_FIRST = {"query", "key", "value", "q", "k", "v", "qkv"}


def _names(path: str | tuple[Any, ...]) -> list[str]:
    """Returns the names of a path from its root; Haiku's module names hold slashes themselves."""
    if not isinstance(path, str):
        path = jax.tree_util.keystr(of_variable(path), simple=True, separator="/")
    names = [name for name in re.split(r"[/.]", path) if re.search(r"[A-Za-z]", name)]
    return names[:-1] if len(names) > 1 and names[-1] == "raw_value" else names


def _words(name: str) -> list[str]:
    return [w.lower() for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def _is_embedding(word: str) -> bool:
    return word in _EMBEDDINGS or word.endswith(("embed", "embedding", "emb"))


def is_named_vector(path: str | tuple[Any, ...]) -> bool:
    """Whether a leaf is a bias or part of a norm by its name, whatever its shape.

    Args:
      path: The leaf's path, as in ``jax.tree_util.tree_map_with_path``, or joined by slashes.

    Example:
      >>> is_named_vector("attention/query/bias"), is_named_vector("attention/query/kernel")
      (True, False)
    """
    names = _names(path)
    own = set(_words(names[-1])) if names else set()
    module = _words(names[-2]) if len(names) > 1 else []
    # What a module is stands last: a norm_f is a norm, an adaLN_modulation or a norm_mlp is not.
    module = [] if "kernel" in own else [w for w in module if len(w) > 1][-1:]
    norm = any(w in _NORMS or w.endswith("norm") for w in (*own, *module))
    # Haiku calls the bias of a module b; of a bare tree a and b may be two matrices.
    haiku = len(names) > 1 and names[-1] == "b"
    return norm or haiku or bool(own & _VECTORS and not own & _TABLES)


def _is_vector(path: str | tuple[Any, ...], leaf: Any) -> bool:
    return sum(size != 1 for size in np.shape(leaf)) < 2 or is_named_vector(path)


def _is_table(names: list[str]) -> bool:
    """Whether a leaf is looked up, added or part of a recurrence, not a factor of a product."""
    words = set(_words(names[-1]))
    if words & _TABLES or _RECURRENT.fullmatch(names[-1]):
        return True
    module = _words(names[-2]) if len(names) > 1 else []
    # A table of PyTorch and Equinox is called weight; only its module is called an embedding.
    torch = names[-1] == "weight" and ("embedder" in module or "shared" in module)
    return torch or any(_is_embedding(w) for name in names for w in _words(name))


def is_hidden_matrix(path: tuple[Any, ...], leaf: Any) -> bool:
    """Whether a leaf is a hidden weight: no vector, no embedding or other table, no output head.

    Args:
      path: The leaf's path, as in ``jax.tree_util.tree_map_with_path``. Its words decide, as Flax,
        Haiku, Equinox, transformers and Mamba name their parameters. Excluded are biases and norms
        of any shape; embeddings (all below a module of that name), class tokens and positions;
        Mamba's ``A_log`` and ``D``; ``lm_head``, ``head``, ``classifier``, ``logits``, ``score``,
        and a top-level ``out`` or ``output``. A head of an attention is no output head.
      leaf: The parameter, or anything with a shape. With at most one axis longer than 1 it is a
        vector.

    Returns:
      True for a hidden weight.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> params = {"attn": {"q": jnp.zeros((4, 4))}, "lm_head": jnp.zeros((4, 9))}
      >>> jax.tree_util.tree_map_with_path(optim.is_hidden_matrix, params)
      {'attn': {'q': True}, 'lm_head': False}
    """
    names = _names(path)
    if _is_vector(path, leaf):
        return False
    if not names:
        return True
    return not (_is_table(names) or _is_output_head(names, len(np.shape(leaf))))


def _is_output_head(names: list[str], ndim: int) -> bool:
    seen: set[str] = set()
    for i, name in enumerate(names):
        words = _words(name)
        seen.update(words)
        top = i == 0 and ndim == 2 and "_".join(words) in _TOP  # Of an attention alone it has 3.
        if top or _HEADS.intersection(words):
            return True
        if words and words[-1] == "head" and not seen & _ATTENTION:
            return True
    return False


def is_prunable(path: str | tuple[Any, ...], leaf: Any) -> bool:
    """Whether a leaf is a weight that pruning may cut: a floating-point matrix that is no table.

    Output heads are weights too; vectors, embeddings, tokens and recurrences are not.

    Args:
      path: The leaf's path, as in ``jax.tree_util.tree_map_with_path``, or joined by slashes.
      leaf: The parameter.

    Example:
      >>> import jax.numpy as jnp
      >>> is_prunable("head/kernel", jnp.zeros((8, 3))), is_prunable("cls", jnp.zeros((2, 1, 8)))
      (True, False)
    """
    floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    names = _names(path)
    return floating and not _is_vector(path, leaf) and not (names and _is_table(names))


def output_axes(path: str | tuple[Any, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the axes of the output channels of a kernel as Flax lays it out.

    The last one, but the last two of an attention's query, key or value (in, heads, head_dim),
    which is told by its name, or by its sizes where in = heads * head_dim.

    Example:
      >>> output_axes("query/kernel", (32, 2, 8)), output_axes("conv/kernel", (3, 3, 4, 8))
      ((1, 2), (3,))
    """
    words = {w for name in _names(path)[-2:] for w in _words(name)}
    if len(shape) != 3:
        return (len(shape) - 1,)
    alike = min(shape) > 1 and shape[0] == shape[1] * shape[2]
    by_size = alike and not any(word.startswith("conv") for word in words)
    return (1, 2) if by_size or words & _INPUT_FIRST else (2,)


def of_variable(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns ``path`` without the last step into a Flax NNX variable.

    ``nnx.Optimizer`` shows an optimizer variables at init and their values at update. A field
    ``value`` of a module looks the same: where the tree is at hand, take :func:`with_paths`.
    """
    end = jax.tree_util.GetAttrKey("value")
    return path[:-1] if len(path) > 1 and path[-1] == end else path


def _is_variable(x: Any) -> bool:
    return any(
        c.__name__ == "Variable" and c.__module__.startswith("flax.nnx") for c in type(x).__mro__
    )


def with_paths(tree: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """Returns the leaves of ``tree`` with their paths, which end above Flax NNX variables."""
    above = [
        len(path)
        for path, x in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_variable)
        for _ in jax.tree.leaves(x)
    ]
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(path[:n], x) for n, (path, x) in zip(above, leaves, strict=True)]


def _bare(tree: Any) -> Any:
    """Returns ``tree`` with the values of Flax NNX variables in their place."""

    def value(x):
        leaves = jax.tree.leaves(x)
        return leaves[0] if _is_variable(x) and len(leaves) == 1 else x

    return jax.tree.map(value, tree, is_leaf=_is_variable)


def is_function(x: Any) -> bool:
    """Whether ``x`` is to be called; a module with parameters that can be called is a tree."""
    node = not jax.tree_util.all_leaves([x])
    return callable(x) and (not node or isinstance(x, jax.tree_util.Partial))


def choose(name: str, given: Any, tree: Any, is_value: Callable[[Any], bool]) -> list[Any]:
    """Returns what is ``given`` for each leaf of ``tree``.

    Args:
      name: Name of the argument.
      given: One value for all, a function of (path, leaf), or a tree of values (a prefix will do).
      tree: The parameters.
      is_value: What a value is.

    Raises:
      ValueError: If ``given`` is none of these.
    """
    leaves = with_paths(tree)
    if is_value(given) or not leaves:  # optax.tree.map_params shows a tree without leaves.
        return [given] * len(leaves)
    if is_function(given):
        return [given(path, x) for path, x in leaves]
    return _spread(name, given, tree, is_value)


def check_choice(name: str, given: Any, is_value: Callable[[Any], bool], rule: str) -> None:
    """Raises ``ValueError`` unless ``given`` may be passed to :func:`choose`.

    Args:
      name: Name of the argument.
      given: Its value.
      is_value: What a value is.
      rule: The same in words.
    """
    if is_value(given) or is_function(given):
        return
    bare = _bare(given)
    wrong = [x for x in jax.tree.leaves(bare, is_leaf=is_value) if not is_value(x)]
    if wrong or jax.tree_util.all_leaves([bare]):
        raise ValueError(
            f"{name} must be {rule}, a function of (path, leaf) or a tree of such values, got "
            f"{wrong[0] if wrong else given!r}"
        )


def _spread(name: str, given: Any, tree: Any, is_value: Callable[[Any], bool]) -> list[Any]:
    given, bare = _bare(given), _bare(tree)

    def boxed(value, sub):
        return jax.tree.map(lambda _: [value], sub)

    try:
        full = jax.tree.map(boxed, given, bare, is_leaf=is_value)
        return [box[0] for box in jax.tree.structure(bare).flatten_up_to(full)]
    except ValueError as e:
        raise ValueError(f"{name} must be a tree like the parameters: {e}") from e


def _is_bool(x: Any) -> bool:
    if isinstance(x, np.ndarray | jax.Array) and x.ndim == 0:
        return x.dtype == bool and not isinstance(x, jax.core.Tracer)
    return isinstance(x, bool | np.bool)


def resolve(name: str, where: Any, tree: Any, whole: bool = False) -> list[bool]:
    """Returns for each leaf of ``tree`` whether it is chosen.

    Args:
      name: Name of the argument.
      where: A bool for all, a tree of bools (a prefix will do), a function of (path, leaf), or a
        function of the tree that returns a tree of bools, as optax's masks are. ``None``: no leaf.
      tree: The parameters.
      whole: Whether a function that could be either is one of the tree.

    Raises:
      ValueError: If ``where`` is none of these.
    """
    if where is None or not jax.tree.leaves(tree):
        where = False
    if is_function(where):
        if not (_checks.takes(where, 1, True) or _checks.takes(where, 2, True)):
            raise ValueError(
                f"{name} must be a tree of bools, a function of the tree or one of (path, leaf), "
                f"got a function of other arguments: {where!r}"
            )
        if _checks.takes(where, 1, whole) if whole else not _checks.takes(where, 2, True):
            where = where(tree)
        else:
            return [bool(where(path, x)) for path, x in with_paths(tree)]
    check_choice(name, where, _is_bool, "True, False")
    return [bool(b) for b in choose(name, where, tree, _is_bool)]
