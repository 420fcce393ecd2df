"""Callbacks that change how an update is made."""
