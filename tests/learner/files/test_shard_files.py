"""The description of the tensors of a sharded model is read from a pickle without running what it names."""

from __future__ import annotations

import pickle

import pytest
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata

from learner.files.shard_files import Description


class Written:
    """Is written as the attribute of an object, as Python 3.11.2 writes a member of an enum."""

    def __init__(self, owner, name):
        self.attribute = owner, name

    def __reduce__(self):
        return getattr, self.attribute


def test_a_member_of_an_enum_may_be_written_by_its_name():
    member = _MEM_FORMAT_ENCODING.TORCH_CONTIGUOUS_FORMAT
    for written in (member, Written(_MEM_FORMAT_ENCODING, member.name)):
        assert Description(pickle.dumps(written)).load() is member


@pytest.mark.parametrize(
    "attribute",
    [
        (Metadata, "__init__"),
        (_MEM_FORMAT_ENCODING, "__reduce__"),
        (_MEM_FORMAT_ENCODING, "mro"),
        ("", "join"),
    ],
)
def test_any_other_attribute_is_refused(attribute):
    with pytest.raises(ValueError, match=r"which torch does not; nothing was run"):
        Description(pickle.dumps(Written(*attribute))).load()


def test_another_function_is_refused():
    with pytest.raises(ValueError, match=r"names builtins\.print, which torch does not write"):
        Description(pickle.dumps(print)).load()
