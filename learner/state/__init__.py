"""Everything that determines how a learner continues: snapshots, modes, the position of the loop."""
