"""Declarations of the paper's experiments."""
