"""The format of a checkpoint file: whole or not there, and without code."""
