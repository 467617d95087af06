"""Integration along a path: attributions per sample, and running sums over units."""
