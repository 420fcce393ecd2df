"""The command `learner`."""
