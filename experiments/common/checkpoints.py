"""Checkpoints: asynchronous, atomic, the last few and the best, over Orbax."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from optim import _checks


class Checkpoints:
    """The checkpoints of one run.

    A checkpoint holds the leaves of the state by path; its name is the step. Batches and random
    keys are functions of the step, so there is no other position to keep. A save in progress is
    a temporary folder until it is whole: a run killed at any moment leaves the checkpoints before
    it intact.

    Args:
      directory: Created where missing.
      keep: How many of the latest to keep, at least 1.
      best: Metric whose best checkpoint is kept too; ``None`` for none.
      mode: ``"max"`` or ``"min"``: which value of ``best`` is better.
    """

    def __init__(self, directory: Path, *, keep: int = 2, best: str | None = None, mode="max"):
        _checks.count("keep", keep)
        if logging.get_verbosity() <= logging.INFO:
            # Orbax logs forty lines per save, and a traceback per thread for what it also raises.
            logging.set_verbosity(logging.FATAL)
        policies: list[Any] = [checkpoint_managers.LatestN(keep)]
        if best is not None:
            rank = checkpoint_managers.BestN(
                get_metric_fn=lambda metrics: metrics[best], reverse=mode == "min", n=1
            )
            policies.append(rank)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies)
        )
        self._directory = Path(directory).absolute()
        self._manager = ocp.CheckpointManager(
            self._directory, options=options, item_handlers=ocp.StandardCheckpointHandler()
        )

    def save(self, step: int, state: Any, metrics: dict[str, float] | None = None) -> None:
        """Starts to save; returns once the state is copied to the host.

        Raises:
          OSError: This save, or the one before it, could not be written.
        """
        if step in self._manager.all_steps():
            return
        with self._written():
            self._manager.save(step, args=ocp.args.StandardSave(_flat(state)), metrics=metrics)

    def restore(self, state: Any) -> tuple[Any, int] | None:
        """Returns the newest whole checkpoint as ``(state, step)``, or ``None``.

        One that cannot be read is set aside, with a warning that names it, and the one before
        is taken.

        Args:
          state: A state with the structure, shapes, dtypes and shardings to restore to.

        Raises:
          ValueError: No checkpoint can be read, or they are of another model or optimizer.
        """
        failed = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            self._check_same_leaves(step, state)
            target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _flat(state))
            try:
                saved = self._manager.restore(step, args=ocp.args.StandardRestore(target))
            except Exception as error:  # Whatever a damaged file makes its reader raise.
                reason = " ".join(str(error).split())[:200]
                failed.append(step)
                aside = self._directory / f"damaged-{step}"
                warnings.warn(
                    f"checkpoint {self._directory / str(step)} cannot be read ({reason}); "
                    f"moved to {aside.name}, taking the one before",
                    stacklevel=2,
                )
                if jax.process_index() == 0:
                    (self._directory / str(step)).rename(aside)
                continue
            if failed:
                self._manager.reload()
            leaves = [saved[name] for name in _flat(state)]
            return jax.tree.unflatten(jax.tree.structure(state), leaves), step
        if failed:
            raise ValueError(
                f"no checkpoint in {self._directory} can be read; remove the folder to start anew"
            )
        return None

    def _check_same_leaves(self, step: int, state: Any) -> None:
        folder = self._directory / str(step)
        try:
            metadata = self._manager.item_metadata(step)
            stored = {name: tuple(leaf.shape) for name, leaf in metadata.items()}
        except Exception:  # Whatever a damaged file makes its reader raise.
            return  # Restoring it says so.
        wanted = {name: np.shape(x) for name, x in _flat(state).items()}
        differ = sorted(k for k in stored | wanted if stored.get(k) != wanted.get(k))
        if differ:
            name = differ[0]
            raise ValueError(
                f"checkpoint {folder} is of another model or optimizer: {name} is "
                f"{stored.get(name, 'missing')} there and {wanted.get(name, 'missing')} here"
            )

    def close(self) -> None:
        """Waits until every save is whole.

        Raises:
          OSError: A save could not be written.
        """
        with self._written():
            self._manager.wait_until_finished()
            self._manager.close()

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # TensorStore's errors are of the second kind.
            reason = " ".join(str(error).split())
            reason = reason if len(reason) < 200 else f"... {reason[-200:]}"
            raise OSError(
                f"a checkpoint could not be written to {self._directory}, those before it are "
                f"whole: {reason}"
            ) from error


def _flat(state: Any) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        while name in flat:  # {"a": {"b": x}, "a.b": y}
            name += "'"
        flat[name] = x
    return flat
