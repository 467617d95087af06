"""The filters ranked by each method, for each function."""
