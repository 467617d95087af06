"""Only the filters found, retrained from the baseline: Tab. 3 of the paper."""
