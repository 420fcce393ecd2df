"""Classes of callbacks that are refused when they are defined, and classes that are accepted."""

from __future__ import annotations

import functools

import pytest
import torch
from ground.defining import define, generator
from tiny import title_of

from callbacks import EVENTS, OPERATIONS, Callback

# Names that users give to their own methods.
HELPERS = """
    plot log save load reset update on off best_so_far format batch_size stop start place_holder
    stepper one_step steps step_size n_steps placed replace display fit_line train validate_input
    test_step compute compute_metric loss_value get_lr set_lr lr_at write flush close open cleanup
    cleanup_files cleanup_temp_files setup summary show draw render report notify send on_plateau
    on_device on_cuda online only once ongoing forwarded_port backbone prediction predict epoch
    batch before after begin end finish is_better improve compare accumulate mean average smooth
    gradient_norm grad_norm zero zeros zero_out loss losses state_of to_dict as_dict from_dict
    create_file path folder figure table rows columns name_of get set put add remove find count
    total make warm_start week_end
""".split()  # noqa: SIM905


MISSPELT = {
    "after_bacth": "after_batch",
    "afterbatch": "after_batch",
    "afer_batch": "after_batch",
    "after_batchs": "after_batch",
    "AfterBatch": "after_batch",
    "after_train_epoch": "after_",
    "before_fitt": "before_fit",
    "befor_fit": "before_fit",
    "beforefit": "before_fit",
    "before_training": "before_train",
    "before_validation": "before_validate",
    "after_los": "after_loss",
    "cleanupfit": "cleanup_fit",
    "cleanup_epoch": "after_epoch",
    "on_train_begin": "before_fit",
    "on_train_batch_end": "after_batch",
    "on_validation_epoch_end": "after_validate",
    "on_keyboard_end": "",
    "teardown": "cleanup_fit",
    "get_loss": "compute_loss",
    "zero_grads": "zero_grad",
    "compute_los": "compute_loss",
    "backwards": "backward",
    "forwad": "forward",
}


@pytest.mark.parametrize("name", HELPERS)
def test_a_helper_method_of_the_user_may_be_called(name):
    define(name, lambda self, *args: None)


@pytest.mark.parametrize("name", MISSPELT)
def test_a_misspelt_event_is_refused_with_the_word_that_was_meant(name):
    with pytest.raises(
        TypeError, match=rf"Mine\.{name} would never be called.*Did you mean {MISSPELT[name]}"
    ):
        define(name, lambda self, learn: None)


@pytest.mark.parametrize("wrap", [staticmethod, classmethod], ids=["staticmethod", "classmethod"])
def test_a_misspelt_event_is_found_whatever_kind_of_method_it_is(wrap):
    with pytest.raises(TypeError, match="Did you mean after_batch"):
        define("after_bacth", wrap(lambda learn: None))


def test_the_message_lists_the_events_and_shows_how_to_keep_a_helper():
    with pytest.raises(TypeError, match=r"call it _after_bacth\. The events are: before_fit, .*zero_grad"):
        define("after_bacth", lambda self, learn: None)


@pytest.mark.parametrize("name", ["_after_bacth", "__before_fitt"])
def test_private_methods_are_not_checked(name):
    define(name, lambda self, learn: None)


def test_attributes_and_inner_classes_are_not_refused_as_misspelt_events():
    class Mine(Callback):
        after_math = 3
        after_image = ()

        class BeforeAfter:
            pass

    define("after_bacth", type("Inner", (), {}))


def takes_default(self, learn, verbose=False):
    pass


def takes_all(self, *args, **kwargs):
    pass


def keyed(self, learn, *, verbose=False):
    pass


class Caller:
    def __call__(self, learn):
        pass


RIGHT = {
    "default": takes_default,
    "all": takes_all,
    "keyword with default": keyed,
    "lambda": lambda self, learn: None,
    "static": staticmethod(lambda learn: None),
    "class": classmethod(lambda cls, learn: None),
    "partial": functools.partial(lambda by, learn: None, 1),
    "partialmethod": functools.partialmethod(lambda self, by, learn: None, 1),
    "callable": Caller(),
    "decorated": torch.no_grad()(lambda self, learn: None),
    "wrapped": functools.wraps(takes_default)(lambda *args, **kwargs: None),
    "cached": functools.lru_cache(lambda self, learn: None),
    "builtin": print,
    "static builtin": staticmethod(print),
}


