"""Order of examples as a pure function of (seed, epoch).

Nothing here holds a position: ``batches(start)`` begins at any step, so a resumed run sees what
the uninterrupted one would have seen.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from experiments.data.base import Dataset
from optim import _checks

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
    at = _epoch_index(n, batch_size, seed, drop_last, process_index, process_count)
    return lambda start: map(at, itertools.count(start))


def _epoch_index(
    n: int, batch_size: int, seed: int, drop_last: bool, process_index: int, process_count: int
) -> Callable[[int], np.ndarray]:
    """Returns the function from a step to its indices."""
    _check_sizes(n, batch_size, seed, process_index, process_count)
    if drop_last and batch_size > n:
        raise ValueError(f"batch_size must be <= {n} (the examples there are), got {batch_size}")
    if not drop_last and (n % batch_size) % process_count:
        raise ValueError(
            f"the last batch of {n % batch_size} does not divide among {process_count} processes"
        )
    per_epoch = n // batch_size if drop_last else -(-n // batch_size)

    def at(step: int) -> np.ndarray:
        epoch, i = divmod(step, per_epoch)
        batch = _order(n, seed, epoch)[i * batch_size : (i + 1) * batch_size]
        local = len(batch) // process_count
        return batch[process_index * local : (process_index + 1) * local]

    return at


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n)
    order = order.astype(np.int32)
    order.flags.writeable = False  # Shared between callers.
    return order


def _check_sizes(
    n: int, batch_size: int, seed: int, process_index: int, process_count: int
) -> None:
    _checks.count("n", n)
    _checks.count("seed", seed, 0)
    _checks.count("batch_size", batch_size)
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
    _check_sizes(n, batch_size, 0, process_index, process_count)
    local = batch_size // process_count
    for start in range(0, n, batch_size):
        index = np.arange(start + process_index * local, start + (process_index + 1) * local)
        weight = (index < n).astype(np.float32)
        yield {"index": np.where(index < n, index, 0).astype(np.int32), "weight": weight}


def window_batches(
    n: int,
    length: int,
    batch_size: int,
    seed: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Returns ``batches(start)``: offsets of random windows, from (seed, step) alone.

    They are int32, and int64 from 2^31 tokens on.

    Args:
      n: Number of tokens.
      length: Tokens that the model sees, at least 1; a window has one more, the last target.
      batch_size: Windows of the global batch, at least 1.
      seed: Non-negative.
      process_index: This process; it gets its own slice of each global batch.
      process_count: Number of processes.

    Example:
      >>> batches = window_batches(1000, 64, 4, seed=0)
      >>> next(batches(7)).shape
      (4,)
    """
    _check_sizes(n, batch_size, seed, process_index, process_count)
    if not 1 <= length < n:
        raise ValueError(f"length must be in [1, {n - 1}] for {n} tokens, got {length}")
    local = batch_size // process_count

    def at(step: int) -> np.ndarray:
        random = np.random.Generator(np.random.Philox(key=[seed, step]))
        offsets = random.integers(0, n - length, batch_size, np.int32 if n < 2**31 else np.int64)
        return offsets[process_index * local : (process_index + 1) * local]

    return lambda start: map(at, itertools.count(start))


