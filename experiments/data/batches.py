"""Order of examples as a pure function of (seed, epoch), and batches made on the device.

Nothing here holds a position: ``batches(start)`` begins at any step, so a resumed run sees what
the uninterrupted one would have seen.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

Batches = Callable[[int], Iterator[Any]]


def epoch_batches(
    n: int,
    batch_size: int,
    seed: int,
    *,
    drop_last: bool = True,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    r"""Returns ``batches(start)``: int32 index arrays from step ``start`` on, without end.

    Epoch :math:`e` visits the examples in the order of
    :math:`\pi_e = \mathrm{shuffle}(0..n-1;\ \mathrm{Philox}(\text{seed}, e))`, and step :math:`s`
    takes the next ``batch_size`` of them.

    Args:
      n: Number of examples, at least 1.
      batch_size: Size of the global batch, at least 1; divisible by ``process_count``.
      seed: Non-negative.
      drop_last: Whether the ``n % batch_size`` examples at the end of an epoch are left out.
        Otherwise they come as a smaller batch (one more compilation).
      process_index: This process; it gets its own slice of each global batch.
      process_count: Number of processes.

    Raises:
      ValueError: An argument out of range, or ``batch_size > n`` with ``drop_last``.

    Example:
      >>> batches = epoch_batches(10, 4, seed=0)
      >>> first = [next(batches(step)).tolist() for step in range(4)]
      >>> sorted(first[0] + first[1]) == sorted(set(first[0] + first[1]))
      True
    """
    _check_sizes(n, batch_size, process_index, process_count)
    if drop_last and batch_size > n:
        raise ValueError(f"batch_size must be <= {n} (the examples there are), got {batch_size}")
    if not drop_last and (n % batch_size) % process_count:
        raise ValueError(
            f"the last batch of {n % batch_size} does not divide among {process_count} processes"
        )
    per_epoch = n // batch_size if drop_last else -(-n // batch_size)

    def batches(start: int) -> Iterator[np.ndarray]:
        step = start
        while True:
            epoch, i = divmod(step, per_epoch)
            batch = _order(n, seed, epoch)[i * batch_size : (i + 1) * batch_size]
            local = len(batch) // process_count
            yield batch[process_index * local : (process_index + 1) * local]
            step += 1

    return batches


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n)
    order = order.astype(np.int32)
    order.flags.writeable = False  # Shared between callers.
    return order


def _check_sizes(n: int, batch_size: int, process_index: int, process_count: int) -> None:
    if n < 1:
        raise ValueError(f"n must be >= 1, got {n}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index must be in [0, {process_count}), got {process_index}")
    if batch_size % process_count:
        raise ValueError(
            f"batch_size must be divisible by process_count = {process_count}, got {batch_size}"
        )


def eval_batches(
    n: int, batch_size: int, *, process_index: int = 0, process_count: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Yields ``{"index", "weight"}`` over all examples once, in order.

    All batches have one shape, so one compilation serves: the last is padded with index 0 and
    weight 0. A mean over the set is ``sum(weight * value) / sum(weight)``.

    Example:
      >>> [b["weight"].tolist() for b in eval_batches(3, 2)]
      [[1.0, 1.0], [1.0, 0.0]]
    """
    _check_sizes(n, batch_size, process_index, process_count)
    local = batch_size // process_count
    for start in range(0, n, batch_size):
        index = np.arange(start + process_index * local, start + (process_index + 1) * local)
        weight = (index < n).astype(np.float32)
        yield {"index": np.where(index < n, index, 0).astype(np.int32), "weight": weight}
