"""What the pruning solvers share: their problem, the state of scores, the gradient at a mask."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optim
from bilevel.problem import Gradients, Problem, Solver
from bilevel.pruning import masks as masks_lib
from optim import _checks, zeroth_order

__all__ = [
    "ScoreState",
    "check_fit",
    "check_problem",
    "copy",
    "flips",
    "gradient",
    "made",
    "mask_solver",
    "no_exchange",
    "problem",
    "start",
    "step",
]


@dataclasses.dataclass(frozen=True)
class _Masked:
    """The loss of masked parameters; two of one loss and estimator are equal."""

    loss: Callable[..., Any]
    estimator: zeroth_order.Estimator | None = None

    def __call__(self, masks: Any, params: Any, batch: Any, stats: Any = None) -> Any:
        z = params if masks is None else masks_lib.apply(masks, params)
        batch, _ = self.split(batch)
        return self.loss(z, batch) if stats is None else self.loss(z, stats, batch)

    def split(self, batch: Any) -> tuple[Any, Any]:
        """Returns the batch of the loss and the key of the estimate."""
        if self.estimator is None:
            return batch, None
        if not (isinstance(batch, tuple) and len(batch) == 2):
            raise ValueError(
                "batch must be (batch, key) where gradients are estimated, got "
                f"{type(batch).__name__}"
            )
        return batch


def problem(loss: Callable[..., Any], estimator: zeroth_order.Estimator | None = None) -> Problem:
    r"""Returns pruning as a bilevel problem: both levels are the loss of the masked parameters.

    .. math::
      F(m, \theta) = f(m, \theta) = \ell(m \odot \theta)

    with masks for :math:`x` and parameters for :math:`y`. The levels differ in their batches, and
    in what a method adds to them.

    Args:
      loss: ``loss(params, batch) -> scalar``. With statistics of the model, such as BatchNorm's,
        ``loss(params, stats, batch) -> (scalar, new_stats)``; ``init`` is then given ``stats=``.
      estimator: An estimator of :mod:`optim.zeroth_order`, such as ``rge()``, in place of
        backpropagation. Every batch is then ``(batch, key)``, with a key of its own. What a method
        takes of the gradient it takes of the estimate: RigL and GraNet regrow by it.

    Returns:
      A :class:`bilevel.Problem`, equal for equal losses and estimators.

    Raises:
      ValueError: When ``loss`` cannot be called, or ``estimator`` is none.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> problem = bilevel.pruning.problem(lambda params, batch: (params["w"] ** 2).sum())
      >>> masks, params = {"w": jnp.array([True, False])}, {"w": jnp.array([3.0, 4.0])}
      >>> float(problem.upper(masks, params, None))
      9.0
    """
    if not callable(loss):
        raise ValueError(f"loss must be callable, got {loss!r}")
    if not isinstance(estimator, zeroth_order.Estimator | None):
        raise ValueError(f"estimator must be an Estimator such as rge(), got {estimator!r}")
    masked = _Masked(loss, estimator)
    return Problem(upper=masked, lower=masked)


def check_problem(given: Any) -> None:
    """Raises unless ``given`` is a problem of :func:`problem`."""
    if not (isinstance(given, Problem) and isinstance(given.lower, _Masked)):
        raise ValueError(
            f"problem must come from bilevel.pruning.problem(loss), got {type(given).__name__}"
        )


def check_fit(what: str, given: Any, params: Any) -> None:
    """Raises unless masks or scores, ``None`` where nothing is pruned, fit the parameters.

    Masks are booleans, or numbers that are 0 or 1.
    """
    flat, treedef = jax.tree_util.tree_flatten_with_path(given, is_leaf=lambda x: x is None)
    try:
        leaves = treedef.flatten_up_to(params)
    except ValueError as error:
        raise ValueError(f"{what} do not fit the parameters: {error}") from error
    for (path, x), leaf in zip(flat, leaves, strict=True):
        if x is not None and jnp.shape(x) != jnp.shape(leaf):
            raise ValueError(
                f"{what} do not fit the parameters: shape {jnp.shape(x)} for "
                f"{masks_lib.path_name(path)} of shape {jnp.shape(leaf)}"
            )
        if x is not None and what.startswith("masks") and not _is_mask(x):
            raise ValueError(
                f"{what} must be booleans, got {jnp.result_type(x)} in {masks_lib.path_name(path)}"
            )
    if not jax.tree.leaves(given):
        raise ValueError(f"{what} have no leaf: nothing is pruned")


def _is_mask(x: Any) -> bool:
    if isinstance(x, jax.core.Tracer) or jnp.issubdtype(jnp.result_type(x), bool):
        return True
    return bool(np.isin(np.asarray(x), (0, 1)).all())


# Of states of methods that train weights under masks.
MASKS_OF_OPT = property(lambda state: state.opt.masks, doc="The masks in force.")
PARAMS = property(lambda state: state.y, doc="The weights, ``y``.")


class ScoreState(NamedTuple):
    """State of the methods that learn scores, :func:`bilevel.bip` and :func:`bilevel.hydra`.

    Attributes:
      problem: The problem, part of the structure.
      count: Steps made, int32 of shape ().
      x: Scores, shaped like the prunable leaves, ``None`` elsewhere.
      y: Weights, those under a mask of False too; shapes as given.
      stats: Statistics of the model, or None.
      masks: Masks in force, boolean, shaped like the scores.
      drop: How many entries the masks drop: int32 of shape (), or a tree of one per leaf.
      opt: State of the optimizer of the scores; of BiP those of ``lower`` and ``upper``.
    """

    problem: Problem
    count: jax.Array
    x: Any
    y: Any
    stats: Any
    masks: Any
    drop: Any
    opt: Any

    @property
    def scores(self) -> Any:
        """The scores, ``x``."""
        return self.x

    params = PARAMS


def copy(tree: Any) -> Any:
    """Returns a tree in buffers of its own: the loop donates those of a state."""
    return jax.tree.map(jnp.array, tree)


def start(
    problem: Problem,
    scores: Any,
    params: Any,
    stats: Any,
    density: float,
    cut: masks_lib.Cut,
    opt: Callable[[Any, Any], Any],
) -> ScoreState:
    """Returns the first state; ``opt(params, scores)`` makes that of the optimizers."""
    check_problem(problem)
    check_fit("scores (x0)", scores, params)
    masks_lib.refuse_nan("scores", scores)
    params, stats, scores = copy((params, stats, scores))
    drop = masks_lib.drop_counts(scores, density, cut)
    drop = jax.tree.map(lambda j: jnp.asarray(j, jnp.int32), drop)
    masks = masks_lib.from_counts(scores, drop, cut)
    masks_lib.warn(masks)
    return ScoreState(
        problem=problem,
        count=jnp.int32(0),
        x=scores,
        y=params,
        stats=stats,
        masks=masks,
        drop=drop,
        opt=opt(params, scores),
    )


def evaluate(problem: Problem, z: Any, stats: Any, batch: Any) -> tuple[jax.Array, Any]:
    """Returns the loss at parameters that are masked already, and the new statistics."""
    found = problem.lower(None, z, batch, stats)
    value, stats = (found, None) if stats is None else found
    if jnp.shape(value) != ():
        raise ValueError(f"loss must return a scalar, got shape {jnp.shape(value)}")
    return value, stats


def gradient(
    state: Any, z: Any, batch: Any, axis_name: str | None, masks: Any = None
) -> tuple[jax.Array, Any, Any]:
    """Returns loss, new statistics and the gradient at ``z``: one backward pass, or an estimate.

    An estimate perturbs only what ``masks`` keep: for callers who drop the rest of the gradient.
    """
    problem, estimator = state.problem, state.problem.lower.estimator
    for path, x in jax.tree_util.tree_leaves_with_path(z):
        if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            raise ValueError(
                f"params must be floating-point arrays: {masks_lib.path_name(path)} is "
                f"{jnp.result_type(x)}; close the loss over what is not trained"
            )
    if estimator is None:

        def loss(z, stats, batch):
            return evaluate(problem, z, stats, batch)

        vg = optim.parallel.value_and_grad(loss, has_aux=True, axis_name=axis_name)
        (value, stats), g = vg(z, state.stats, batch)
        return value, stats, g

    def masked(z, batch):
        z = z if masks is None else masks_lib.apply(masks, z)
        return evaluate(problem, z, state.stats, batch)

    _, key = problem.lower.split(batch)
    vg = zeroth_order.value_and_grad(masked, estimator, has_aux=True, axis_name=axis_name)
    (value, stats), g = vg(z, batch, key, state.count)
    return value, stats, g


def flips(before: Any, after: Any) -> jax.Array:
    """Returns how many entries of two masks differ."""
    return masks_lib.count(jax.tree.map(jnp.logical_xor, before, after))


def made(state: Any) -> int | None:
    """Returns the steps of a state; None while it is traced, or where it is a stack of several."""
    count = state.count
    return None if isinstance(count, jax.core.Tracer) or jnp.ndim(count) else int(count)


def no_exchange(made: int, first: int) -> tuple[str, ...]:
    """Returns a sentence where training ended before the first exchange of weights."""
    if not 0 < made < first:
        return ()
    return (f"no weight was exchanged: the first may be at step {first}, and {made} were made",)


def step(name: str, given: Any) -> optax.GradientTransformation:
    """Returns the optimizer of a step size: a number, a schedule or an optax transform."""
    _checks.number(name, given, 0, schedule=True, transform=True)
    return given if isinstance(given, optax.GradientTransformation) else optax.sgd(given)


def mask_solver(
    name: str,
    init: Callable[..., Any],
    step: Callable[..., Any],
    doubts: Callable[[Any], tuple[str, ...]],
    axis_name: str | None,
    masks_of: Callable[[Any], Any] = lambda state: state.masks,
) -> Solver:
    """Returns a solver of one gradient a step whose result is ``(params, masks)``."""

    def export(state: Any) -> tuple[Any, Any]:
        for text in doubts(state):
            warnings.warn(text, stacklevel=2)
        masks = masks_of(state)
        return copy((masks_lib.apply(masks, state.y), masks))

    return Solver(
        init, step, axis_name, name=name, gradients=Gradients(lower=1), batch="one",
        step_names=("lower_step",), residuals=(), export=export, doubts=doubts,
    )  # fmt: skip


def score_solver(
    name: str, init: Callable[..., Any], step: Callable[..., Any], axis_name: str | None
) -> Solver:
    """Returns a solver of scores at fixed weights, with a :class:`ScoreState`."""

    def export(state: ScoreState) -> tuple[Any, Any]:
        masks_lib.warn(state.masks)
        return copy((masks_lib.apply(state.masks, state.y), state.masks))

    return Solver(
        init, step, axis_name, name=name, gradients=Gradients(upper=1), batch="one",
        step_names=("upper_step",), residuals=(), export=export,
        doubts=lambda state: masks_lib.doubts(state.masks),
    )  # fmt: skip
