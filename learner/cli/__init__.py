"""The command `learner`."""

from learner.cli.commands import main

__all__ = ["main"]
