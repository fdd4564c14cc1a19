"""Optimizers, schedules and the loop that runs any step; composable with optax."""

from optim import loop, parallel

__all__ = ["loop", "parallel"]
