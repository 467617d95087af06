"""Any number of degradations: the units of each against the rest, masked, and recognised."""
