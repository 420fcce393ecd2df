"""Predictions, and how those of the batches are joined."""
