"""DevicePlacement: nests of every kind are moved and keep their types; `meta` is the accelerator here."""

from __future__ import annotations

import dataclasses
import types
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Mapping
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from callbacks import Callback, DevicePlacement, Metrics, ZeroGrad
from callbacks.core import draws
from callbacks.place.device import find_device, map_tensors, place_optimizer, tensors_in, to_device
from learner import Data, Learner

META = torch.device("meta")
CPU = torch.device("cpu")
Point = namedtuple("Point", "x y")


@dataclasses.dataclass
class Sample:
    x: torch.Tensor
    note: str = "kept"
    doubled: torch.Tensor = dataclasses.field(init=False)

    def __post_init__(self):
        self.doubled = self.x * 2


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: torch.Tensor


@dataclasses.dataclass(slots=True)
class Slotted:
    x: torch.Tensor


class HuggingFaceLike(UserDict):
    """Moves itself in place, as transformers' BatchEncoding does."""

    def __init__(self, data, encodings=None):
        super().__init__(data)
        self.encodings = encodings

    def to(self, device):
        self.data = {key: item.to(device) for key, item in self.data.items()}
        return self


class ReadOnly(Mapping):
    def __init__(self, data):
        self._data = dict(data)

    def __getitem__(self, key):
        return self._data[key]

    def __iter__(self):
        return iter(self._data)

    def __len__(self):
        return len(self._data)


class MovesItself:
    def __init__(self, device="cpu"):
        self.device = device

    def to(self, device):
        return MovesItself(str(device))


class MyList(list):
    pass


def x() -> torch.Tensor:
    return torch.ones(2, 3)


NESTS = {
    "tensor": x,
    "parameter": lambda: nn.Parameter(x()),
    "tuple": lambda: (x(), x()),
    "list": lambda: [x(), x()],
    "list class": lambda: MyList([x()]),
    "named tuple": lambda: Point(x(), {"y": x()}),
    "dict": lambda: {"a": x(), "b": [x()]},
    "ordered dict": lambda: OrderedDict(a=x()),
    "user dict": lambda: UserDict(a=x()),
    "default dict": lambda: defaultdict(list, a=x()),
    "read-only mapping": lambda: ReadOnly({"a": x()}),
    "mapping proxy": lambda: types.MappingProxyType({"a": x()}),
    "hugging face": lambda: HuggingFaceLike({"input_ids": x()}, encodings="kept"),
    "data class": lambda: Sample(x()),
    "frozen data class": lambda: Frozen(x()),
    "slotted data class": lambda: Slotted(x()),
    "deep": lambda: ({"a": [Point(x(), (x(), Sample(x())))]}, [x(), None, "text", 3]),
}


@pytest.mark.parametrize("kind", NESTS)
def test_every_tensor_of_a_nest_is_moved_and_the_nest_keeps_its_types(kind):
    batch = NESTS[kind]()
    before = [tensor.device for tensor in tensors_in(batch)]
    moved = to_device(batch, META)
    assert before
    assert type(moved) is type(batch) or isinstance(batch, nn.Parameter)
    assert [tensor.device for tensor in tensors_in(moved)] == [META] * len(before)
    assert [tensor.device for tensor in tensors_in(batch)] == before  # the nest given is not changed


def test_what_a_nest_has_besides_tensors_is_kept():
    sample = to_device(Sample(x(), note="mine"), META)
    assert (sample.note, sample.doubled.device) == ("mine", META)
    assert to_device(HuggingFaceLike({"a": x()}, encodings="mine"), META).encodings == "mine"
    assert to_device(defaultdict(list, a=x()), META)["new"] == []
    with pytest.raises(dataclasses.FrozenInstanceError):
        to_device(Frozen(x()), META).x = 1


@pytest.mark.parametrize(
    "item", [None, "text", 3, 2.5, True, b"bytes", frozenset([1]), object(), range(3), Sample, torch.float32]
)
def test_what_holds_no_tensor_is_left_as_it_is(item):
    assert to_device(item, META) is item
    assert to_device([item], META)[0] is item


