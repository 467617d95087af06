"""Benchmarks: programs that write benchmarks/results/NAME.json, each with its environment."""
