"""Callbacks that change hyperparameters during training, and the length of a fit."""
