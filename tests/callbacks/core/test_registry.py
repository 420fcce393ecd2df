"""The list of callbacks: its order, how each is found, and which operations they override."""

from __future__ import annotations

import pytest
from ground.tagged import Probe

from callbacks import (
    Callback,
    Callbacks,
    DevicePlacement,
    LearnerWarning,
    Order,
    Recorder,
    ZeroGrad,
)


class SubProbe(Probe):
    pass


class Needy(Callback):
    def __init__(self, value):
        self.value = value


class Steps(Callback):
    def step(self, learn):
        learn.optimizer.step()


class OwnZeroGrad(Callback):
    def zero_grad(self, learn):
        learn.optimizer.zero_grad()


# Reaching one


def test_a_callback_is_found_by_name_by_class_and_by_base_class():
    probe = Probe()
    callbacks = Callbacks([ZeroGrad(), probe])
    assert callbacks.probe is callbacks.named("probe") is callbacks[Probe] is probe
    assert callbacks.zero_grad is callbacks[ZeroGrad]
    sub = SubProbe()
    assert Callbacks([sub])[Probe] is sub


def test_in_knows_instances_classes_and_names():
    probe = Probe()
    callbacks = Callbacks([probe])
    assert probe in callbacks
    assert Probe in callbacks
    assert "probe" in callbacks
    for other in (Probe(), ZeroGrad, "zero_grad", None, 3, [probe]):
        assert other not in callbacks


def test_an_unknown_name_is_refused_with_a_suggestion():
    callbacks = Callbacks([Probe(), Recorder()])
    with pytest.raises(
        AttributeError, match=r"no callback is named 'recorde'\. Did you mean 'recorder'\? Available"
    ):
        callbacks.recorde  # noqa: B018
    with pytest.raises(KeyError, match="no callback is named 'xyz'. Available: probe, recorder"):  # noqa: RUF043
        callbacks.named("xyz")
    assert not hasattr(callbacks, "xyz")


def test_a_class_with_no_callback_or_several_is_refused_with_the_names():
    callbacks = Callbacks([Probe(), Probe(name="second"), Recorder()])
    with pytest.raises(
        KeyError, match=r"2 callbacks are of the class Probe\. Use the name of one: probe, second"
    ):
        callbacks[Probe]
    with pytest.raises(
        KeyError, match=r"no callback is of the class ZeroGrad\. Available: probe, second, recorder"
    ):
        callbacks[ZeroGrad]


def test_the_composition_is_not_a_list_and_cannot_be_assigned_to():
    callbacks = Callbacks([Probe()])
    with pytest.raises(AttributeError, match=r"no callback is named 'append'.*learn\.add_callbacks"):
        callbacks.append(Recorder())
    with pytest.raises(
        AttributeError, match=r"learn\.callbacks\.probe cannot be assigned.*learn\.add_callbacks"
    ):
        callbacks.probe = Recorder()
    assert isinstance(callbacks.probe, Probe)


@pytest.mark.parametrize(
    ("key", "name"), [("probe", "probe"), (0, "early_stopping"), (slice(1), "early_stopping")]
)
def test_a_key_that_is_not_a_class_is_refused_with_the_way_by_name(key, name):
    with pytest.raises(
        TypeError, match=rf"pass a class, as in .*To use a name, write learn\.callbacks\.{name}\."
    ):
        Callbacks([Probe()])[key]


def test_a_class_that_an_empty_composition_lacks_is_refused():
    with pytest.raises(KeyError, match=r"no callback is of the class ZeroGrad\. Available: none\."):
        Callbacks()[ZeroGrad]


def test_a_composition_that_is_not_filled_yet_has_no_attributes():
    with pytest.raises(AttributeError, match="_by_name"):  # a debugger asks for them
        Callbacks.__new__(Callbacks).probe  # noqa: B018


def test_without_a_callback_its_hooks_and_its_operation_are_gone():
    callbacks = Callbacks([Probe(), ZeroGrad(), Recorder()])
    left = callbacks.without(callbacks.probe, callbacks.zero_grad)
    assert list(left) == [callbacks.recorder]
    assert left.overrides == {}
    assert [hook.__self__.name for hook in left.hooks["after_epoch"]] == ["recorder"]
    assert "probe" not in left
    assert len(callbacks) == 3


def test_iteration_is_by_phase_and_then_in_the_given_order():
    class Late(Callback):
        order = Order.SAVE

    late, first, second = Late(), Probe(name="first"), Probe(name="second")
    callbacks = Callbacks([late, first, second])
    assert list(callbacks) == [first, second, late]
    assert len(callbacks) == 3


