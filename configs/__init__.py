"""Configurations of the experiment mains."""
