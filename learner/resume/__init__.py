"""Checkpoints: what they hold, whether they fit, and how a run resumes from one."""
