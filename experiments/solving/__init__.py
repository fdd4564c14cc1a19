"""Bilevel problems and solvers by name."""
