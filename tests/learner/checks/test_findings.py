"""What `learn.check()` finds on one batch."""

from __future__ import annotations

import pytest
import torch
from examined import OnceDifferentiable, learner_of
from torch import Tensor, nn
from torch.nn import functional as F
from upper.article import article, tensor_data

from callbacks import (
    F1,
    Checkpoint,
    DeviceStats,
    EarlyStopping,
    GradientAccumulation,
    LRMonitor,
    Metrics,
    ReduceLROnPlateau,
    RNNReset,
    Throughput,
    ZeroGrad,
)
from learner import Data, Learner

MEASURED = (ZeroGrad, Metrics)

# What it finds


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.used(inputs)


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(inputs).softmax(0)


def test_parameters_that_no_gradient_reaches_are_named(capsys):
    report = learner_of(Unused()).check()
    assert "no gradient reaches spare.weight, spare.bias" in report.warnings[0]
    assert report.facts["gradient"].startswith("reaches 2 of 4 trainable tensors")


def test_items_that_mix_are_found(capsys):
    report = learner_of(Mixing()).check()
    assert "changing one item of a batch changes the outputs of 7 others" in report.warnings[0]


def test_an_rnn_that_mistakes_time_for_items_is_found(capsys):
    class Rnn(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.last = nn.RNN(3, 4), nn.Linear(4, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.last(self.rnn(inputs)[0]).mean(1)

    report = learner_of(Rnn(), Data([(torch.randn(8, 5, 3), torch.randn(8, 1))])).check()
    assert any("batch_first=True" in message for message in report.warnings)


class Stateful(nn.Module):
    """An LSTM that continues where the last batch ended."""

    def __init__(self):
        super().__init__()
        self.lstm, self.last, self.state = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 1), None

    def forward(self, inputs: Tensor) -> Tensor:
        outputs, state = self.lstm(inputs, self.state)
        self.state = [each.detach() for each in state]
        return self.last(outputs)


def test_a_model_that_continues_from_batch_to_batch_does_not_mix_items(capsys):
    batches = [(torch.randn(4, 5, 3), torch.randn(4, 5, 1)) for _ in range(2)]
    report = learner_of(Stateful(), Data(batches)).check()
    assert report.facts["items"] == "not checked: the outputs of a batch change if it is passed again"
    assert not report.warnings


def test_outputs_that_are_bools_are_compared_too(capsys):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(3, 1)

        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
            return self.last(inputs), inputs > 0

    data = Data([(torch.randn(8, 3), torch.randn(8, 1))])
    report = learner_of(Masked(), data, lambda preds, targets: F.mse_loss(preds[0], targets)).check()
    assert report.facts["items"].startswith("do not mix")


def test_the_stable_step_is_compared_with_the_rates_of_the_model(capsys):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, preds: Tensor, targets: Tensor) -> Tensor:
            return self.scale.square() * F.mse_loss(preds, targets)

    model, loss = nn.Linear(3, 1), Scaled()
    groups = [{"params": model.parameters(), "lr": 1e-3}, {"params": loss.parameters(), "lr": 100.0}]
    data = Data([(torch.randn(8, 3), torch.randn(8, 1))])
    report = Learner(model, data, loss, torch.optim.SGD(groups), defaults=MEASURED).check()
    assert not [each for each in report.warnings if "stable step" in each]


def test_batch_norm_that_mixes_items_in_training_only_is_not_an_error(capsys):
    report = learner_of(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))).check()
    assert report.facts["items"].startswith("do not mix")
    report = learner_of(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 1))).check()
    assert any("0 takes its statistics from the batch" in message for message in report.warnings)


def test_frozen_layers_that_follow_the_data_are_found(capsys):
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    report = learner_of(model).check()
    assert "0.running_mean, 0.running_var are still updated from the data" in report.warnings[0]


def test_layers_that_train_in_evaluation_mode_are_reported(capsys):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    model[1].eval()
    report = learner_of(model, tensor_data()).check()
    assert "1 are trained in evaluation mode" in report.warnings[0]


def test_frozen_layers_in_evaluation_mode_are_not_reported(capsys):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    model[1].eval().requires_grad_(requires_grad=False)
    assert not any("evaluation mode" in each for each in learner_of(model, tensor_data()).check().warnings)


def test_numbers_that_are_not_finite_are_counted_in_data_and_weights(capsys):
    inputs = torch.randn(8, 3)
    inputs[2, 1] = torch.nan
    report = learner_of(data=Data([(inputs, torch.randn(8, 1))])).check()
    assert "1 of 24 numbers in the inputs are NaN or infinite" in " ".join(report.errors)
    model = nn.Linear(3, 1)
    nn.init.constant_(model.bias, torch.inf)
    assert "1 of 4 numbers in the weights" in " ".join(learner_of(model).check().errors)


def test_a_first_loss_far_above_a_guess_is_reported(capsys):
    inputs, targets = torch.randn(64, 3) * 100, torch.randint(0, 4, (64,))
    report = learner_of(nn.Linear(3, 4), Data([(inputs, targets)]), F.cross_entropy).check()
    assert any("guessing among 4 classes gives ln(4) = 1.3863" in message for message in report.warnings)
    report = learner_of(nn.Linear(3, 4), Data([(inputs / 100, targets)]), F.cross_entropy).check()
    assert not report.warnings


