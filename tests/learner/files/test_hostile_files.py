"""Hostile checkpoint files are refused, and run no code."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from upper.hostile import refused, seal

from learner.files import checkpoint_file

CANARY = "canary"


class Call:
    """An object that pickles to a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class SetState:
    """An object that pickles to a call of `__setstate__`."""

    def __setstate__(self, state: Any) -> None:
        Path(CANARY).touch()

    def __reduce__(self) -> Any:
        return SetState, (), {"x": 1}


def touch() -> str:
    return f"open({CANARY!r}, 'w').close()"


def calls() -> dict[str, Any]:
    """Calls that a pickle can contain; each writes the canary file if it runs."""
    import importlib
    import os
    import runpy

    return {
        "os.system": Call(os.system, f"touch {CANARY}"),
        "eval": Call(eval, touch()),
        "exec": Call(exec, touch()),
        "getattr": Call(getattr, Call(importlib.import_module, "os"), "system"),
        "runpy": Call(runpy.run_path, "evil.py"),
        "setstate": SetState(),
        "torch.load": Call(torch.load, "evil.pkl", None, None),
        "torch.hub": Call(torch.hub.load, ".", "evil"),
        "torch internal": Call(torch._utils._import_dotted_name, "evil"),
        "allowed by torch": Call(bytearray, 1 << 40),
        "allowed by torch too": Call(torch.Tensor, 1 << 20, 1 << 20),
        "storage": Call(torch.FloatStorage, 1 << 40),
        "codec": b"bytes go through a codec, which is looked up by name",
    }


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")
@pytest.mark.parametrize("name", calls())
def test_a_file_made_to_run_code_is_refused_and_runs_nothing(tmp_path, monkeypatch, tight_memory, name):
    monkeypatch.chdir(tmp_path)
    for evil in ("evil.py", "hubconf.py"):
        (tmp_path / evil).write_text(touch())
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Call(eval, touch())))
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "evil.ckpt"
    torch.save({"format": 1, "model": calls()[name]}, path)
    message = refused(seal(path, path.read_bytes()))
    assert "nothing in the file was run" in message
    assert "evil" not in sys.modules
    assert not (tmp_path / CANARY).exists()


def test_what_a_program_allows_torch_to_load_is_still_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.ckpt"
    torch.save({"format": 1, "model": Call(eval, touch())}, path)
    with torch.serialization.safe_globals([eval]):
        assert "it names builtins.eval" in refused(seal(path, path.read_bytes())).replace(
            "__builtin__", "builtins"
        )
    assert not (tmp_path / CANARY).exists()


def test_the_hostile_code_runs_where_a_file_is_not_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(calls()["eval"], "evil.ckpt")
    torch.load("evil.ckpt", weights_only=False)
    assert (tmp_path / CANARY).exists(), "the tests above would notice nothing"


def test_strings_that_name_code_stay_strings(tmp_path):
    texts = {"_target_": "os.system", "cls": "torch.nn.Linear", "call": "eval('1')", "os.system": "x"}
    checkpoint_file.write(tmp_path / "one", {"texts": texts})
    assert checkpoint_file.read(tmp_path / "one")["texts"] == texts
