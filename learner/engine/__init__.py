"""What the loop stands on: operations and their owners, errors, interrupts, layer groups."""
