"""Scalars: numbers of many steps, in order, without waiting for a device."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from callbacks.history.scalars import JOIN_AT, Scalars


class Elsewhere(torch.Tensor):
    """A tensor on an imitated accelerator, which counts how often it is waited for."""

    waits = 0
    is_cpu = False

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs or {})
        if function in (torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.__float__):
            cls.waits += 1
        return result


def elsewhere(value: float, dtype=torch.float32) -> torch.Tensor:
    return torch.tensor(value, dtype=dtype).as_subclass(Elsewhere)


def test_numbers_are_restored_exactly():
    scalars = Scalars()
    given = [torch.tensor(0.1), 0.2, torch.tensor([0.3], dtype=torch.float64), 4, torch.tensor(True)]
    for value in given:
        scalars.append(value)
    assert list(scalars.read()) == [torch.tensor(0.1).item(), 0.2, 0.3, 4.0, 1.0]


def test_a_tensor_of_several_elements_on_a_device_is_refused_with_its_shape():
    scalars = Scalars()
    scalars.append(torch.ones(4, 1).as_subclass(Elsewhere))
    with pytest.raises(ValueError, match=r"one number per batch is needed, .*\(4, 1\)"):
        scalars.read()


def test_numbers_on_a_device_wait_only_to_be_read_and_then_once():
    Elsewhere.waits = 0
    scalars = Scalars()
    for step in range(JOIN_AT - 1):
        scalars.append(elsewhere(float(step)))
    assert Elsewhere.waits == 0
    assert list(scalars.read()) == [float(step) for step in range(JOIN_AT - 1)]
    assert Elsewhere.waits == 1


def test_a_million_tensors_are_never_held():
    scalars = Scalars()
    for step in range(3 * JOIN_AT + 5):
        scalars.append(elsewhere(float(step)))
    assert len(scalars._pending) == 5
    assert len(scalars._joined) == 3
    assert list(scalars.read()) == [float(step) for step in range(3 * JOIN_AT + 5)]


def test_the_order_is_kept_where_numbers_of_the_cpu_come_between_those_of_a_device():
    scalars = Scalars()
    for value in (1.0, elsewhere(2.0), 3.0, elsewhere(4.0), torch.tensor(5.0)):
        scalars.append(value)
    assert list(scalars.read()) == [1, 2, 3, 4, 5]


def test_kinds_of_floats_may_be_mixed_on_a_device():
    scalars = Scalars()
    for value in (elsewhere(0.5, torch.float16), elsewhere(0.1, torch.float64), elsewhere(2, torch.int64)):
        scalars.append(value)
    assert list(scalars.read()) == pytest.approx([0.5, 0.1, 2])


def test_reading_twice_is_the_same_and_clearing_removes_everything():
    scalars = Scalars()
    scalars.append(elsewhere(1.0))
    assert list(scalars.read()) == list(scalars.read()) == [1.0]
    scalars.append(elsewhere(2.0))
    scalars.clear()
    assert list(scalars.read()) == []


def test_no_graph_is_held():
    scalars = Scalars()
    scalars.append(elsewhere(1.0).requires_grad_() * 2)
    scalars._join()
    assert not scalars._joined[0].requires_grad


def test_a_copy_grows_on_its_own():
    scalars = Scalars()
    scalars.append(1.0)
    for other in (copy.deepcopy(scalars), pickle.loads(pickle.dumps(scalars))):
        other.append(2.0)
        assert list(other.read()) == [1.0, 2.0]
    assert list(scalars.read()) == [1.0]


def test_a_tensor_of_several_numbers_is_refused():
    with pytest.raises(RuntimeError, match="2 elements"):
        Scalars().append(torch.zeros(2))
