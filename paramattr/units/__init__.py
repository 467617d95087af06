"""Units: what falls into one, the scores they get, and the sets that are chosen by them."""