def test_sets_are_left_alone():
    tensors = {x(), x()}
    assert to_device(tensors, META) is tensors


def test_an_object_that_moves_itself_is_asked_to():
    assert to_device([MovesItself()], META)[0].device == "meta"


def test_a_packed_sequence_keeps_its_lengths_on_the_cpu():
    packed = pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    moved = to_device((packed, x()), META)[0]
    assert isinstance(moved, PackedSequence)
    assert (moved.data.device, moved.batch_sizes.device) == (META, CPU)


def test_what_is_there_already_is_not_copied():
    batch = (x(), x())
    assert to_device(batch, CPU) is batch
    nest = {"a": [x()], "b": Sample(x())}
    moved = to_device(nest, CPU)
    assert moved["a"][0] is nest["a"][0]
    assert moved["b"].x is nest["b"].x


def test_a_nest_can_be_walked_through():
    nest = (
        {"a": torch.zeros(1)},
        [Point(torch.zeros(2), None)],
        UserDict(b=torch.zeros(3)),
        Frozen(torch.zeros(4)),
    )
    assert [len(tensor) for tensor in tensors_in(nest)] == [1, 2, 3, 4]
    assert [len(tensor) for tensor in tensors_in(map_tensors(nest, lambda tensor: tensor[1:]))] == [
        0,
        1,
        2,
        3,
    ]


# Which device


def test_auto_takes_the_accelerator_or_the_cpu():
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else CPU
    assert find_device("auto").type == there.type


def test_cuda_is_started_with_the_callback_so_that_its_random_state_can_be_restored(monkeypatch):
    started = []
    for name, value in (("is_available", True), ("device_count", 1), ("current_device_index", 0)):
        monkeypatch.setattr(torch.accelerator, name, lambda value=value: value)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "init", lambda: started.append(1))
    assert DevicePlacement("cpu").device == CPU
    assert not started
    assert DevicePlacement().device == torch.device("cuda", 0)
    assert started


def test_random_states_of_more_gpus_than_there_are_now_are_restored_as_far_as_possible(monkeypatch):
    restored = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.extend)
    draws.put({"cuda": ["first", "second", "third"]})
    assert restored == ["first", "second"]


def test_a_device_is_named_as_tensors_name_it():
    for device in ("cpu", "cpu:0", torch.device("cpu"), "meta", "auto"):
        found = find_device(device)
        assert torch.empty(1, device=found).device == found


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", 3.5, None, "tpu0"])
def test_a_device_that_there_is_not_is_refused_with_those_that_can_be_written(device):
    with pytest.raises(
        ValueError, match=r"DevicePlacement\(.*\): (no such device\. Write 'auto'|this machine has)"
    ):
        DevicePlacement(device)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "xpu", torch.device("cuda")])
def test_an_accelerator_that_is_not_there_is_refused(device):
    with pytest.raises(ValueError, match=r"this machine has only a cpu\. Write 'auto'"):
        DevicePlacement(device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_cuda_device_beyond_the_last_is_refused():
    with pytest.raises(ValueError, match="counted from 0"):
        DevicePlacement("cuda:99")


# The model and the optimizer


def make(device="cpu", model=None, optimizer=None, valid=None):
    data = Data([(torch.ones(4, 2), torch.ones(4, 1))], valid)
    optimizer = optimizer or partial(torch.optim.Adam, lr=0.1)
    return Learner(
        model or nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1)),
        data,
        F.mse_loss,
        optimizer,
        callbacks=[DevicePlacement(device)],
        defaults=(ZeroGrad, Metrics),
    )


def test_predictions_of_a_model_that_was_placed_without_a_fit_are_on_the_cpu():
    learn = make("meta", model=nn.Linear(2, 1, device="meta"))
    with pytest.raises(
        NotImplementedError, match="meta"
    ):  # it was moved: meta holds no numbers to bring back
        learn.predict(torch.ones(3, 2))
    learn = make()
    assert learn.predict(torch.ones(3, 2)).device == CPU


