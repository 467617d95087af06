"""The change by fine-tuning: two models, data, and the units that the change lies in."""
