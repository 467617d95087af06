"""Where and how a model computes: alone, on which device, beside how many others."""
