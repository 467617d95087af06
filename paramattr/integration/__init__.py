"""Attributions: the objective along a path, its gradients, and their sums over nodes and units."""
