"""Optimizers against each other: workloads, methods, scores, and the page of the result."""
