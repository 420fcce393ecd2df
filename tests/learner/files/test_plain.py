"""Plain data is restored from a checkpoint with the same bits, and other data is refused with its place."""

from __future__ import annotations

import array
import collections
import enum
import math
import pathlib
import struct
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import nn

from learner.files import checkpoint_file
from learner.files.plain import KIND, from_plain, to_plain

WHOLE = st.integers() | st.integers(min_value=-(10**800), max_value=10**800)
SCALARS = st.none() | st.booleans() | WHOLE | st.floats() | st.text()
KEYS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.just(KIND),
    lambda keys: st.lists(keys, max_size=2).map(tuple),
    max_leaves=3,
)
NUMBERS = (
    npst.integer_dtypes() | npst.floating_dtypes() | npst.complex_number_dtypes() | npst.boolean_dtypes()
)
OTHERS = (
    st.binary()
    | st.binary().map(bytearray)
    | st.complex_numbers()
    | st.sets(KEYS)
    | st.frozensets(KEYS)
    | st.builds(collections.deque, st.lists(SCALARS, max_size=3), st.none() | st.integers(0, 4))
    | st.dictionaries(KEYS, SCALARS, max_size=3).map(collections.OrderedDict)
    | st.dictionaries(KEYS, st.integers(), max_size=3).map(collections.Counter)
    | st.builds(
        collections.defaultdict,
        st.sampled_from([None, int, float, list, dict, set]),
        st.dictionaries(KEYS, SCALARS, max_size=3),
    )
    | st.builds(array.array, st.sampled_from("bhilq"), st.lists(st.integers(-100, 100)))
    | st.builds(array.array, st.sampled_from("fd"), st.lists(st.floats(width=32)))
    | npst.arrays(NUMBERS, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    | npst.arrays(NUMBERS, ()).map(lambda made: made[()])
    | st.lists(st.integers(0, 9)).map(torch.Size)
    | st.sampled_from([torch.float16, torch.bool, torch.float8_e4m3fn])
    | st.sampled_from(["cpu", "cuda:1", "meta"]).map(torch.device)
    | st.lists(st.floats(width=32)).map(torch.tensor)
)
VALUES = st.recursive(
    SCALARS | OTHERS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=8,
)


def bits(value: Any) -> Any:
    """A value as something that is equal exactly when type and bits are; every NaN is alike."""
    kind = type(value)
    if kind is float:
        return kind, "nan" if math.isnan(value) else struct.pack("d", value)
    if kind is complex:
        return kind, bits(value.real), bits(value.imag)
    if isinstance(value, torch.Tensor):
        return kind, value.dtype, tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, (np.ndarray, np.generic)):
        return kind, value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, array.array):
        return kind, value.typecode, value.tobytes()
    if isinstance(value, (set, frozenset)):
        return kind, frozenset(str(bits(item)) for item in value)
    if isinstance(value, dict):
        factory = getattr(value, "default_factory", None)
        return kind, factory, [(bits(key), bits(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple, collections.deque)):
        return kind, getattr(value, "maxlen", None), [bits(item) for item in value]
    return kind, value


@given(VALUES)
@example({KIND: "bytes", "value": "not bytes of ours"})
@example({KIND: "dict", "items": []})
@example([-0.0, math.inf, -math.inf, math.nan, 5e-324, 2**63, -(2**63) - 1, 2**2039, 2**2040, -(2**2040)])
@example({"long": [1, 10**700]})
@settings(deadline=None)
def test_plain_data_is_restored_with_the_same_bits(value):
    assert bits(from_plain(to_plain(value, "state"))) == bits(value)


@given(VALUES)
@example([-0.0, math.inf, math.nan, 2**2039, 2**2040, -(2**2040), {"\x00": "𝄞"}])
@settings(deadline=None, max_examples=60)
def test_a_file_keeps_the_bits_of_plain_data(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("plain") / "one.ckpt"
    checkpoint_file.write(path, {"value": to_plain(value, "state")}, durable=False)
    assert bits(from_plain(checkpoint_file.read(path)["value"])) == bits(value)


def test_a_restored_generator_draws_what_the_first_would_have_drawn():
    generator = torch.Generator().manual_seed(3)
    torch.rand(5, generator=generator)
    again = from_plain(to_plain(generator, "state"))
    assert torch.equal(torch.rand(5, generator=again), torch.rand(5, generator=generator))


def test_the_random_states_of_python_and_numpy_are_plain():
    import random

    states = {"python": random.getstate(), "numpy": np.random.RandomState(1).get_state()}
    assert bits(from_plain(to_plain(states, "random"))) == bits(states)


def test_a_parameter_becomes_a_tensor_without_gradient():
    plain = to_plain(nn.Parameter(torch.ones(2)), "state")
    assert type(plain) is torch.Tensor
    assert not plain.requires_grad


def test_a_view_is_kept_without_the_storage_under_it():
    plain = to_plain({"one": torch.zeros(1000)[:1], "wide": torch.zeros(1).expand(1000)}, "state")
    assert plain["one"].untyped_storage().nbytes() == 4
    assert plain["wide"].untyped_storage().nbytes() == 4000


def test_tied_tensors_stay_tied():
    weight = torch.ones(3)
    plain = to_plain({"a": weight, "b": weight}, "state")
    assert plain["a"].data_ptr() == plain["b"].data_ptr() == weight.data_ptr()


def test_a_sparse_tensor_is_restored():
    there = torch.eye(3).to_sparse()
    again = from_plain(to_plain(there, "state"))
    assert again.is_coalesced()
    assert torch.equal(again.to_dense(), torch.eye(3))


def test_an_object_that_occurs_twice_is_one_object_after_restoring():
    inner = [1]
    again = from_plain(to_plain({"a": inner, "b": inner, "c": [1]}, "state"))
    assert again["a"] is again["b"]
    assert again["a"] is not again["c"]


def test_the_copy_does_not_share_memory_with_the_original():
    state = {"best": [1, 2]}
    plain = to_plain(state, "state")
    state["best"].append(3)
    assert plain == {"best": [1, 2]}


# What is refused ------------------------------------------------------------------------------------------


class Colour(enum.IntEnum):
    RED = 1


class Own(torch.Tensor):
    pass


Pair = collections.namedtuple("Pair", "x y")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Python 3.13 and later: 'u' will go
    TEXT_ARRAY = array.array("u", "x")

REFUSED = {
    "object": (object(), "type object"),
    "function": (len, "builtin_function_or_method"),
    "path": (pathlib.Path("x"), "pathlib"),
    "enum": (Colour.RED, "Colour"),
    "str subclass": (np.str_("x"), "dtype <U1"),
    "namedtuple": (Pair(1, 2), "Pair"),
    "tensor subclass": (torch.ones(1).as_subclass(Own), "Own"),
    "object array": (np.array([None]), "dtype object"),
    "text array": (np.array(["x"]), "dtype <U1"),
    "structured array": (np.zeros(1, dtype=[("a", "i4")]), "dtype"),
    "text": (TEXT_ARRAY, "typecode 'u'"),
    "defaultdict": (collections.defaultdict(lambda: 1), "defaultdict of"),
    "meta": (torch.empty(1, device="meta"), "without values"),
    "key": ({b"x": 1}, "key of type bytes"),
    "key in a tuple": ({(1, (2, b"x")): 1}, "key of type bytes"),
    "huge key": ({10**900: 1}, "key of type int"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_values_are_refused_with_place_type_and_hint(name):
    value, words = REFUSED[name]
    with pytest.raises(TypeError) as caught:
        to_plain({"best": [0, 1, 2, {"key": value}]}, "callbacks.early_stopping")
    message = str(caught.value)
    assert message.startswith("callbacks.early_stopping.best[3]['key'] ")
    assert words in message
    assert "its own `state_dict`" in message


@pytest.mark.parametrize("make", [lambda inner: [inner], lambda inner: (inner,), lambda inner: {"a": inner}])
def test_very_deep_nesting_is_refused_with_a_message(make):
    value: Any = 1
    for _ in range(100_000):
        value = make(value)
    with pytest.raises(TypeError, match="nested more than 100 levels deep"):
        to_plain(value, "state")


def test_what_contains_itself_is_refused_in_words():
    ring: list[Any] = [1, {}]
    ring[1]["back"] = ring
    with pytest.raises(TypeError, match=r"state\[1\]\['back'\] contains itself"):
        to_plain(ring, "state")


def test_what_is_shared_many_times_over_is_copied_once():
    value: Any = [1]
    for _ in range(60):
        value = [value, value]  # 2 ** 60 items if each reference were followed
    again = from_plain(to_plain(value, "state"))
    assert again[0] is again[1]


# Hostile data ---------------------------------------------------------------------------------------------

TEXT = torch.frombuffer(bytearray(8), dtype=torch.uint8)
NONSENSE = [
    pytest.param(object(), id="object"),
    b"raw",
    {KIND: "os.system", "value": "touch canary"},
    {KIND: ["list"], "value": 1},
    {KIND: "set", "value": [[1]]},
    {KIND: "set"},
    {KIND: "set", "value": [], "more": 1},
    {KIND: "bytes", "value": "𝄞"},
    {KIND: "int", "value": 3},
    {KIND: "int", "value": "zz"},
    {KIND: "complex", "value": (1, 2, 3)},
    {KIND: "defaultdict", "value": {}, "factory": "eval"},
    {KIND: "dtype", "value": "torch.load"},
    {KIND: "device", "value": "os.system"},
    {KIND: "Size", "value": ["x"]},
    {KIND: "array", "value": TEXT, "dtype": "O", "shape": (1,)},
    {KIND: "array", "value": TEXT, "dtype": "<f8", "shape": (10**12,)},
    {KIND: "array", "value": [1], "dtype": "<f8", "shape": (1,)},
    {KIND: "array.array", "value": TEXT, "typecode": "u"},
    {KIND: "Generator", "value": TEXT, "device": "cpu"},
    {KIND: "Generator", "value": 3, "device": "cpu"},
    {KIND: "sparse", "value": [torch.tensor([[9]]), torch.ones(1)], "shape": (2,), "coalesced": False},
    {KIND: "deque", "value": [], "maxlen": -1},
    {KIND: "dict", "items": [([], 1)]},
    {KIND: "Counter", "value": 3},
]


@pytest.mark.parametrize("data", NONSENSE, ids=lambda data: str(data)[:60])
def test_data_that_no_state_is_made_of_are_refused_and_nothing_is_imported(data):
    with pytest.raises(ValueError, match=r"supported in a checkpoint|a checkpoint supports|cannot be made"):
        from_plain(data)


def test_strings_that_name_code_stay_strings():
    state = {"_target_": "os.system", "cls": "torch.nn.Linear", "_instantiator": "eval('1')"}
    assert from_plain(to_plain(state, "state")) == state
