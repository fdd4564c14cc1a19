"""Bilevel problems and how each solver is set for them."""
