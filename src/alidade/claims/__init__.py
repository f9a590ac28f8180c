"""Hypotheses, intervals and verdicts."""
