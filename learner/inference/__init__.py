"""Predictions, and joining the outputs of batches."""
