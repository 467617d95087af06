"""What is done to a model with a selection: edits, retraining, export."""
