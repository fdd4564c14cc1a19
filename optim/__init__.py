"""Optimizers, schedules and the loop that runs any step; composable with optax."""

from optim import (
    batch_size,
    compressors,
    kappas,
    loop,
    losses,
    parallel,
    profiles,
    scaling,
    subspaces,
    zeroth_order,
)
from optim._accumulate import accumulate
from optim._adagrad_norm import ScaleByAdagradNormState, adagrad_norm, scale_by_adagrad_norm
from optim._adamp import adamp
from optim._cautious import cautious
from optim._cautious_decay import CautiousDecayState, cautious_decay, cautious_weight_decay
from optim._diffgrad import ScaleByDiffGradState, diffgrad, scale_by_diffgrad
from optim._error_feedback import ErrorFeedbackState, ef21_step_size, error_feedback
from optim._frugal.frugal import ScaleByFrugalState, frugal, scale_by_frugal
from optim._frugal.presets import badam, galore
from optim._greedy_bcd import BlockDescentState, gauss_southwell, greedy_bcd
from optim._lion import lion, lion_k, scale_by_lion_k
from optim._lyapunov import lyapunov
from optim._masked_update import MaskedUpdateState, masked_update
from optim._momentum import MomentumState, scale_by_momentum
from optim._noise_scale import (
    GradientNoiseScaleState,
    MicroGradients,
    NoiseScale,
    gradient_noise_scale,
    micro_gradients,
    noise_scale,
)
from optim._normalized import (
    NormalizedDescentState,
    normalized_gradient_descent,
    normalized_logistic_gradient,
)
from optim._orthograd import orthograd
from optim._paths import is_hidden_matrix
from optim._scale_invariant import (
    ProjectScaleInvariantState,
    project_scale_invariant,
    projection_branches,
)
from optim._sgdp import sgdp
from optim._solver import Solver
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
    "BlockDescentState",
    "CautiousDecayState",
    "ErrorFeedbackState",
    "GradientNoiseScaleState",
    "MaskedUpdateState",
    "MicroGradients",
    "MomentumState",
    "NoiseScale",
    "NormalizedDescentState",
    "ProjectScaleInvariantState",
    "RecordNormsState",
    "ScaleByAdagradNormState",
    "ScaleByDiffGradState",
    "ScaleByFrugalState",
    "Solver",
    "accumulate",
    "adagrad_norm",
    "adamp",
    "badam",
    "batch_size",
    "cautious",
    "cautious_decay",
    "cautious_weight_decay",
    "compressors",
    "cosine_power_schedule",
    "diffgrad",
    "ef21_step_size",
    "error_feedback",
    "fit_warmup_polynomial",
    "frugal",
    "galore",
    "gauss_southwell",
    "gradient_noise_scale",
    "greedy_bcd",
    "is_hidden_matrix",
    "kappas",
    "last_iterate_bound",
    "lion",
    "lion_k",
    "loop",
    "losses",
    "lyapunov",
    "masked_update",
    "micro_gradients",
    "noise_scale",
    "normalized_gradient_descent",
    "normalized_logistic_gradient",
    "onecycle_momentum_schedule",
    "orthograd",
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
    "scale_by_adagrad_norm",
    "scale_by_diffgrad",
    "scale_by_frugal",
    "scale_by_lion_k",
    "scale_by_momentum",
    "scaling",
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
