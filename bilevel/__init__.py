"""Bilevel solvers and pruning as jitted, data-parallel steps."""

from bilevel import projections
from bilevel._check_hypergradient import HypergradientCheck, check_hypergradient
from bilevel._diagnose import Diagnosis, diagnose
from bilevel._solve import Solution, solve
from bilevel._solver._penalty_double import PenaltyState
from bilevel._solver._penalty_single import PenaltyMomentumState
from bilevel._solver.f2sa import F2SAState, f2sa
from bilevel._solver.f3sa import F3SAState, f3sa
from bilevel._solver.implicit import ImplicitState, implicit
from bilevel._solver.lv_hba import LVHBAState, lv_hba
from bilevel._solver.penalty import penalty
from bilevel._solver.saba import SABAState, SABATable, saba
from bilevel._solver.soba import SOBAState, soba
from bilevel._solver.unrolled import UnrolledState, unrolled
from bilevel.problem import Gradients, Problem, Samples, Solver
from bilevel.pruning import (
    Gradual,
    Report,
    allocate,
    bip,
    criteria,
    density,
    export,
    granet,
    hydra,
    masks,
    next_round,
    pq_index,
    sap_count,
    set_anchor,
    sparse_training,
    sparsity_report,
)
from bilevel.schedules import (
    f2sa_schedules,
    f3sa_schedules,
    lv_hba_schedule,
    penalty_schedules,
    power,
)
from optim._masked_update import masked_update as sparse

__all__ = [
    "Diagnosis",
    "F2SAState",
    "F3SAState",
    "Gradients",
    "Gradual",
    "HypergradientCheck",
    "ImplicitState",
    "LVHBAState",
    "PenaltyMomentumState",
    "PenaltyState",
    "Problem",
    "Report",
    "SABAState",
    "SABATable",
    "SOBAState",
    "Samples",
    "Solution",
    "Solver",
    "UnrolledState",
    "allocate",
    "bip",
    "check_hypergradient",
    "criteria",
    "density",
    "diagnose",
    "export",
    "f2sa",
    "f2sa_schedules",
    "f3sa",
    "f3sa_schedules",
    "granet",
    "hydra",
    "implicit",
    "lv_hba",
    "lv_hba_schedule",
    "masks",
    "next_round",
    "penalty",
    "penalty_schedules",
    "power",
    "pq_index",
    "projections",
    "saba",
    "sap_count",
    "set_anchor",
    "soba",
    "solve",
    "sparse",
    "sparse_training",
    "sparsity_report",
    "unrolled",
]
