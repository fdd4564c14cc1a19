"""Optimizers, schedules and the loop that runs any step; composable with optax."""

from optim import kappas, loop, parallel, profiles, subspaces, zeroth_order
from optim._adamp import adamp
from optim._cautious import cautious
from optim._diffgrad import ScaleByDiffGradState, diffgrad, scale_by_diffgrad
from optim._frugal.frugal import ScaleByFrugalState, frugal, scale_by_frugal
from optim._frugal.presets import badam, galore
from optim._lion import lion, lion_k, scale_by_lion_k
from optim._lyapunov import lyapunov
from optim._masked_update import MaskedUpdateState, masked_update
from optim._momentum import MomentumState, scale_by_momentum
from optim._paths import is_hidden_matrix
from optim._scale_invariant import (
    ProjectScaleInvariantState,
    project_scale_invariant,
    projection_branches,
)
from optim._sgdp import sgdp
from optim.memory import state_bytes
from optim.schedules.budget import (
    onecycle_momentum_schedule,
    rex_schedule,
    sampled_schedule,
    table_schedule,
    warmup_polynomial_schedule,
)
from optim.schedules.cooldown import cosine_power_schedule, power_cool_schedule, wsd_schedule
from optim.schedules.norms import RecordNormsState, record_norms, recorded_norms
from optim.schedules.plots import plot_schedules, tabulate_schedules
from optim.schedules.refinement import (
    fit_warmup_polynomial,
    last_iterate_bound,
    refine,
    refined_schedule,
    smooth_norms,
)

__version__ = "0.1.0"

__all__ = [
    "MaskedUpdateState",
    "MomentumState",
    "ProjectScaleInvariantState",
    "RecordNormsState",
    "ScaleByDiffGradState",
    "ScaleByFrugalState",
    "adamp",
    "badam",
    "cautious",
    "cosine_power_schedule",
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
    "power_cool_schedule",
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
    "wsd_schedule",
    "zeroth_order",
]
