"""The learner: the methods that users call, and the values that hooks read."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

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


def test_a_callback_may_remove_itself_while_it_runs(make_learner):
    class Once(Callback):
        calls = cleaned = 0

        def after_batch(self, learn):
            self.calls += 1
            learn.remove_callbacks(self)

        def cleanup_fit(self, learn):
            self.cleaned += 1

    once = Once()
    learn = make_learner(callbacks=[once])
    learn.fit(2)
    assert (once.calls, once.cleaned) == (1, 1)
    assert Once not in learn.callbacks


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


def test_a_callback_added_for_one_fit_is_removed_after_it(make_learner):
    class Probe(Callback):
        pass

    learn = make_learner()
    learn.fit(1, callbacks=[Probe()])
    assert Probe not in learn.callbacks
    with learn.added(Probe()):
        assert Probe in learn.callbacks
    assert Probe not in learn.callbacks


def test_a_callback_added_during_a_fit_starts_at_once_and_is_cleaned_up(make_learner):
    class Late(Callback):
        log: list[str] = []  # noqa: RUF012

        def before_fit(self, learn):
            self.log.append("before_fit")

        def after_batch(self, learn):
            self.log.append("after_batch")

        def cleanup_fit(self, learn):
            self.log.append("cleanup_fit")

    @on("before_epoch")
    def add(learn):
        learn.add_callbacks(Late())

    make_learner(n_batches=1, valid=False, callbacks=[add]).fit(1)
    assert Late.log == ["before_fit", "after_batch", "cleanup_fit"]


def test_the_default_callbacks_are_present_unless_disabled():
    learn = Learner(nn.Linear(1, 1), (line_batches(), None), F.mse_loss)
    assert {type(callback) for callback in learn.callbacks} == set(DEFAULT_CALLBACKS)
    assert len(Learner(nn.Linear(1, 1), (line_batches(), None), F.mse_loss, defaults=()).callbacks) == 0


def test_a_callback_of_the_same_class_replaces_the_default(make_learner):
    mine = Metrics(on="both")
    learn = make_learner(callbacks=[mine])
    assert learn.callbacks[Metrics] is mine


def test_a_callback_that_implements_the_same_operation_replaces_the_default(make_learner):
    class Mine(Callback):
        def zero_grad(self, learn):
            learn.optimizer.zero_grad()

    learn = make_learner(callbacks=[Mine()])
    assert ZeroGrad not in learn.callbacks
    learn.fit(1)


def test_a_callback_can_override_an_operation(make_learner):
    class Still(Callback):
        def step(self, learn):
            pass

    learn = make_learner(callbacks=[Still()])
    before = weights(learn)
    learn.fit(1)
    assert torch.equal(weights(learn), before)


def test_a_subclass_can_override_an_operation():
    class Doubled(Learner):
        def compute_loss(self):
            super().compute_loss()
            self.loss_grad = 2 * self.loss_grad

    def fitted(kind, lr):
        torch.manual_seed(0)
        optimizer = lambda parameters: torch.optim.SGD(parameters, lr=lr)  # noqa: E731
        learn = kind(nn.Linear(1, 1), (line_batches(), None), F.mse_loss, optimizer, defaults=(ZeroGrad,))
        learn.fit(2)
        return weights(learn)

    assert torch.equal(fitted(Doubled, 0.125), fitted(Learner, 0.25))


def test_a_callback_and_a_subclass_that_implement_the_same_operation_are_refused():
    class Mine(Learner):
        def step(self):
            pass

    class Still(Callback):
        def step(self, learn):
            pass

    with pytest.raises(ValueError, match=r"two implement 'step': Mine\.step and the callback Still"):
        Mine(nn.Linear(1, 1), (line_batches(), None), F.mse_loss, callbacks=[Still()])


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


def test_validate_does_not_change_weights_counters_or_results(learn):
    learn.fit(1)
    before = (
        weights(learn),
        learn.epoch,
        learn.global_step,
        dict(learn.results),
        learn.training,
        learn.batch,
    )
    found = learn.validate()
    assert found == {"valid_loss": learn.history[-1]["valid_loss"]}
    after = (weights(learn), learn.epoch, learn.global_step, dict(learn.results), learn.training, learn.batch)
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_validate_during_a_fit_does_not_change_the_fit(make_learner):
    @on("after_batch")
    def look(learn):
        if learn.training:
            learn.validate()

    plain, looked = make_learner(), make_learner(callbacks=[look])
    plain.fit(2)
    looked.fit(2)
    assert torch.equal(weights(plain), weights(looked))
    assert plain.history["train_loss"] == looked.history["train_loss"]


def test_validation_does_not_use_the_random_numbers_of_training(make_learner):
    def fitted(valid, look):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        items, others = (TensorDataset(torch.rand(8, 1), torch.rand(8, 1)) for _ in range(2))
        train = DataLoader(items, 2, shuffle=True)
        learn = make_learner(model=model, data=Data(train, DataLoader(others, 4) if valid else None))
        torch.manual_seed(1)
        learn.fit(1)
        if look:
            learn.validate(DataLoader(items, 4))
            learn.get_preds(DataLoader(items, 4))
            learn.predict(items.tensors[0])
        learn.fit(1)
        return weights(learn)

    assert torch.equal(fitted(False, False), fitted(True, False))
    assert torch.equal(fitted(False, False), fitted(True, True))


def draws_beside(learn, loss, n_between: int) -> list[tuple[float, ...]]:
    """Numbers drawn in turn with validation; `loss` draws there, unless it is None."""
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    found = []
    for _ in range(5):
        if loss is not None:
            learn.loss_func = loss
            learn.validate()
        np.random.randn(n_between)
        found.append((random.random(), random.gauss(0, 1), np.random.rand(), float(torch.rand(()))))
    return found


@pytest.mark.parametrize("n_between", [0, 1, 2])  # NumPy draws normal numbers in pairs, and keeps the second
@pytest.mark.parametrize(
    "draw",
    [
        lambda: None,
        lambda: np.random.randn(),
        lambda: np.random.randn(3),
        lambda: (np.random.rand(), random.random(), torch.rand(2)),
        lambda: np.random.randn() if torch.rand(()) > 0.5 else random.gauss(0, 1),
        lambda: np.random.seed(3),
    ],
)
def test_code_in_validation_may_draw_from_any_generator_and_changes_none(make_learner, draw, n_between):
    def loss(preds, targets):
        draw()
        return F.mse_loss(preds, targets)

    learn = make_learner(data=Data(line_batches(), line_batches()))
    assert draws_beside(learn, loss, n_between) == draws_beside(learn, None, n_between)


def test_iterating_over_the_training_data_does_not_change_its_next_order(make_learner):
    def orders(look):
        data = Data.from_tensors(torch.arange(8.0)[:, None], torch.zeros(8, 1), 4, valid=None, seed=0)
        learn, seen = make_learner(data=data), []

        @on("before_batch")
        def note(learn):
            if learn.training:
                seen.append(learn.inputs[0].flatten().tolist())

        learn.fit(1, callbacks=[note])
        if look:
            learn.validate(data.train)
            learn.get_preds(data.train)
        learn.fit(1, callbacks=[note])
        return seen

    assert orders(look=True) == orders(look=False)


def test_a_callback_may_assign_a_single_argument_without_a_tuple(make_learner):
    @on("before_batch")
    def double(learn):
        learn.inputs = 2 * learn.inputs[0]

    make_learner(callbacks=[double]).fit(1)


def test_a_state_that_names_a_missing_attribute_is_reported(make_learner):
    class Misspelt(Callback):
        state = ("bset",)
        best = 0

    with pytest.warns(LearnerWarning, match=r"Misspelt\.state names 'bset'"):
        make_learner(callbacks=[Misspelt()]).fit(1)


def test_the_repr_of_a_learner_shows_its_parts(learn):
    assert repr(learn) == "Learner(Linear, Data, SGD, callbacks=[ZeroGrad, Metrics, Recorder])"


def test_predict_returns_the_output_of_the_model_in_evaluation_mode(make_learner):
    learn = make_learner(model=nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1)))
    inputs = torch.rand(5, 1)
    expected = learn.model.eval()(inputs).detach()
    learn.model.train()
    assert torch.equal(learn.predict(inputs), expected)
    assert learn.model.training


def test_get_preds_joins_all_batches(learn):
    preds, targets = learn.get_preds()
    assert preds.shape == targets.shape == (8, 1)
    assert torch.equal(preds[:4], learn.predict(learn.data.valid[0][0]))


def test_a_snapshot_restores_weights_optimizer_counters_history_and_random_state(make_learner):
    learn = make_learner()
    learn.optimizer = torch.optim.SGD(learn.model.parameters(), lr=0.1, momentum=0.9)
    learn.fit(1)
    snapshot = learn.snapshot()
    draws = (random.random(), np.random.rand(), torch.rand(()).item())
    learn.fit(2)
    end = weights(learn)
    learn.restore(snapshot)
    assert (learn.global_step, len(learn.history)) == (3, 1)
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == draws
    learn.fit(2)
    assert torch.equal(weights(learn), end)
    learn.restore(snapshot)
    assert learn.global_step == 3


def test_a_snapshot_keeps_the_declared_state_of_callbacks(make_learner):
    class Counter(Callback):
        state = ("count",)
        count = 0

        def after_batch(self, learn):
            self.count += 1

    learn = make_learner(callbacks=[Counter()])
    snapshot = learn.snapshot()
    learn.fit(1)
    assert learn.callbacks.counter.count == 5
    learn.restore(snapshot)
    assert learn.callbacks.counter.count == 0


def test_a_snapshot_of_another_model_is_refused_and_changes_nothing(make_learner):
    learn = make_learner()
    other = make_learner(model=nn.Linear(1, 1, bias=False)).snapshot()
    before = weights(learn)
    with pytest.raises(ValueError, match=r"another model: 1 tensor differs, such as 'bias'"):
        learn.restore(other)
    assert torch.equal(weights(learn), before)


def test_a_sandbox_leaves_no_trace(make_learner):
    learn = make_learner(model=nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)))
    learn.fit(1)
    learn.model.train()
    learn.model[0].weight.grad = torch.ones(4, 1)
    before = {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}
    draws = torch.get_rng_state()
    with learn.sandbox():
        learn.fit(2)
        learn.model.eval()
        learn.model[0].weight.requires_grad_(False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learn.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), draws)
    assert torch.equal(learn.model[0].weight.grad, torch.ones(4, 1))
    assert learn.model.training
    assert learn.model[0].weight.requires_grad
    assert len(learn.history) == 1
    assert learn.global_step == 3


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


class Logged(Callback):
    """Counts batches, and logs each start and end."""

    state = ("n",)

    def __init__(self, name="logged"):
        super().__init__(name=name)
        self.n, self.seen = 0, []

    def before_fit(self, learn):
        self.n = 0
        self.seen.append("start")

    def after_batch(self, learn):
        self.n += 1

    def cleanup_fit(self, learn):
        self.seen.append("end")


def test_a_callback_removed_or_replaced_in_a_sandbox_returns_to_its_place(make_learner):
    first, second = Logged("first"), Logged("second")
    learn = make_learner(callbacks=[first, second])
    learn.fit(1)
    before, n = list(learn.callbacks), first.n
    with learn.sandbox():
        learn.remove_callbacks(first)
        learn.add_callbacks(Logged("first"))
        learn.fit(1)
    assert all(one is other for one, other in zip(learn.callbacks, before, strict=True))
    assert (first.n, second.n) == (n, n)
    learn.fit(1)
    assert first.seen == ["start", "end"] * 2


def test_a_callback_removed_in_a_sandbox_during_a_fit_starts_again_with_its_state(make_learner):
    logged = Logged()

    class Aside(Callback):
        order = Order.SAVE

        def after_batch(self, learn):
            if learn.global_step == 2 and learn.training:
                with learn.sandbox():
                    learn.remove_callbacks(logged)
                    learn.add_callbacks(other := Logged("other"))
                assert (logged.n, other.seen) == (2, ["start", "end"])

    make_learner(callbacks=[logged, Aside()]).fit(1)
    assert logged.seen == ["start", "end"] * 2
    assert logged.n == 5
