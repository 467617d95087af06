"""Whether the units that a ranking names are those that matter: masking, curves, comparison."""
