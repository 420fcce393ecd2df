"""The contract of a callback, and what every callback can use."""
