"""Callbacks that look inside the model, and draw it."""
