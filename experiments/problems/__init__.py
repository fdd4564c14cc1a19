"""Bilevel problems: one file a family, each a function that returns what the main solves."""

import inspect
from collections.abc import Callable
from typing import Any

from experiments.problems import closed_form, constrained
from experiments.problems.cleaning import cleaning
from experiments.problems.hyper_representation import hyper_representation
from experiments.problems.loss_tuning import loss_tuning
from experiments.problems.regularization import regularization
from experiments.problems.svm import svm
from experiments.problems.task import Level, Task
from optim import _checks

__all__ = ["PROBLEMS", "Level", "Task", "build"]

#: How each problem is built, by name.
PROBLEMS: dict[str, Callable[..., Task]] = {
    **{name: closed_form.task(name) for name in closed_form.PROBLEMS},
    "llc": constrained.llc,
    "llsc": constrained.llsc,
    "toy": constrained.toy,
    "svm": svm,
    "cleaning": cleaning,
    "regularization": regularization,
    "loss_tuning": loss_tuning,
    "hyper_representation": hyper_representation,
}


def build(name: str, data_dir: str | None = None, seed: int = 0, **options: Any) -> Task:
    """Returns the problem ``name``.

    Raises:
      ValueError: An unknown name or option (with the nearest), or an option out of range.
    """
    if name not in PROBLEMS:
        raise ValueError(f"unknown problem {name!r}; {_checks.nearest(name, PROBLEMS)}")
    taken = inspect.signature(PROBLEMS[name]).parameters
    for key in options:
        if key not in taken or key in ("data_dir", "seed"):
            names = [k for k in taken if k not in ("data_dir", "seed")]
            raise ValueError(f"problem {name!r} takes no {key!r}; it takes {', '.join(names)}")
    if "data_dir" in taken:
        options["data_dir"] = data_dir
    return PROBLEMS[name](**options, seed=seed)
