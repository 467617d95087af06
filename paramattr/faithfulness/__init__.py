"""Faithfulness of rankings: masking curves and their comparison."""
