"""Callbacks that end a fit, or keep what went wrong."""
