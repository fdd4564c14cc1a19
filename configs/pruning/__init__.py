"""Configs of `python -m experiments.prune`."""
