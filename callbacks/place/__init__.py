"""Where the model and its batches are, and in which layout they are kept."""
