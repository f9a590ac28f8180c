"""Measurements along a run."""
