"""The learner: the methods that users call, and the values that hooks read."""

from __future__ import annotations

import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F

from callbacks import (
    Callback,
    CancelStep,
    LearnerProtocol,
    LearnerWarning,
    Metrics,
    Order,
    Progress,
    Recorder,
    ZeroGrad,
    on,
)
from learner import DEFAULT_CALLBACKS, Data, Learner


def weights(learn: Learner) -> torch.Tensor:
    return nn.utils.parameters_to_vector(learn.model.parameters()).detach().clone()


def test_the_learner_meets_the_protocol_of_hooks(learn):
    names = [name for name in dir(LearnerProtocol) if not name.startswith("_")]
    missing = [name for name in [*names, *LearnerProtocol.__annotations__] if not hasattr(learn, name)]
    assert missing == []
    learn_as_hooks_see_it: LearnerProtocol = learn
    assert learn_as_hooks_see_it is learn


def test_fitting_lowers_the_loss_and_returns_the_history(learn):
    history = learn.fit(5)
    assert history is learn.history
    assert history[-1]["valid_loss"] < history[0]["valid_loss"]


def test_the_counters_count_updates_items_epochs_and_batches(make_learner):
    seen = []

    @on("after_batch")
    def tick(learn):
        seen.append((learn.epoch, learn.batch_idx, learn.n_batches, learn.training, learn.global_step))

    learn = make_learner(callbacks=[tick])
    learn.fit(2)
    first = [
        (0, 0, 3, True, 1),
        (0, 1, 3, True, 2),
        (0, 2, 3, True, 3),
        (0, 0, 2, False, 3),
        (0, 1, 2, False, 3),
    ]
    assert seen[:5] == first
    assert (learn.global_step, learn.n_samples, learn.n_epochs) == (6, 24, 2)
    learn.fit(1)
    assert (learn.global_step, learn.n_samples) == (9, 36)


def test_the_reported_loss_is_that_of_the_loss_function_when_the_gradient_is_scaled(make_learner):
    seen = []

    class Scale(Callback):
        def before_backward(self, learn):
            learn.loss_grad = learn.loss_grad * 0

        def after_batch(self, learn):
            seen.append((learn.loss.item(), learn.loss.requires_grad))

    learn = make_learner(callbacks=[Scale()], valid=False)
    before = weights(learn)
    learn.fit(1)
    assert torch.equal(weights(learn), before)
    assert all(loss > 0 and not tracked for loss, tracked in seen)


def test_the_loss_cannot_be_overwritten(make_learner):
    @on("after_loss")
    def spoil(learn):
        learn.loss = None

    with pytest.raises(AttributeError, match=r"assign learn\.loss_grad"):
        make_learner(callbacks=[spoil]).fit(1)


def test_a_callback_that_leaves_evaluation_mode_on_does_not_change_training(make_learner):
    modes = []

    class Careless(Callback):
        def before_batch(self, learn):
            modes.append(learn.model.training)
            learn.model.eval()

    make_learner(callbacks=[Careless()], valid=False).fit(1)
    assert modes == [True, True, True]


def test_a_layer_in_evaluation_mode_stays_in_it_in_every_epoch(make_learner):
    model = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model[1].eval()
    modes = []

    @on("before_batch")
    def look(learn):
        modes.append((learn.training, model.training, model[1].training))

    make_learner(n_batches=1, model=model, callbacks=[look]).fit(2)
    assert modes == 2 * [(True, True, False), (False, False, False), (False, False, False)]


def test_the_model_keeps_its_mode(learn):
    learn.model.eval()
    learn.fit(1)
    assert not learn.model.training


def test_making_a_learner_does_not_change_the_model():
    model = nn.Linear(1, 1)
    Learner(model, (line_batches(), None), F.mse_loss)
    assert model.training


def test_a_fit_without_a_callback_that_zeroes_the_gradients_is_refused(make_learner):
    with pytest.raises(ValueError, match=r"callbacks=\[ZeroGrad\(\)\]"):
        make_learner(defaults=()).fit(1)


