"""Pruning methods, saved models, pictures."""
