"""Invalid callbacks, lists of callbacks, and cancels are refused with their name."""

from __future__ import annotations

import warnings

import pytest
import torch

from callbacks import (
    EVENTS,
    Callback,
    Metrics,
    Order,
    Recorder,
    When,
    ZeroGrad,
    on,
)


class Probe(Callback):
    """A callback that calls a function in one event, the first time or each time."""

    def __init__(self, event, action, *, name=None):
        super().__init__(name=name)
        self.event, self.action, self.calls = event, action, 0

    def _do(self, event, learn):
        if event == self.event:
            self.calls += 1
            self.action(learn)


for _event in EVENTS:
    setattr(Probe, _event, lambda self, learn, event=_event: self._do(event, learn))


def fail(learn):
    raise ArithmeticError("mine")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("after_batchs", "after_batch"), ("before_epochs", "before_epoch"), ("on_batch_end", "after_batch")],
)
def test_a_misspelt_hook_is_refused_when_the_class_is_defined(name, meant):
    with pytest.raises(TypeError, match=f"Bad.{name} would never be called.*Did you mean {meant}?"):
        type("Bad", (Callback,), {name: lambda self, learn: None})


def test_a_class_that_needs_no_arguments_is_accepted_for_an_instance(make_learner):
    class Quiet(Callback):
        def after_epoch(self, learn):
            self.called = True

    learn = make_learner(callbacks=[Quiet])
    learn.fit(1)
    assert learn.callbacks[Quiet].called
    with pytest.raises(TypeError, match=r"callbacks\[0\] is the class Probe, which needs arguments"):
        make_learner(callbacks=[Probe])


def test_what_is_not_a_callback_is_reported_with_the_argument_that_contains_it(make_learner):
    with pytest.raises(TypeError, match=r"^defaults\[1\] is 3"):
        make_learner(defaults=[ZeroGrad, 3])
    learn = make_learner()
    for give in (lambda: learn.fit(1, callbacks=[3]), lambda: learn.add_callbacks(3)):
        with pytest.raises(TypeError, match=r"^callbacks\[0\] is 3"):
            give()
    with pytest.raises(TypeError, match=r"^When\(callback\) is 3"):
        When(3, start="1 step")


def test_a_single_callback_need_not_be_a_list(make_learner):
    for callback in (Recorder(), Recorder):
        assert Recorder in make_learner(callbacks=callback, defaults=ZeroGrad).callbacks


@pytest.mark.parametrize("callbacks", ["ZeroGrad", print, 3, {"zero": ZeroGrad}])
def test_callbacks_that_are_not_a_list_are_refused(callbacks, make_learner):
    with pytest.raises(TypeError, match="pass a list of callbacks"):
        make_learner(callbacks=callbacks)


def test_the_same_instance_twice_is_refused(make_learner):
    probe = Probe("after_fit", print)
    with pytest.raises(ValueError, match="was passed twice"):
        make_learner(callbacks=[probe, probe])
    learn = make_learner(callbacks=[probe])
    with pytest.raises(ValueError, match="was passed twice"):
        learn.add_callbacks(probe)
    learn.fit(1)


def test_two_callbacks_of_a_class_need_two_names(make_learner):
    one, other = Probe("after_fit", id), Probe("after_fit", id)
    with pytest.raises(ValueError, match=r"two callbacks are named 'probe'.*name='my_probe'"):
        make_learner(callbacks=[one, other])
    other.name = "other"
    make_learner(callbacks=[one, other]).fit(1)
    assert one.calls == other.calls == 1


@pytest.mark.parametrize("event", [event for event in EVENTS if event != "cleanup_fit"])
def test_an_error_keeps_its_type_and_has_notes_on_callback_event_epoch_and_batch(event, make_learner):
    learn = make_learner(callbacks=[Probe(event, fail)])
    with pytest.raises(ArithmeticError, match="mine") as caught:
        learn.fit(2)
    notes = "\n".join(caught.value.__notes__)
    assert f"Probe.{event}" in notes
    assert f"epoch {learn.epoch}/2" in notes
    assert str(caught.value) == "mine"
    assert learn.error is caught.value


