"""Everything that determines the future of a learner: snapshots, modes, the position of the loop."""
