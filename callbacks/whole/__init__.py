"""The whole step as one program: `step` has the plug-in, `maker` finds or makes the program of a batch."""

from callbacks.whole.step import WholeStep as WholeStep
