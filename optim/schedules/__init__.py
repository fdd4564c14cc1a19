"""Learning-rate schedules: budgets, refinement from recorded norms, pictures."""

from optim.schedules.budget import (
    onecycle_momentum_schedule,
    rex_schedule,
    sampled_schedule,
    table_schedule,
    warmup_polynomial_schedule,
)
from optim.schedules.cooldown import (
    cosine_power_schedule,
    power_cool_schedule,
    wsd_schedule,
)
from optim.schedules.norms import RecordNormsState, record_norms, recorded_norms
from optim.schedules.plots import plot_schedules, tabulate_schedules
from optim.schedules.refinement import (
    fit_warmup_polynomial,
    last_iterate_bound,
    refine,
    refined_schedule,
    smooth_norms,
)

__all__ = [
    "RecordNormsState",
    "cosine_power_schedule",
    "fit_warmup_polynomial",
    "last_iterate_bound",
    "onecycle_momentum_schedule",
    "plot_schedules",
    "power_cool_schedule",
    "record_norms",
    "recorded_norms",
    "refine",
    "refined_schedule",
    "rex_schedule",
    "sampled_schedule",
    "smooth_norms",
    "table_schedule",
    "tabulate_schedules",
    "warmup_polynomial_schedule",
    "wsd_schedule",
]