def test_a_validation_batch_of_another_shape_is_found(capsys):
    data = Data([(torch.randn(8, 3), torch.randn(8, 1))], [(torch.randn(8, 3), torch.randn(8))])
    report = learner_of(data=data).check()
    assert report.errors[0].startswith("in validation, preds have shape (8, 1) and targets (8,)")


def test_a_model_without_a_second_derivative_has_no_known_step(capsys):
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
            return OnceDifferentiable.apply(super().forward(input))

    report = learner_of(Doubled(3, 1)).check()
    assert report.facts["stable step"].startswith("unknown")
    assert report.ok


def test_batches_that_can_be_read_only_once_are_not_consumed(capsys):
    batches = iter([(torch.randn(8, 3), torch.randn(8, 1))] * 2)
    learn = learner_of(data=Data(batches))
    report = learn.check()
    assert "read only once" in report.warnings[0]
    learn.fit(1)
    assert learn.global_step == 2


def test_mappings_tuples_and_models_with_their_own_loss_are_examined(capsys):
    class Output(dict):
        @property
        def loss(self):
            return self["loss"]

    class OwnLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(3, 2)

        def forward(self, inputs, labels):
            scores = self.last(inputs)
            return Output(loss=F.cross_entropy(scores, labels), scores=scores)

    batch = {"inputs": torch.randn(8, 3), "labels": torch.randint(0, 2, (8,))}
    report = learner_of(OwnLoss(), Data([batch]), None).check()
    assert report.ok, report.errors
    assert report.facts["items"].startswith("do not mix")


@pytest.mark.parametrize(("n_batches", "n_updates"), [(4, 5), (30, 0)])
def test_steps_on_one_batch_update_the_weights_also_with_gradient_accumulation(n_batches, n_updates):
    learn = article()
    learn.data = Data([learn.data.train[0]] * 40)
    learn.add_callbacks(GradientAccumulation(n_batches))
    report = learn.check()
    changes = f"{n_updates} updates in all, change its loss from 5619.2930 to"
    assert (changes if n_updates else "did not update the weights") in report.facts["one batch"]
    assert not any("leave its loss" in each for each in report.warnings)


def test_a_model_that_keeps_its_hidden_state_is_reset_before_its_validation_is_examined(make_learner, capsys):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.hidden = nn.RNNCell(1, 1), None

        def reset(self):
            self.hidden = None

        def forward(self, inputs):
            hidden = self.cell(inputs, self.hidden)
            self.hidden = hidden.detach()
            return hidden

    train, valid = [(torch.rand(4, 1), torch.rand(4, 1))], [(torch.rand(2, 1), torch.rand(2, 1))]
    assert make_learner(model=Recurrent(), data=Data(train, valid), callbacks=[RNNReset()]).check().ok


def test_a_metric_that_fails_in_validation_is_found(capsys):
    inputs, targets = torch.randn(8, 3), torch.randint(4, (8,))
    data = Data([(inputs, targets)], [(inputs + 1, targets)])
    learn = learner_of(nn.Linear(3, 4), data, F.cross_entropy, metrics=[F1()], defaults=MEASURED)
    report = learn.check()
    assert len(report.errors) == 1
    assert report.errors[0].startswith("ValueError: F1(average='binary') is for two classes")
    assert "in callback Metrics.after_batch" in report.errors[0]
    assert (
        learner_of(nn.Linear(3, 4), data, F.cross_entropy, metrics=[F1("macro")], defaults=MEASURED)
        .check()
        .ok
    )


def test_a_monitored_result_that_is_not_measured_is_found(capsys):
    data = Data([(torch.randn(8, 3), torch.randn(8, 1))], [(torch.randn(8, 3), torch.randn(8, 1))])
    report = learner_of(data=data, callbacks=[EarlyStopping("valid_los")], defaults=MEASURED).check()
    assert "Did you mean 'valid_loss'?" in report.errors[0]
    assert learner_of(data=data, callbacks=[EarlyStopping("valid_loss")], defaults=MEASURED).check().ok


def test_all_monitored_results_that_are_not_measured_are_found_together(capsys, tmp_path):
    given = [
        EarlyStopping("valid_los"),
        ReduceLROnPlateau("loss"),
        Checkpoint(tmp_path / "run", best="train_los"),
    ]
    report = learner_of(callbacks=given, defaults=MEASURED).check()
    found = [error.removeprefix("ValueError: ").partition(":")[0] for error in report.errors]
    expected = {"EarlyStopping(monitor='valid_los')", "ReduceLROnPlateau(monitor='loss')"}
    assert set(found) == {*expected, "Checkpoint(best='train_los')"}
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "callback"), [("memory_mib", DeviceStats), ("lr_0", LRMonitor), ("data_wait", Throughput)]
)
def test_a_monitored_result_of_any_callback_that_measures_is_right(capsys, name, callback):
    stop = EarlyStopping(name, mode="min")
    assert learner_of(callbacks=[stop, callback()], defaults=MEASURED).check().ok


def test_equal_shapes_of_a_list_of_items_are_reported_once(capsys):
    class PerItem(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(3, 1)

        def forward(self, items: list[Tensor]) -> Tensor:
            return self.last(torch.stack(items))

    batch = [torch.randn(3) for _ in range(8)], torch.randn(8, 1)
    report = learner_of(PerItem(), Data([batch], split=lambda batch: ((batch[0],), batch[1]))).check()
    assert report.facts["batch"].startswith("inputs 8 x (3,) float32; targets (8, 1) float32;")
