"""Files of checkpoints, of weights and of runs: whole or not there, and without code."""
