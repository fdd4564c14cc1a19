"""Bilevel solvers and pruning as jitted, data-parallel steps."""

__all__: list[str] = []
