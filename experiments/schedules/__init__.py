"""Recorded norms and the report of the logistic regressions."""
