"""FRUGAL and its special cases."""