def test_an_instance_may_choose_its_phase():
    late = Probe(name="late")
    late.order = Order.SAVE
    early = Probe(name="early")
    early.order = Order.PREPARE
    assert [callback.name for callback in Callbacks([late, Recorder(), early])] == [
        "early",
        "recorder",
        "late",
    ]


def test_dir_lists_the_names_and_repr_shows_the_callbacks():
    callbacks = Callbacks([Probe("x"), DevicePlacement("cpu")])
    assert {"probe", "device_placement", "named"} <= set(dir(callbacks))
    assert repr(callbacks) == "Callbacks(DevicePlacement(prefetch=True), Probe(tag='x'))"


def test_a_private_class_is_reached_by_its_name_too():
    class _Hidden(Callback):
        pass

    assert Callbacks([_Hidden])._hidden


def test_an_empty_list_is_a_composition_too():
    callbacks = Callbacks()
    assert (list(callbacks), len(callbacks), repr(callbacks)) == ([], 0, "Callbacks()")
    with pytest.raises(AttributeError, match="Available: none"):
        callbacks.probe  # noqa: B018


# What is taken and what is refused


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (
            "ZeroGrad",
            r"callbacks\[0\] is 'ZeroGrad' \(str\), which is not a callback.* subclass of Callback\. "
            r"Names are for recipes; here pass the object itself: from callbacks import ZeroGrad\.$",
        ),
        ("early_stopping", r"from callbacks import EarlyStopping\.$"),
        (None, r"is None \(NoneType\), which is not a callback"),
        (lambda learn: None, r'write @on\("after_batch"\) above it'),
        ([Probe()], "one by one, not a list within a list"),
        (dict, r"\(type\), which is not a callback: pass an instance of a subclass of Callback\.$"),
    ],
    ids=["str", "snake case", "None", "function", "list", "other class"],
)
def test_what_is_not_a_callback_is_refused(item, words):
    with pytest.raises(TypeError, match=words):
        Callbacks([item])


def test_two_callbacks_that_override_one_operation_are_refused():
    with pytest.raises(
        ValueError, match=r"two callbacks implement 'zero_grad': ZeroGrad and OwnZeroGrad.*remove the other"
    ):
        Callbacks([ZeroGrad(), OwnZeroGrad()])


def test_overrides_are_known():
    callbacks = Callbacks([Steps(), ZeroGrad()])
    assert callbacks.overrides == {"step": callbacks.steps, "zero_grad": callbacks.zero_grad}


def test_former_name_of_overrides_warns_and_returns_the_same():
    callbacks = Callbacks([ZeroGrad()])
    with pytest.warns(DeprecationWarning, match="overrides") as caught:
        assert callbacks.doers is callbacks.overrides  # vocabulary: quoted
    assert caught[0].filename == __file__


def test_an_attribute_with_an_operations_name_does_not_override_it(make_learner):
    class Counts(Callback):
        def __init__(self):
            self.step = self.forward = 0

        def after_step(self, learn):
            self.step += 1

    learn = make_learner(callbacks=[Counts])
    learn.fit(1)
    assert learn.callbacks.counts.step == 3


def test_a_hook_set_on_an_instance_is_refused_as_it_would_never_be_called():
    probe = Probe()
    probe.after_batch = lambda learn: None
    with pytest.raises(TypeError, match=r"Probe .*sets self\.after_batch, which would never be called"):
        Callbacks([probe])


@pytest.mark.parametrize(
    ("attribute", "value", "words"), [("order", 60, "choose a phase"), ("name", 3, "write it as a string")]
)
def test_attributes_of_another_form_on_an_instance_are_refused(attribute, value, words):
    probe = Probe()
    setattr(probe, attribute, value)
    with pytest.raises(TypeError, match=words):
        Callbacks([probe])


@pytest.mark.parametrize("name", ["hooks", "doers", "named", "two words", "class", ""])  # vocabulary: quoted
def test_a_name_that_no_dot_reaches_is_reported(name):
    with pytest.warns(LearnerWarning, match="cannot be accessed as learn.callbacks"):
        callbacks = Callbacks([Probe(name=name)])
    assert callbacks.named(name).name == name
    assert "after_fit" in callbacks.hooks


def test_if_reports_are_silenced_only_those_for_every_rank_are_called():
    class Quiet(Callback):
        silences = True

    class Report(Probe):
        order = Order.REPORT

    class EveryRank(Report):
        on_every_rank = True

    called = Callbacks([Probe(), Report(), EveryRank(), Quiet()]).hooks["after_epoch"]
    assert [hook.__self__.name for hook in called] == ["probe", "every_rank"]
