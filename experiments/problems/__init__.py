"""Bilevel problems: one file a family, each a function that returns what the main solves."""