@pytest.mark.filterwarnings("ignore:functools.partial will be a method")  # Python 3.13 and later
@pytest.mark.parametrize("kind", RIGHT)
def test_every_kind_of_hook_that_takes_the_learner_is_called_with_it(kind, make_learner):
    learn = make_learner(callbacks=[define("after_epoch", RIGHT[kind])()])
    learn.fit(1)


WRONG = {
    "nothing": lambda self: None,
    "two": lambda self, learn, batch: None,
    "no argument": lambda: None,
    "no self": lambda learn: None,
    "by keyword": lambda self, *, learn: None,
    "static without": staticmethod(lambda: None),
    "static with self": staticmethod(lambda self, learn: None),
    "class without": classmethod(lambda cls: None),
    "partial that is full": functools.partial(lambda learn: None, 1),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", ["after_batch", "zero_grad"])
def test_a_hook_that_cannot_be_called_with_the_learner_alone_is_refused(kind, name):
    with pytest.raises(
        TypeError,
        match=rf"Mine\.{name}\(.*\) cannot be called with only the learner.*write def {name}\(self, learn\)",
    ):
        define(name, WRONG[kind])


@pytest.mark.parametrize(
    "member",
    [None, 0, "text", property(lambda self: print), type("Inner", (), {})],
    ids=lambda each: str(type(each)),
)
def test_only_a_method_can_be_a_hook(member):
    with pytest.raises(TypeError, match=r"Mine\.step is .*but the loop calls step as a method.*rename"):
        define("step", member)


async def coroutine(self, learn):
    pass


async def async_generator(self, learn):
    yield


class AsyncCaller:
    async def __call__(self, learn):
        pass


@pytest.mark.parametrize(
    "member", [coroutine, generator, async_generator, staticmethod(coroutine), AsyncCaller()], ids=title_of
)
def test_a_hook_whose_body_would_never_run_is_refused(member):
    with pytest.raises(TypeError, match="is async or contains a yield, so its body would never run"):
        define("after_batch", member)


# Inheritance


class Base(Callback):
    called = ()

    def after_epoch(self, learn):
        self.called = (*self.called, "base")


def test_a_subclass_may_override_a_hook_and_call_it(make_learner):
    class Sub(Base):
        def after_epoch(self, learn):
            super().after_epoch(learn)
            self.called = (*self.called, "sub")

    learn = make_learner(callbacks=[Sub()])
    learn.fit(1)
    assert learn.callbacks.sub.called == ("base", "sub")


def test_a_subclass_may_switch_a_hook_off(make_learner):
    class Quiet(Base):
        after_epoch = Callback.after_epoch

    learn = make_learner(callbacks=[Quiet()])
    learn.fit(1)
    assert learn.callbacks.quiet.called == ()


def test_a_subclass_has_its_own_name():
    class VeryOwn(Base):
        pass

    assert (Base.name, VeryOwn.name) == ("base", "very_own")


def test_the_hook_of_a_mixin_is_called(make_learner):
    class Mixin:
        def after_epoch(self, learn):
            self.called = True

    class Mixed(Mixin, Callback):
        pass

    learn = make_learner(callbacks=[Mixed()])
    learn.fit(1)
    assert learn.callbacks.mixed.called


def test_the_operation_of_a_mixin_is_called(make_learner):
    class Mixin:
        def step(self, learn):
            self.was_called = True

    class Mixed(Mixin, Callback):
        pass

    learn = make_learner(callbacks=[Mixed()])
    learn.fit(1)
    assert learn.callbacks.mixed.was_called


def test_a_mixin_hidden_behind_the_contract_is_refused_with_the_line_to_write():
    class Mixin:
        def after_epoch(self, learn):
            pass

    with pytest.raises(
        TypeError, match=r"Mixin\.after_epoch would never be called.*class Mixed\(Mixin, Callback\)"
    ):

        class Mixed(Callback, Mixin):
            pass


def test_a_misspelt_hook_of_a_mixin_is_found():
    class Mixin:
        def after_bacth(self, learn):
            pass

    with pytest.raises(TypeError, match="Did you mean after_batch"):

        class Mixed(Mixin, Callback):
            pass


def test_a_mixin_is_notified_of_subclasses():
    seen = []

    class Registers:
        def __init_subclass__(cls, **kwargs):
            super().__init_subclass__(**kwargs)
            seen.append(cls)

    class Mine(Callback, Registers):
        pass

    assert seen == [Mine]


def test_every_event_and_operation_can_be_defined_and_none_is_confused_with_another():
    for name in EVENTS + OPERATIONS:
        define(name, lambda self, learn: None)
