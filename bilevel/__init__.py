"""Bilevel solvers and pruning as jitted, data-parallel steps."""

from bilevel.f2sa import f2sa
from bilevel.problem import Problem, Samples, Solver
from bilevel.schedules import f2sa_schedules, f3sa_schedules, power

__all__ = [
    "Problem",
    "Samples",
    "Solver",
    "f2sa",
    "f2sa_schedules",
    "f3sa_schedules",
    "power",
]
