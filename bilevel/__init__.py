"""Bilevel solvers and pruning as jitted, data-parallel steps."""

from bilevel import projections
from bilevel._check_hypergradient import HypergradientCheck, check_hypergradient
from bilevel._diagnose import diagnose
from bilevel._solve import solve
from bilevel._solver.f2sa import f2sa
from bilevel._solver.f3sa import f3sa
from bilevel._solver.implicit import implicit
from bilevel._solver.lv_hba import lv_hba
from bilevel._solver.penalty import penalty
from bilevel._solver.saba import saba
from bilevel._solver.soba import soba
from bilevel._solver.unrolled import unrolled
from bilevel.problem import Problem, Samples, Solver
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
    "Gradual",
    "HypergradientCheck",
    "Problem",
    "Report",
    "Samples",
    "Solver",
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
