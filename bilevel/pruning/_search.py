"""Which level of sparsity each layer gets: exact dynamic programming, and an evolution."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from optim import _checks

__all__ = ["evolve", "rate_distortion"]


def rate_distortion(
    params: Any,
    sparsities: Sequence[float],
    distortions: Any,
    density: float,
    *,
    authors: bool = False,
) -> Any:
    r"""Levels of sparsity whose distortions add up to the least, under a budget of weights.

    .. math::
      \min_{p} \sum_l D_{l, p_l} \quad\text{s.t.}\quad
      \sum_l \big(N_l - \lfloor \phi_{p_l} N_l \rfloor\big) \le
      \lfloor d \textstyle\sum_l N_l \rfloor

    by dynamic programming over the weights that are kept, which is exact.

    Args:
      params: Prunable parameters; shapes are enough.
      sparsities: :math:`\phi_p` in [0, 1] of the levels.
      distortions: Tree like ``params`` of arrays (levels,): what each level costs that layer.
      density: :math:`d` in (0, 1].
      authors: Whether the table is filled as in the authors' program, which can keep more than the
        budget: the smallest layer takes the level that is closest to what is left, counts are
        truncated, and a layer never takes all that is left.

    Returns:
      Tree like ``params`` of levels, indices into ``sparsities``.

    Raises:
      ValueError: When no choice keeps to the budget, or distortions do not fit.

    Example:
      >>> import numpy as np, bilevel
      >>> params = {"a": np.ones(10), "b": np.ones(10)}
      >>> cost = {"a": np.array([0.0, 1.0]), "b": np.array([0.0, 3.0])}
      >>> bilevel.allocate.rate_distortion(params, [0.0, 0.8], cost, 0.6)
      {'a': 1, 'b': 0}

    References:
      Xu et al., Efficient Joint Optimization of Layer-Adaptive Weight Pruning in Deep Neural
      Networks, ICCV 2023.
    """
    _checks.number("density", density, 0, 1, open_low=True)
    for phi in sparsities:
        _checks.number("sparsities", phi, 0, 1)
    leaves, treedef = jax.tree.flatten(params)
    if not leaves:
        raise ValueError("params has no leaf: nothing is prunable")
    costs = [np.asarray(d, float) for d in treedef.flatten_up_to(distortions)]
    for d in costs:
        if d.shape != (len(sparsities),) or not np.isfinite(d).all():
            raise ValueError(
                f"distortions must be {len(sparsities)} finite numbers for each layer, got {d}"
            )
    sizes = [int(np.prod(np.shape(x))) for x in leaves]
    _checks.flag("authors", authors)
    budget = int(density * sum(sizes) + 1e-9)
    if authors and budget:
        return jax.tree.unflatten(treedef, _of_the_authors(sizes, sparsities, costs, budget))
    kept = [[n - int(phi * n + 1e-9) for phi in sparsities] for n in sizes]
    best = np.full(budget + 1, np.inf)  # Least distortion of the layers so far by weights kept.
    best[0] = 0.0
    choices = []
    for counts, d in zip(kept, costs, strict=True):
        new, choice = np.full_like(best, np.inf), np.zeros(budget + 1, int)
        for level, (n, cost) in enumerate(zip(counts, d, strict=True)):
            if n > budget:
                continue
            moved = best[: budget + 1 - n] + cost
            better = moved < new[n:]
            new[n:][better], choice[n:][better] = moved[better], level
        best = new
        choices.append(choice)
    if not np.isfinite(best).any():
        raise ValueError(f"no levels of {list(sparsities)} keep to density {density:g}")
    at, levels = int(np.argmin(best)), []
    for counts, choice in zip(reversed(kept), reversed(choices), strict=True):
        levels.append(int(choice[at]))
        at -= counts[levels[-1]]
    return jax.tree.unflatten(treedef, levels[::-1])


def _of_the_authors(
    sizes: list[int], sparsities: Sequence[float], costs: list[np.ndarray], budget: int
) -> list[int]:
    order = np.argsort(sizes, kind="stable")
    keeps = 1 - np.asarray(sparsities)
    smallest = order[0]
    left = np.arange(budget)  # What is left for the layers so far; the whole budget never is.
    choices = [np.abs(keeps - left[:, None] / sizes[smallest]).argmin(1)]
    best = costs[smallest][choices[0]]
    for i in order[1:]:
        new, choice = np.full(budget, np.inf), np.full(budget, len(keeps) - 1)
        for level, (share, cost) in enumerate(zip(keeps, costs[i], strict=True)):
            n = int(share * sizes[i])
            moved = best[1 : max(budget - n, 1)] + cost  # Strictly more than n is left.
            better = moved < new[n + 1 :]
            new[n + 1 :][better], choice[n + 1 :][better] = moved[better], level
        best = new
        choices.append(choice)
    at, levels = budget - 1, [0] * len(sizes)
    for i, choice in zip(order[::-1], reversed(choices), strict=True):
        levels[i] = int(choice[at])
        at = max(at - int(keeps[levels[i]] * sizes[i]), 0)
    return levels


def evolve(
    fitness: Callable[[np.ndarray, Any], float],
    layers: int,
    *,
    lowest: int | Sequence[int],
    highest: int | Sequence[int],
    generations: int,
    offspring: int,
    survivors: Sequence[int] = (4, 2, 1),
    batches: Callable[[int, Callable[[int, int], int]], Any] | None = None,
    bound: int | None = None,
    start: Sequence[int] | None = None,
    randint: Callable[[int, int], int] | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, list[float]]:
    r"""EvoPress: moves levels between layers, keeps what is fittest, and judges it on more data.

    A child of the parent makes :math:`\min(u_1, u_2)` switches, :math:`u_i` of 1, 2 or 3: one layer
    goes down a level, one goes up, so that their sum, and with levels of equal cost the size of
    the model, stays. Stages of selection keep fewer and fewer; the parent joins those that keep as
    many as the last.

    Args:
      fitness: ``fitness(levels, batch) -> number``, smaller is better.
      layers: Number of layers. A step of a level must save the same in each of them.
      lowest, highest: Levels there are, of all layers or of each, with ``lowest <= 0 <= highest``
        without ``start``.
      generations: >= 1.
      offspring: Children of a generation, at least the first of ``survivors``.
      survivors: How many each stage keeps; the last is 1.
      batches: ``batches(stage, randint) -> batch`` of a stage, the later the larger; None for
        none.
      bound: Largest sum of the sizes of the levels; None for no bound.
      start: First levels; default zeros.
      randint: ``randint(low, high)`` with both ends; default by ``seed``.
      seed: Of the default.

    Returns:
      The last parent, of shape (layers,), and the fitness of each generation's.

    Raises:
      ValueError: On arguments outside their ranges, or when too few children differ.

    Example:
      >>> import numpy as np, bilevel
      >>> goal = np.array([2, -1, -1])
      >>> levels, trace = bilevel.allocate.evolve(
      ...     lambda v, _: float(np.abs(v - goal).sum()), 3, lowest=-2, highest=2, generations=8,
      ...     offspring=4, survivors=(2, 1))
      >>> levels.tolist(), trace[-1]
      ([2, -1, -1], 0.0)

    References:
      Sieberling et al., EvoPress: Accurate Dynamic Model Compression via Evolutionary Search, ICML
      2025.
    """
    _checks.count("layers", layers, 2)
    _checks.count("generations", generations)
    if not survivors or survivors[-1] != 1 or offspring < survivors[0]:
        raise ValueError(
            f"survivors must end with 1 and begin with at most offspring={offspring}, got "
            f"{tuple(survivors)}"
        )
    parent = [0] * layers if start is None else [int(v) for v in start]
    for name, ends in (("lowest", lowest), ("highest", highest)):
        if np.shape(ends) not in ((), (layers,)):
            raise ValueError(f"{name} must be one level or {layers}, got {ends}")
    low, high = (np.broadcast_to(ends, layers).tolist() for ends in (lowest, highest))
    if len(parent) != layers or any(
        not a <= v <= b for a, v, b in zip(low, parent, high, strict=True)
    ):
        raise ValueError(f"start must be {layers} levels in [{lowest}, {highest}], got {parent}")
    if not sum(low) < sum(parent) < sum(high):
        raise ValueError(
            f"levels in [lowest={lowest}, highest={highest}] leave nothing to move from {parent}"
        )
    if randint is None:
        rng = np.random.default_rng(seed)

        def randint(low: int, high: int) -> int:
            return int(rng.integers(low, high + 1))

    draw = randint
    trace = []

    def pick(allowed: Callable[[int], bool]) -> int:
        while True:
            i = draw(0, layers - 1)
            if allowed(i):
                return i

    def child(v: list[int]) -> list[int]:
        v = list(v)
        for _ in range(min(draw(1, 3), draw(1, 3))):
            down = pick(lambda i: v[i] > low[i])
            up = pick(lambda i: v[i] < high[i])
            v[down] -= 1
            v[up] += 1
        return v

    for generation in range(generations):
        children: list[list[int]] = []
        tries = 0
        while len(children) < offspring:
            new, tries = child(parent), tries + 1
            if tries > 1000 * offspring:
                raise ValueError(
                    f"generation {generation} has only {len(children)} different children of "
                    f"{offspring}: lower offspring, or widen the levels"
                )
            far = bound is not None and sum(map(abs, new)) > bound
            if new not in children and not far:
                children.append(new)
        best = 0.0
        for stage, count in enumerate(survivors):
            if count == survivors[-1] and parent not in children:
                children.append(parent)
            batch = None if batches is None else batches(stage, draw)
            scores = [float(fitness(np.array(v), batch)) for v in children]
            order = np.argsort(scores, kind="stable")[:count]
            children, best = [children[i] for i in order], scores[order[0]]
            if np.isnan(best):
                raise ValueError(f"the fitness of all children of generation {generation} is NaN")
        parent = children[0]
        trace.append(best)
    return np.array(parent), trace
