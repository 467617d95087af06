"""Every method beside every other: Tab. 2 and Fig. 3 of the paper."""
