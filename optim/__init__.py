"""Optimizers, schedules and the loop that runs any step; composable with optax."""

from optim import parallel

__all__ = ["parallel"]
