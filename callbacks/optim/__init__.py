"""Several optimizers as one, and hyperparameters by the names that people use."""
