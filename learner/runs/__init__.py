"""Learners from recipes and folders, many at once."""
