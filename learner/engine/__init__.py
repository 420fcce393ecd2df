"""What the loop builds on: calls of events and operations, errors, interrupts, layer groups."""
