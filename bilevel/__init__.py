"""Bilevel solvers and pruning as jitted, data-parallel steps."""

from bilevel import projections
from bilevel.diagnose import diagnose
from bilevel.f2sa import f2sa
from bilevel.f3sa import f3sa
from bilevel.lv_hba import lv_hba
from bilevel.penalty import penalty
from bilevel.problem import Problem, Samples, Solver
from bilevel.schedules import f2sa_schedules, f3sa_schedules, penalty_schedules, power
from bilevel.solve import solve

__all__ = [
    "Problem",
    "Samples",
    "Solver",
    "diagnose",
    "f2sa",
    "f2sa_schedules",
    "f3sa",
    "f3sa_schedules",
    "lv_hba",
    "penalty",
    "penalty_schedules",
    "power",
    "projections",
    "solve",
]
