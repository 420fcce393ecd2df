"""Wrong settings are refused before a process waits for another one."""

from __future__ import annotations

from typing import Any

import pytest

from callbacks import Distributed

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"kind": "dpp"}, "kind must be 'ddp' or 'fsdp'"),
    ({"find_unused": True}, "Did you mean find_unused_parameters?"),
    ({"bacth": "each"}, "Did you mean batch?"),
    ({"device_ids": [0]}, "has no argument 'device_ids'"),
    ({"mixed_precision": "bf16"}, "add the callback MixedPrecision"),
    ({"kind": "fsdp", "find_unused_parameters": True}, "is for 'ddp'"),
    ({"batch": 64}, "batch must be 'global' or 'each'"),
    ({"sharded": "yes"}, "must be True or False"),
    ({"kind": "fsdp", "offload": 2}, "must be True or False"),
    ({"backend": "glo"}, "as 'gloo' or 'nccl'"),
    ({"backend": 1}, "as 'gloo' or 'nccl'"),
    ({"timeout": "x"}, "a number of seconds above 0"),
    ({"timeout": -1}, "a number of seconds above 0"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_a_wrong_setting_is_refused_with_what_to_write(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message.replace("?", "[?]")):
        Distributed(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"find_unused_parameters": True, "bucket_cap_mb": 10},
        {"kind": "fsdp", "reshard_after_forward": False, "precision": "bf16"},
        {"backend": "cpu:gloo,cuda:nccl", "timeout": 0.5},
        {"backend": "GLOO", "in_order": False},
    ],
)
def test_the_settings_of_torch_are_accepted(settings: dict[str, Any]) -> None:
    Distributed(**settings)
