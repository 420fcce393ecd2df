"""What a model holds: layers and parameters by name, its state, its norms."""
