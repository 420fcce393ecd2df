"""Freed memory stays with the process, as page faults of a separate process show."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from learner import keep_memory

SCRIPT = """
import resource, torch
from learner import keep_memory
def take():
    for _ in range(3):
        torch.ones(16 * 2**20, dtype=torch.uint8)  # too large for the heap by glibc's own thresholds
def page_faults():
    torch.ones(64 * 2**20, dtype=torch.uint8)  # more than the largest threshold that glibc adapts to
    take()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(48 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
torch.set_num_threads(1)
print(page_faults())
assert keep_memory()
print(page_faults())
"""

on_glibc = pytest.mark.skipif(
    not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="there is no glibc"
)


@on_glibc
def test_allocating_freed_tensors_again_costs_few_page_faults():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    returned, kept = map(int, done.stdout.split())
    assert returned > 20 * 48 * 2**20 / 2**21 / 2  # half of them with the largest possible pages
    assert kept < returned / 10  # zero, except when the heap grows once


@pytest.mark.parametrize("found", ["musl 1.2", None, ""])
def test_keep_memory_does_nothing_without_glibc(monkeypatch, found):
    monkeypatch.setattr(os, "confstr", lambda name: found, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", None)
    assert keep_memory() is False


def test_keep_memory_does_nothing_without_confstr(monkeypatch):
    monkeypatch.delattr(os, "confstr", raising=False)
    assert keep_memory() is False


@on_glibc
def test_a_refused_option_returns_false(monkeypatch):
    class Refusing:
        @staticmethod
        def mallopt(option: int, value: int) -> int:
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Refusing)
    assert keep_memory() is False
