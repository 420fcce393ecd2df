"""The list of callbacks: its order, how each is found, and which operations they override."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from functools import partial

import pytest
import torch

from callbacks import (
    MAE,
    Callback,
    Callbacks,
    DevicePlacement,
    LearnerWarning,
    Metrics,
    Order,
    Recorder,
    StopOnNaN,
    ZeroGrad,
    on,
)


class Probe(Callback):
    def __init__(self, tag="", *, name=None):
        super().__init__(name=name)
        self.tag = tag

    def after_epoch(self, learn):
        self.epoch = learn.epoch


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


def test_a_name_that_there_is_not_is_refused_with_a_suggestion():
    callbacks = Callbacks([Probe(), Recorder()])
    with pytest.raises(
        AttributeError, match=r"no callback is called 'recorde'\. Did you mean 'recorder'\? There are"
    ):
        callbacks.recorde  # noqa: B018
    with pytest.raises(KeyError, match="no callback is called 'xyz'. There are: probe, recorder"):  # noqa: RUF043
        callbacks.named("xyz")
    assert not hasattr(callbacks, "xyz")


def test_a_class_with_no_callback_or_several_is_refused_with_the_names():
    callbacks = Callbacks([Probe(), Probe(name="second"), Recorder()])
    with pytest.raises(
        KeyError, match=r"2 callbacks are of the class Probe\. Use the name of one: probe, second"
    ):
        callbacks[Probe]
    with pytest.raises(
        KeyError, match=r"no callback is of the class ZeroGrad\. There are: probe, second, recorder"
    ):
        callbacks[ZeroGrad]


def test_the_composition_is_not_a_list_and_cannot_be_assigned_to():
    callbacks = Callbacks([Probe()])
    with pytest.raises(AttributeError, match=r"no callback is called 'append'.*learn\.add_callbacks"):
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
    with pytest.raises(TypeError, match=rf"pass a class, as in .*by name it is learn\.callbacks\.{name}\."):
        Callbacks([Probe()])[key]


def test_a_class_that_an_empty_composition_lacks_is_refused():
    with pytest.raises(KeyError, match=r"no callback is of the class ZeroGrad\. There are: none\."):
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


def test_iteration_goes_by_phase_and_then_as_given():
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


def test_none_is_a_composition_too():
    callbacks = Callbacks()
    assert (list(callbacks), len(callbacks), repr(callbacks)) == ([], 0, "Callbacks()")
    with pytest.raises(AttributeError, match="There are: none"):
        callbacks.probe  # noqa: B018


# What is taken and what is refused


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (
            "ZeroGrad",
            r"callbacks\[0\] is 'ZeroGrad' \(str\), which is not a callback.* subclass of Callback\.$",
        ),
        (None, r"is None \(NoneType\), which is not a callback"),
        (lambda learn: None, r'write @on\("after_batch"\) above it'),
        ([Probe()], "one by one, not a list within a list"),
        (dict, r"\(type\), which is not a callback: pass an instance of a subclass of Callback\.$"),
    ],
    ids=["str", "None", "function", "list", "other class"],
)
def test_what_is_not_a_callback_is_refused(item, words):
    with pytest.raises(TypeError, match=words):
        Callbacks([item])


def test_two_callbacks_that_override_one_operation_are_refused():
    with pytest.raises(
        ValueError, match=r"two callbacks implement 'zero_grad': ZeroGrad and OwnZeroGrad.*leave one"
    ):
        Callbacks([ZeroGrad(), OwnZeroGrad()])


def test_overrides_are_known():
    callbacks = Callbacks([Steps(), ZeroGrad()])
    assert callbacks.overrides == {"step": callbacks.steps, "zero_grad": callbacks.zero_grad}


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
    with pytest.warns(LearnerWarning, match="cannot be reached as learn.callbacks"):
        callbacks = Callbacks([Probe(name=name)])
    assert callbacks.named(name).name == name
    assert "after_fit" in callbacks.hooks


# The loop's view


def test_cleanup_goes_the_other_way_round():
    class Cleans(Callback):
        def before_fit(self, learn):
            learn.append(self.name)

        def cleanup_fit(self, learn):
            learn.append(self.name)

    callbacks = Callbacks([Cleans(name="a"), Cleans(name="b")])
    called = []
    for event in ("before_fit", "cleanup_fit"):
        for hook in callbacks.hooks[event]:
            hook(called)
    assert called == ["a", "b", "b", "a"]


def test_only_those_who_listen_are_called():
    callbacks = Callbacks([Probe(), Recorder()])
    assert [hook.__self__.name for hook in callbacks.hooks["after_epoch"]] == ["probe", "recorder"]
    assert callbacks.hooks["before_step"] == ()


@pytest.mark.filterwarnings("ignore:functools.partial will be a method")  # Python 3.13 and later
@pytest.mark.parametrize("kind", ["static", "class", "partial"])
def test_an_error_in_a_hook_of_any_kind_names_its_callback(kind, make_learner):
    def fail(*args):
        raise RuntimeError("mine")

    hooks = {"static": staticmethod(fail), "class": classmethod(fail), "partial": partial(fail, 1)}
    broken = type("Broken", (Callback,), {"after_batch": hooks[kind]})
    with pytest.raises(RuntimeError, match="mine") as caught:
        make_learner(callbacks=[broken]).fit(1)
    assert any("Broken" in note and "after_batch" in note for note in caught.value.__notes__)


# Callbacks as objects


@dataclass
class Settings(Callback):
    patience: int = 3

    def after_epoch(self, learn):
        self.seen = learn.epoch


def test_data_classes_can_be_callbacks_and_equal_ones_are_two(make_learner):
    one, other = Settings(), Settings()
    other.name = "other"
    assert one == other
    learn = make_learner(callbacks=[one])
    with learn.added(other):
        learn.fit(2)
    assert list(learn.callbacks).count(one) == 1
    assert (one.seen, other.seen) == (1, 1)
    assert one in learn.callbacks
    learn.remove_callbacks(one)
    assert Settings not in learn.callbacks


CALLBACKS = [
    ZeroGrad(),
    DevicePlacement("cpu"),
    StopOnNaN(),
    Metrics(MAE(), on="both"),
    Recorder(),
    Probe("x"),
]


@pytest.mark.parametrize("callback", CALLBACKS, ids=lambda callback: callback.name)
@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda callback: pickle.loads(pickle.dumps(callback))]
)
def test_callbacks_can_be_copied_and_pickled_before_and_after_a_fit(callback, duplicate, make_learner):
    for _ in range(2):
        again = duplicate(callback)
        assert type(again) is type(callback)
        assert repr(again) == repr(callback)
        defaults = () if isinstance(again, ZeroGrad) else (ZeroGrad,)
        make_learner(callbacks=[again], defaults=defaults).fit(1)
        callback = again


def test_a_callback_from_a_function_can_be_copied(make_learner):
    seen = []

    @on("after_epoch")
    def keep(learn):
        seen.append(learn.epoch)

    make_learner(callbacks=[copy.deepcopy(keep)]).fit(1)
    assert seen == [0]


def test_a_composition_can_be_copied_with_its_own_callbacks():
    callbacks = Callbacks([Probe("x"), Metrics()])
    for again in (copy.deepcopy(callbacks), pickle.loads(pickle.dumps(callbacks))):
        assert repr(again) == repr(callbacks)
        assert again.probe is not callbacks.probe
        assert again.hooks["after_epoch"][0].__self__ is again.probe


def test_torch_saves_what_a_callback_declares(tmp_path):
    class Keeps(Callback):
        state = ("best",)

    keeps = Keeps()
    assert keeps.state_dict() == {}
    keeps.best = torch.ones(2)
    torch.save(keeps.state_dict(), tmp_path / "state.pt")
    other = Keeps()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other.best, keeps.best)
    with pytest.raises(ValueError, match=r"Keeps declares state \('best',\), but also received \['wait'\]"):
        other.load_state_dict({"wait": 1})
