"""Passes over data: their length, the position in them, and the number of the epoch."""