def test_gradients_accumulate_while_steps_are_cancelled():
    """Two half batches and one cancelled step have the weights of one whole batch."""

    class EveryOther(Callback):
        order = Order.GRADIENT

        def before_backward(self, learn):
            learn.loss_grad = learn.loss_grad / 2

        def before_step(self, learn):
            if learn.batch_idx % 2 == 0:
                raise CancelStep

    (inputs, targets), *_ = line_batches(1, 8)

    def fitted(batches, callbacks):
        torch.manual_seed(0)
        optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.1)  # noqa: E731
        learn = Learner(
            nn.Linear(1, 1), Data(batches), F.mse_loss, optimizer, callbacks=callbacks, defaults=(ZeroGrad,)
        )
        learn.fit(3)
        return weights(learn)

    halves = [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])]
    torch.testing.assert_close(fitted(halves, [EveryOther()]), fitted([(inputs, targets)], []))


def test_a_callback_may_assign_a_single_argument_without_a_tuple(make_learner):
    @on("before_batch")
    def double(learn):
        learn.inputs = 2 * learn.inputs[0]

    make_learner(callbacks=[double]).fit(1)


def test_a_state_that_names_a_missing_attribute_is_reported(make_learner):
    class Misspelt(Callback):
        state = ("bset",)
        best = 0

    with pytest.warns(LearnerWarning, match=r"Misspelt\.state lists 'bset'"):
        make_learner(callbacks=[Misspelt()]).fit(1)


def test_the_repr_of_a_learner_shows_its_parts(learn):
    assert repr(learn) == "Learner(Linear, Data, SGD, callbacks=[ZeroGrad, Metrics, Recorder])"


def test_a_stop_without_a_reason_is_refused(learn):
    with pytest.raises(TypeError, match="pass the reason"):
        learn.stop("")


def test_a_fit_inside_a_fit_is_refused(make_learner):
    @on("after_epoch")
    def again(learn):
        learn.fit(1)

    with pytest.raises(RuntimeError, match="in the middle of a fit"):
        make_learner(callbacks=[again]).fit(1)


def test_a_fit_of_no_epochs_returns_at_once(learn):
    before = weights(learn)
    learn.fit(0)
    assert torch.equal(weights(learn), before)


def test_the_default_progress_is_the_only_default_that_prints(make_learner, capsys):
    make_learner(defaults=[each for each in DEFAULT_CALLBACKS if each is not Progress]).fit(2)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_a_model_whose_output_has_its_own_loss_needs_no_loss_function():
    class Output(dict):
        loss: torch.Tensor

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 1)

        def forward(self, inputs, labels):
            output = Output(logits=self.linear(inputs))
            output.loss = F.mse_loss(output["logits"], labels)
            return output

    torch.manual_seed(0)
    batches = [{"inputs": inputs, "labels": labels} for inputs, labels in line_batches()]
    learn = Learner(
        Own(),
        Data(batches),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        defaults=(ZeroGrad, Metrics, Recorder),
    )
    history = learn.fit(5)
    assert history[-1]["train_loss"] < history[0]["train_loss"]


def test_the_loss_value_is_that_of_the_current_batch(make_learner):
    seen = []

    @on("after_loss")
    def note(learn):
        seen.append((learn.loss_value, learn.loss.item()))
        assert type(learn.loss_value) is float
        learn.loss_grad = learn.loss_grad * 2  # does not change the reported loss

    learn = make_learner(callbacks=[note])
    assert learn.loss_value is None
    learn.fit(2)
    assert len({value for value, _ in seen}) > 4
    assert all(value == expected for value, expected in seen)


def test_the_loss_value_stays_a_tensor_where_reading_it_would_wait(make_learner):
    learn = make_learner()
    learn.loss_grad = torch.ones((), device="meta", requires_grad=True) * 2
    learn.loop.note_loss(learn)
    assert learn.loss_value is learn.loss
    assert learn.loss_value.is_meta
    assert not learn.loss_value.requires_grad
