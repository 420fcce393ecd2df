"""Callbacks that measure, keep and show results."""
