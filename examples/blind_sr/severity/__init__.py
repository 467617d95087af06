"""How severe a degradation is, from the filters that serve an input; and where it ends."""
