"""Optimizers, schedules and the loop that runs any step; composable with optax."""

from optim import kappas, loop, parallel
from optim.adamp import adamp
from optim.cautious import cautious
from optim.diffgrad import diffgrad, scale_by_diffgrad
from optim.lion import lion, lion_k, lyapunov, scale_by_lion_k
from optim.projection import project_scale_invariant, projection_branches
from optim.sgdp import sgdp

__all__ = [
    "adamp",
    "cautious",
    "diffgrad",
    "kappas",
    "lion",
    "lion_k",
    "loop",
    "lyapunov",
    "parallel",
    "project_scale_invariant",
    "projection_branches",
    "scale_by_diffgrad",
    "scale_by_lion_k",
    "sgdp",
]