def eval_windows(
    n: int, length: int, batch_size: int, *, process_index: int = 0, process_count: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Yields ``{"index": (b,), "weight": (b, length)}``: every target once, in one shape.

    Windows follow each other; the last one ends with the text and overlaps the one before it
    with weight 0. Padding windows have weight 0.

    Example:
      >>> [b["weight"].tolist() for b in eval_windows(6, 3, 2)]
      [[[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]]
    """
    if not 1 <= length < n:
        raise ValueError(f"length must be in [1, {n - 1}] for {n} tokens, got {length}")
    starts = np.arange(0, n - 1, length)
    offsets = np.minimum(starts, n - 1 - length)
    weight = (offsets[:, None] + np.arange(length) >= starts[:, None]).astype(np.float32)
    for batch in eval_batches(
        len(starts), batch_size, process_index=process_index, process_count=process_count
    ):
        index = batch["index"]
        yield {
            "index": offsets[index].astype(np.int32),
            "weight": weight[index] * batch["weight"][:, None],
        }


def streamed(
    source: Mapping[str, np.ndarray] | Sequence[Any],
    batch_size: int,
    seed: int,
    *,
    drop_last: bool = True,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 16,
) -> Batches:
    """Returns ``batches(start)``: the batches of :func:`epoch_batches`, read ahead by grain.

    For sets that do not fit on the device. Step ``s`` is the same whether the run began at 0 or
    at ``s``; no reader state needs saving.

    Args:
      source: Arrays of equal length (``np.memmap`` serves), or any ``len`` and ``[i]`` that gives
        one example as a dict of arrays, such as ``grain.sources.ArrayRecordDataSource`` with its
        parsing.
      batch_size: Size of the global batch.
      seed: Non-negative.
      drop_last: As in :func:`epoch_batches`.
      process_index: This process.
      process_count: Number of processes.
      threads: Batches read at once, at least 1.
    """
    if isinstance(source, Mapping):
        arrays = source
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"source must hold arrays of one length, got {lengths}")
        n = next(iter(lengths.values()))

        def gather(index: np.ndarray) -> dict[str, np.ndarray]:
            return {name: array[index] for name, array in arrays.items()}

    else:
        examples = source
        n = len(examples)

        def gather(index: np.ndarray) -> dict[str, np.ndarray]:
            rows = [examples[int(i)] for i in index]
            return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    at = _epoch_index(n, batch_size, seed, drop_last, process_index, process_count)
    return _read_ahead(lambda step: gather(at(step)), threads)


def streamed_windows(
    tokens: Any,
    length: int,
    batch_size: int,
    seed: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 16,
) -> Batches:
    """Returns ``batches(start)``: the windows of :func:`window_batches`, read ahead by grain.

    For texts that do not fit on the device: of a file that is mapped into memory nothing else is
    read. Each process reads its own windows.

    Args:
      tokens: An array (``np.memmap`` serves), or ``experiments.data.tokens.Tokens``.
      length: Tokens that the model sees, at least 1; a window has one more.
      batch_size: Windows of the global batch.
      seed: Non-negative.
      process_index: This process.
      process_count: Number of processes.
      threads: Batches read at once, at least 1.

    Example:
      >>> batches = streamed_windows(np.arange(100), 7, 4, seed=0, threads=1)
      >>> next(batches(5))["tokens"].shape
      (4, 8)
    """
    at = window_batches(
        len(tokens),
        length,
        batch_size,
        seed,
        process_index=process_index,
        process_count=process_count,
    )

    def gather(step: int) -> dict[str, np.ndarray]:
        return {"tokens": np.stack([tokens[int(i) : int(i) + length + 1] for i in next(at(step))])}

    return _read_ahead(gather, threads)


def _read_ahead(gather: Callable[[int], Any], threads: int) -> Batches:
    import grain  # Only streamed sets pay for it.

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)

    def batches(start: int) -> Iterator[Any]:
        steps = grain.MapDataset.range(start, 2**62).map(lambda step: gather(int(step)))
        return iter(steps.to_iter_dataset(options))

    return batches


def size(dataset: Dataset, split: str) -> int:
    """Returns the number of examples, or of tokens, in ``train``, ``valid`` or ``test``."""
    return len(next(iter(getattr(dataset, split).values())))


def steps_per_epoch(dataset: Dataset, batch_size: int, length: int | None = None) -> int:
    """Returns how many batches ``train`` has; of a text, how many see as many tokens."""
    tokens = 1 if length is None else length
    return size(dataset, "train") // (batch_size * tokens)


def train_batches(
    dataset: Dataset,
    batch_size: int,
    seed: int,
    *,
    length: int | None = None,
    stream: bool = False,
    **processes: Any,
) -> Batches:
    """Returns ``batches(start)`` for the loop: indices into ``dataset.train``, or what is there.

    Args:
      dataset: Its kind decides between ``epoch_batches`` and ``window_batches``.
      batch_size: Examples or windows of the global batch.
      seed: Non-negative.
      length: Tokens that the model sees, for text.
      stream: Whether examples or windows are read from host memory or files, not their indices.
      **processes: ``process_index`` and ``process_count``.

    Raises:
      ValueError: A text of 2^31 tokens or more that is not streamed.
    """
    n = size(dataset, "train")
    if "tokens" not in dataset.train:
        if stream:
            return streamed(dataset.train, batch_size, seed, **processes)
        return epoch_batches(n, batch_size, seed, **processes)
    if stream:
        return streamed_windows(dataset.train["tokens"], length or 0, batch_size, seed, **processes)
    if n >= 2**31:
        raise ValueError(
            f"{dataset.name} has {n} tokens to train on; from 2^31 on it must be read with "
            "--config.data.stream"
        )
    return window_batches(n, length or 0, batch_size, seed, **processes)


def evaluation_batches(
    dataset: Dataset, split: str, batch_size: int, *, length: int | None = None, **processes: Any
) -> Iterator[dict[str, np.ndarray]]:
    """Yields ``{"index", "weight"}`` over a split: each example, or each token of a text, once.

    ``weight`` has the shape of the labels: ``(b,)``, or ``(b, length)`` for text.

    Args:
      dataset: Its kind decides between ``eval_batches`` and ``eval_windows``.
      split: ``train``, ``valid`` or ``test``.
      batch_size: Examples or windows of the global batch.
      length: Tokens that the model sees, for text.
      **processes: ``process_index`` and ``process_count``.
    """
    n = size(dataset, split)
    if "tokens" in dataset.train:
        return eval_windows(n, length or 0, batch_size, **processes)
    return eval_batches(n, batch_size, **processes)
