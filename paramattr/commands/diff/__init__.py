"""What fine-tuning changed: two models, data, and the units that the change lies in."""
