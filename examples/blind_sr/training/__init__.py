"""Training a pair of networks, and one branch against two."""
