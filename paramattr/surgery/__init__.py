"""Surgery on a model by a selection of units: edits, retraining, export."""
