"""Slow references, written straight from the equations and sharing no code with the package."""