def test_the_model_is_moved_before_it_sees_a_batch_with_its_buffers():
    learn = make("meta")
    with pytest.raises(NotImplementedError):  # meta holds no numbers that could be brought back
        learn.predict(torch.ones(3, 2))
    assert {tensor.device for tensor in (*learn.model.parameters(), *learn.model.buffers())} == {META}


@pytest.mark.parametrize("shape", [(2,), ()])
def test_the_optimizers_state_follows_the_model(shape):
    parameter = nn.Parameter(torch.ones(shape, device="meta"))
    optimizer = torch.optim.Adam([parameter])
    moments = {"exp_avg": torch.ones(shape), "exp_avg_sq": torch.ones(shape)}
    optimizer.state[parameter] = {"step": torch.tensor(3.0), **moments}
    place_optimizer(optimizer)
    for values in optimizer.state.values():
        assert values["exp_avg"].device == values["exp_avg_sq"].device == META
        assert values["step"].device == CPU
    assert float(optimizer.state[parameter]["step"]) == 3
    state = optimizer.state
    place_optimizer(optimizer)  # `step` on the CPU is where it belongs, so nothing is moved a second time
    assert optimizer.state is state


def test_an_optimizers_state_that_is_in_place_is_not_touched():
    learn = make()
    learn.fit(1)
    before = [value for values in learn.optimizer.state.values() for value in values.values()]
    learn.fit(1)
    after = [value for values in learn.optimizer.state.values() for value in values.values()]
    assert all(one is other for one, other in zip(before, after, strict=True))


def test_a_model_that_is_replaced_between_passes_is_placed_again():
    learn = make("meta", model=nn.Linear(2, 1, device="meta"))
    callback = learn.callbacks[DevicePlacement]
    callback.before_fit(learn)
    learn.model = nn.Linear(2, 1)
    learn.batch = (torch.ones(1, 2),)
    callback.place(learn)
    assert learn.device == META
    assert learn.batch[0].device == META


def test_the_callback_keeps_no_model_after_a_fit():
    learn = make()
    learn.fit(1)
    assert learn.callbacks[DevicePlacement]._placed is None


def test_two_fits_and_a_prediction_between_them_train_on(recwarn):
    learn = make(valid=[(torch.ones(2, 2), torch.ones(2, 1))])
    learn.fit(1)
    first = learn.results["train_loss"]
    learn.predict(torch.ones(1, 2))
    learn.fit(3)
    assert learn.results["train_loss"] < first


def test_a_model_without_parameters_can_be_placed():
    class Nothing(nn.Module):
        def forward(self, inputs):
            return inputs

    learn = Learner(
        Nothing(), Data([(x(), x())]), F.mse_loss, callbacks=[DevicePlacement("cpu")], defaults=()
    )
    assert torch.equal(learn.predict(x()), x())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_fit_on_cuda_and_then_on_the_cpu_takes_the_optimizers_state_along():
    learn = make("cuda")
    learn.fit(2)
    assert learn.device.type == "cuda"
    learn.model.cpu()
    again = make("cpu", model=learn.model, optimizer=learn.optimizer)
    again.fit(1)
    assert {value.device for values in again.optimizer.state.values() for value in values.values()} == {CPU}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", NESTS)
def test_nested_tensors_reach_cuda_and_return_complete(kind):
    there = to_device(NESTS[kind](), find_device("cuda"))
    assert all(tensor.device.type == "cuda" for tensor in tensors_in(there))
    back = to_device(there, CPU)
    assert all(tensor.device == CPU and bool((tensor >= 1).all()) for tensor in tensors_in(back))


def test_no_pass_reads_a_state_that_is_computed():
    class Counting(Callback):
        state = ("total",)
        n_read = 0

        @property
        def total(self) -> float:
            self.n_read += 1
            return 0.0

        @total.setter
        def total(self, total: float) -> None:
            pass

    counting = Counting()
    learn = make(valid=[(torch.ones(2, 2), torch.ones(2, 1))])
    learn.add_callbacks(counting)
    learn.fit(1)
    n_read, counting.n_read = counting.n_read, 0
    learn.fit(4)
    assert counting.n_read == n_read  # once in each fit, by a check
