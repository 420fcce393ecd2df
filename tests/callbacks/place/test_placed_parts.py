"""The model and the state of the optimizer follow the device."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from ground.nests import (
    CPU,
    META,
    NESTS,
    x,
)
from torch import nn
from torch.nn import functional as F

from callbacks import Callback, DevicePlacement, Metrics, ZeroGrad
from callbacks.place.device import find_device, place_optimizer, tensors_in, to_device
from learner import Data, Learner


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", 3.5, None, "tpu0"])
def test_an_unknown_device_is_refused_with_the_valid_ones(device):
    with pytest.raises(
        ValueError, match=r"DevicePlacement\(.*\): (no such device\. Use 'auto'|this machine has)"
    ):
        DevicePlacement(device)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "xpu", torch.device("cuda")])
def test_a_missing_accelerator_is_refused(device):
    with pytest.raises(ValueError, match=r"this machine has only a CPU\. Use 'auto'"):
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
def test_the_state_of_the_optimizer_follows_the_model(shape):
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


def test_the_state_of_an_optimizer_on_the_device_is_not_changed():
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


def test_two_fits_with_a_prediction_between_them_continue_training(recwarn):
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
def test_a_fit_on_cuda_and_then_on_the_cpu_moves_the_state_of_the_optimizer():
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


def test_no_pass_reads_a_computed_state():
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
