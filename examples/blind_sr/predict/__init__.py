"""What degraded an input, told by the filters that serve it (Sec. 4.3 and 5.3 of the paper)."""
