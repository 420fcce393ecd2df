"""Callbacks that look inside the model and draw what they see."""
