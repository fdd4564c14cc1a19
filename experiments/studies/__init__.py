"""Small experiments of one claim each: ``measure(seeds, **settings)`` in a file of their name.

A study returns a dict of numbers for each seed. Which settings it is made with, and what the
numbers must be, stands in ``configs/claims``; ``python -m experiments.claims`` makes it.
"""
