"""Optimizers, schedules and the loop that runs any step; composable with optax."""

from optim import kappas, loop, parallel, profiles, subspaces
from optim._masks import is_hidden_matrix
from optim.adamp import adamp
from optim.badam import badam
from optim.cautious import cautious
from optim.diffgrad import diffgrad, scale_by_diffgrad
from optim.frugal import ScaleByFrugalState, frugal, scale_by_frugal
from optim.galore import galore
from optim.lion import lion, lion_k, lyapunov, scale_by_lion_k
from optim.masking import masked_update
from optim.memory import state_bytes
from optim.momentum import MomentumState, scale_by_momentum
from optim.plots import plot_schedules, tabulate_schedules
from optim.projection import project_scale_invariant, projection_branches
from optim.record import RecordNormsState, record_norms, recorded_norms
from optim.refinement import (
    fit_warmup_polynomial,
    last_iterate_bound,
    refine,
    refined_schedule,
    smooth_norms,
)
from optim.schedules import (
    onecycle_momentum_schedule,
    rex_schedule,
    sampled_schedule,
    table_schedule,
    warmup_polynomial_schedule,
)
from optim.sgdp import sgdp

__all__ = [
    "MomentumState",
    "RecordNormsState",
    "ScaleByFrugalState",
    "adamp",
    "badam",
    "cautious",
    "diffgrad",
    "fit_warmup_polynomial",
    "frugal",
    "galore",
    "is_hidden_matrix",
    "kappas",
    "last_iterate_bound",
    "lion",
    "lion_k",
    "loop",
    "lyapunov",
    "masked_update",
    "onecycle_momentum_schedule",
    "parallel",
    "plot_schedules",
    "profiles",
    "project_scale_invariant",
    "projection_branches",
    "record_norms",
    "recorded_norms",
    "refine",
    "refined_schedule",
    "rex_schedule",
    "sampled_schedule",
    "scale_by_diffgrad",
    "scale_by_frugal",
    "scale_by_lion_k",
    "scale_by_momentum",
    "sgdp",
    "smooth_norms",
    "state_bytes",
    "subspaces",
    "table_schedule",
    "tabulate_schedules",
    "warmup_polynomial_schedule",
]
