"""Bilevel solvers and pruning as jitted, data-parallel steps."""

from bilevel import projections
from bilevel import pruning as pruning
from bilevel._check_hypergradient import HypergradientCheck, check_hypergradient
from bilevel._diagnose import Diagnosis, diagnose
from bilevel._recommend import Advice, Facts, Recommendation, recommend
from bilevel._solve import Best, Minimum, Solution, minimize, solve
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
from bilevel._with_stats import StatsState, with_stats
from bilevel.problem import Gradients, Nonsmooth, Problem, Samples, Solver
from bilevel.pruning import (
    Exchange,
    Gradual,
    Report,
    allocate,
    bip,
    calibrate,
    calibrated,
    criteria,
    density,
    dynamic,
    dynamic_sparse,
    export,
    granet,
    hydra,
    jackpot,
    masks,
    next_round,
    nm,
    nm_training,
    pq_index,
    retrain,
    sap_count,
    set_anchor,
    share,
    sharing,
    sparse_training,
    sparsity_report,
)
from bilevel.schedules import (
    adaptive_step,
    f2sa_schedules,
    f3sa_schedules,
    lv_hba_schedule,
    lv_hba_steps,
    penalty_schedules,
    power,
)
from optim import __version__ as __version__  # Both packages are released together.
from optim._masked_update import masked_update as sparse

__all__ = [
    "Advice",
    "Best",
    "Diagnosis",
    "Exchange",
    "F2SAState",
    "F3SAState",
    "Facts",
    "Gradients",
    "Gradual",
    "HypergradientCheck",
    "ImplicitState",
    "LVHBAState",
    "Minimum",
    "Nonsmooth",
    "PenaltyMomentumState",
    "PenaltyState",
    "Problem",
    "Recommendation",
    "Report",
    "SABAState",
    "SABATable",
    "SOBAState",
    "Samples",
    "Solution",
    "Solver",
    "StatsState",
    "UnrolledState",
    "adaptive_step",
    "allocate",
    "bip",
    "calibrate",
    "calibrated",
    "check_hypergradient",
    "criteria",
    "density",
    "diagnose",
    "dynamic",
    "dynamic_sparse",
    "export",
    "f2sa",
    "f2sa_schedules",
    "f3sa",
    "f3sa_schedules",
    "granet",
    "hydra",
    "implicit",
    "jackpot",
    "lv_hba",
    "lv_hba_schedule",
    "lv_hba_steps",
    "masks",
    "minimize",
    "next_round",
    "nm",
    "nm_training",
    "penalty",
    "penalty_schedules",
    "power",
    "pq_index",
    "projections",
    "recommend",
    "retrain",
    "saba",
    "sap_count",
    "set_anchor",
    "share",
    "sharing",
    "soba",
    "solve",
    "sparse",
    "sparse_training",
    "sparsity_report",
    "unrolled",
    "with_stats",
]
