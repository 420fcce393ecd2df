"""`learn.check()`: a thorough check of a learner on one batch."""
