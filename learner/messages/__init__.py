"""Errors and hints: what is wrong, where, and the name that was meant."""
