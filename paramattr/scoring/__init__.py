"""Scores: a run over samples, its state, its limits, and what is looked at beside it."""
