"""The step without the wrappers of torch: `step` has the plug-in."""

from callbacks.lean.step import LeanStep as LeanStep