def test_a_callback_that_leaves_the_model_in_evaluation_mode_does_no_harm(make_learner):
    modes = []
    learn = make_learner(
        callbacks=[
            Probe("after_batch", lambda learn: learn.model.eval()),
            Probe(
                "before_batch", lambda learn: modes.append(learn.model.training is learn.training), name="see"
            ),
        ]
    )
    learn.fit(2)
    assert modes == [True] * len(modes)
    assert len(modes) == 2 * (3 + 2)


def test_only_a_method_may_be_a_helper_of_the_users_own():
    with pytest.raises(TypeError, match=r"helper of your own, call it _after_batch"):
        type("Mine", (Callback,), {"after_batch": lambda self: None})
    with pytest.raises(TypeError, match="write def") as caught:
        on("after_batch")(lambda: None)
    assert "helper" not in str(caught.value)


def test_a_hook_of_the_wrong_signature_is_refused_when_the_class_is_defined():
    with pytest.raises(TypeError, match=r"Bad\.after_batch\(self\) cannot be called with only the learner"):

        class Bad(Callback):
            def after_batch(self):
                pass


def test_a_callback_that_needs_a_missing_one_is_refused_with_both_names(make_learner):
    class Shows(Callback):
        needs = (Recorder, Metrics)

    with pytest.raises(ValueError, match=r"Shows needs Recorder: add Recorder\(\) to the callbacks"):
        make_learner(callbacks=[Shows], defaults=(Metrics,))
    learn = make_learner(callbacks=[Shows])
    with pytest.raises(ValueError, match="Shows needs Recorder"):
        learn.remove_callbacks(learn.callbacks[Recorder])
    assert Recorder in learn.callbacks


def test_callbacks_are_removed_by_class_or_name_and_a_missing_one_is_reported(make_learner):
    learn = make_learner(callbacks=[Probe("after_batch", id, name="mine")])
    learn.remove_callbacks(Recorder, "mine")
    assert Recorder not in learn.callbacks
    assert "mine" not in learn.callbacks
    with pytest.raises(KeyError, match="there is no callback Recorder"):
        learn.remove_callbacks(Recorder)
    with pytest.raises(KeyError, match="no callback is named 'mine'"):
        learn.remove_callbacks("mine")


@pytest.mark.parametrize("order", [list(Order), list(reversed(Order))], ids=["forwards", "backwards"])
def test_phases_cannot_form_a_cycle(order, make_learner):
    callbacks = []
    for phase in order:
        callbacks.append(on("after_epoch", order=phase, name=phase.name.lower())(lambda learn: None))
    learn = make_learner(callbacks=callbacks, defaults=())
    assert [callback.order for callback in learn.callbacks] == list(Order)


def test_the_loss_cannot_be_assigned_and_the_message_shows_what_can(make_learner):
    def forget(learn):
        learn.loss = None

    with pytest.raises(AttributeError, match=r"assign learn\.loss_grad"):
        make_learner(callbacks=[Probe("after_loss", forget)]).fit(1)


def test_a_callback_may_remove_itself_while_it_is_called(make_learner):
    late = Probe("after_batch", id, name="late")
    gone = Probe("after_batch", lambda learn: learn.remove_callbacks(gone), name="gone")
    learn = make_learner(callbacks=[gone, late])
    learn.fit(1)
    assert gone.calls == 1
    assert late.calls == 3 + 2  # nobody is skipped for it
    assert "gone" not in learn.callbacks


@pytest.mark.parametrize("name", ["model", "fit", "loss", "callbacks", "data"])
def test_the_name_of_a_callback_never_changes_the_learner(name, make_learner):
    learn = make_learner(callbacks=[Probe("after_fit", id, name=name)])
    learn.fit(1)
    assert isinstance(learn.model, torch.nn.Module)
    assert getattr(learn.callbacks, name).calls == 1


def test_a_name_that_the_list_of_callbacks_already_has_is_reported(make_learner):
    with pytest.warns(UserWarning, match="a callback called 'hooks' cannot be accessed"):
        make_learner(callbacks=[Probe("after_fit", id, name="hooks")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_learner(callbacks=[Probe("after_fit", id, name="my_hooks")])
