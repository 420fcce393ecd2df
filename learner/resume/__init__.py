"""Checkpoints: write them, check whether they fit a learner, and resume a run from one."""
