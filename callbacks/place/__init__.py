"""The device of the model and its batches, and their memory layout."""
