"""Mains that train, solve, prune and reproduce, and what they share."""
