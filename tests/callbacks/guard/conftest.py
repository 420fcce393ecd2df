"""What the tests of guards share."""

from __future__ import annotations

import pytest

from callbacks.guard import stop_on_nan


@pytest.fixture
def on_device(monkeypatch):
    """The callbacks treat the CPU as a device that is waited for."""
    monkeypatch.setattr(stop_on_nan, "is_free_to_read", lambda number: False)
