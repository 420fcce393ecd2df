"""Files of checkpoints, of weights and of runs: complete or absent, and without code."""
