"""Memory that is freed stays with the process: seen in page faults, in processes of their own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from learner import keep_memory

SCRIPT = """
import resource, sys, torch
from learner import keep_memory
if {kept}:
    assert keep_memory()
def take():
    for _ in range(3):
        torch.ones(16 * 2**20, dtype=torch.uint8)  # too large for the heap by glibc's own thresholds
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.set_num_threads(1)
torch.ones(64 * 2**20, dtype=torch.uint8)  # more than the largest threshold that glibc adapts to
take()
before = faults()
for _ in range(20):
    torch.ones(48 * 2**20, dtype=torch.uint8)
print(faults() - before)
"""

on_glibc = pytest.mark.skipif(
    not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="there is no glibc"
)


def faults(kept: bool) -> int:
    script = SCRIPT.format(kept=kept)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return int(done.stdout)


@on_glibc
def test_tensors_that_are_freed_and_made_again_cost_few_page_faults():
    given_back = faults(kept=False)
    assert given_back > 20 * 48 * 2**20 / 2**21 / 2  # half of all, were pages as large as can be
    assert faults(kept=True) < given_back / 10  # none, but where the heap grows once


@pytest.mark.parametrize("found", ["musl 1.2", None, ""])
def test_without_glibc_nothing_is_done(monkeypatch, found):
    monkeypatch.setattr(os, "confstr", lambda name: found, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", None)
    assert keep_memory() is False


def test_nor_where_nobody_can_be_asked(monkeypatch):
    monkeypatch.delattr(os, "confstr", raising=False)
    assert keep_memory() is False


@on_glibc
def test_an_option_that_is_refused_is_told(monkeypatch):
    class Refusing:
        @staticmethod
        def mallopt(option: int, value: int) -> int:
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Refusing)
    assert keep_memory() is False
