"""What a result is a mean of, which one is the best, and the weights that it was measured with."""
