"""Checks of a fit that run before its first weight changes, and hints for errors in the middle of it."""
