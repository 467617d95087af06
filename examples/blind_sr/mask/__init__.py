"""Masking the filters found: what is lost (Sec. 5.2.1 of the paper)."""
