"""How a result is averaged, which result is the best, and the weights with which it was measured."""
