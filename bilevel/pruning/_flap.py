"""FLAP: inputs, heads and neurons that leave whole.

A matrix is (outputs, inputs), as in the papers; a kernel of Flax is its transpose.
"""

from typing import Any

import jax
import numpy as np

from bilevel.pruning._layer_scores import wanda
from bilevel.pruning._layer_stats import Stats
from optim import _checks

__all__ = ["flap", "flap_masks"]


def flap(w: jax.Array, stats: Stats, metric: str = "wifv") -> jax.Array:
    r"""FLAP's scores of inputs, which leave whole: how much the output moves without one.

    .. math::
      \text{ifv: } \sigma_j^2, \qquad \text{wifv: } \sigma_j^2 \textstyle\sum_i W_{ij}^2, \qquad
      \text{wifn: } \frac1n \textstyle\sum_i |W_{ij}|\, n_j

    A dropped input is replaced by its mean: :math:`b \leftarrow b + W (\mu \odot (1 - m))`.

    Args:
      w: Of shape (outputs, inputs).
      stats: See :class:`Stats`. (The authors' running variance is right for one sample per call
        only.)
      metric: One of the above.

    Returns:
      Scores of shape (inputs,).

    Raises:
      ValueError: On an unknown metric.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> stats = bilevel.calibrated.stats_of(jnp.array([[1.0, 5.0], [3.0, 5.0]]))
      >>> bilevel.calibrated.flap(jnp.array([[2.0, 9.0]]), stats)
      Array([4., 0.], dtype=float32)

    References:
      An et al., Fluctuation-based Adaptive Structured Pruning for Large Language Models, AAAI 2024.
    """
    _checks.choice("metric", metric, ["ifv", "wifv", "wifn"])
    if metric == "ifv":
        return stats.var
    if metric == "wifv":
        return stats.var * (w**2).sum(0)
    return wanda(w, stats.norm).mean(0)


def flap_masks(
    attention: Any,
    mlp: Any,
    density: float,
    *,
    head_size: int,
    structure: str = "AL-AM",
    cost: float | None = None,
    heads: int | None = None,
    neurons: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    r"""FLAP's masks of heads and neurons of a transformer, from the scores of its layers' inputs.

    =========  =================================================================================
    ``UL-UM``  each layer keeps the density of its heads and of its neurons
    ``UL-MM``  each layer drops ``heads`` heads and ``neurons`` neurons
    ``AL-MM``  all layers together drop ``heads`` heads and ``neurons`` neurons
    ``AL-AM``  one cut through heads and neurons of all layers, down to the density by their costs
    =========  =================================================================================

    With AL scores are standardized in each layer, and a head has the mean of its inputs' scores,
    with UL their sum. Scores of attentions are squared first, those of MLPs are not, and of AL-AM
    the head or neuron at the end of the budget is dropped too, as in the authors' program.

    Args:
      attention: Scores (:func:`flap`) of the inputs of output projections, of shape
        (layers, heads * ``head_size``).
      mlp: Scores of the inputs of down projections, of shape (layers, neurons).
      density: Share that is kept, in (0, 1]; not read by ``MM``.
      head_size: Inputs of a head.
      structure: One of the above.
      cost: Weights of a head over those of a neuron, for ``AL-AM``. Default: 4/3 of ``head_size``,
        four projections of a head against three of a gated neuron. (The authors have
        ``int(512 / 3)`` whatever the head.)
      heads: Heads to drop, for ``MM``: in each layer (``UL``) or in all (``AL``).
      neurons: Neurons to drop, likewise. (The authors find it from the number of heads and their
        sizes.)

    Returns:
      Boolean arrays (layers, heads) and (layers, neurons); True is kept.

    Raises:
      ValueError: On an argument outside its range, or counts that ``MM`` needs.

    Example:
      >>> import numpy as np, bilevel
      >>> attention, mlp = np.array([[3.0, 3.0, 1.0, 1.0]]), np.array([[1.0, 2.0, 3.0, 4.0]])
      >>> bilevel.calibrated.flap_masks(attention, mlp, 0.5, head_size=2, structure="UL-UM")
      (array([[ True, False]]), array([[False, False,  True,  True]]))

    References:
      An et al., Fluctuation-based Adaptive Structured Pruning for Large Language Models, AAAI 2024.
    """
    _checks.choice("structure", structure, ["UL-UM", "UL-MM", "AL-MM", "AL-AM"])
    _checks.number("density", density, 0, 1, open_low=True)
    _checks.count("head_size", head_size)
    attention, mlp = (np.asarray(x, np.float64) for x in (attention, mlp))
    if attention.ndim != 2 or mlp.ndim != 2 or len(attention) != len(mlp):
        raise ValueError(
            f"scores must be (layers, inputs), got shapes {attention.shape} and {mlp.shape}"
        )
    if attention.shape[1] % head_size:
        raise ValueError(f"head_size={head_size} does not divide {attention.shape[1]} inputs")
    if structure.endswith("MM") and (heads is None or neurons is None):
        raise ValueError(f"structure {structure!r} needs heads and neurons, numbers to drop")

    def by_head(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1, head_size)

    def without(scores: np.ndarray, name: str, count: int) -> np.ndarray:
        """Without the ``count`` smallest of each row."""
        _checks.count(name, count, 0)
        if count > scores.shape[1]:
            raise ValueError(f"{name}={count} of {scores.shape[1]} cannot be dropped")
        rank = np.argsort(np.argsort(scores, axis=1, kind="stable"), axis=1, kind="stable")
        return rank >= count

    attention = attention**2
    if structure.startswith("UL"):
        attention = by_head(attention).sum(2)
        if structure == "UL-UM":
            heads, neurons = (int((1 - density) * x.shape[1]) for x in (attention, mlp))
        return without(attention, "heads", heads or 0), without(mlp, "neurons", neurons or 0)

    def standard(x: np.ndarray) -> np.ndarray:
        spread = x.std(1, ddof=1, keepdims=True)
        return (x - x.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1)

    attention, mlp = by_head(standard(attention)).mean(2), standard(mlp)
    if structure == "AL-MM":
        pairs = ((attention, "heads", heads), (mlp, "neurons", neurons))
        kept = [without(x.reshape(1, -1), name, n or 0).reshape(x.shape) for x, name, n in pairs]
        return kept[0], kept[1]
    cost = 4 * head_size / 3 if cost is None else cost
    _checks.number("cost", cost, 0, open_low=True)
    scores = np.concatenate([attention.ravel(), mlp.ravel()])
    costs = np.r_[np.full(attention.size, float(cost)), np.ones(mlp.size)]
    order = np.argsort(-scores, kind="stable")
    kept_cost = np.cumsum(costs[order])
    # What is above the place whose cost comes closest is kept, without that place.
    last = np.argmin(np.abs(kept_cost - density * costs.sum()))
    keep = scores > scores[order[last]]
    in_heads, in_neurons = np.split(keep, [attention.size])
    return in_heads.reshape(attention.shape), in_neurons.reshape(mlp.shape)
