"""`learn.check()`: a learner examined at length on one batch."""
