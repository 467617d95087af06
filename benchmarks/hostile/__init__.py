"""Hostile inputs: good files, what is done to them, and how a call on them ends."""
