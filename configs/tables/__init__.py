"""One file a table: what `python -m experiments.reproduce --table=NAME` runs and shows."""
