"""Passes over data: length, position, and the epoch number."""
