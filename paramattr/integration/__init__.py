"""From batches and a path to attributions, per sample, and to running sums over units."""
