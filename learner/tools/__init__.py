"""Tools for a whole learner: searches for a rate and a batch size, cost, replay."""
