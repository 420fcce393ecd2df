"""What is wrong with a fit: told before its first weight changes, and at length by `learn.check()`."""
