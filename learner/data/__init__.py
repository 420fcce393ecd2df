"""Data: loaders, batches of tensors, data sets, and the random generators they draw from."""
