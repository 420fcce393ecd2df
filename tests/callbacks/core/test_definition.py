"""What is refused when a callback's class is defined, and what is not."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from tiny import title_of

from callbacks import EVENTS, OPERATIONS, Callback, Callbacks, Order, Recorder, on

# Names that people give to methods of their own.
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


def define(name, member, *bases):
    return type("Mine", bases or (Callback,), {name: member})


@pytest.mark.parametrize("name", HELPERS)
def test_a_users_helper_may_be_called(name):
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
def test_private_methods_are_ones_own(name):
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
        match=rf"Mine\.{name}\(.*\) cannot be called with the learner.*write def {name}\(self, learn\)",
    ):
        define(name, WRONG[kind])


@pytest.mark.parametrize(
    "member",
    [None, 0, "text", property(lambda self: print), type("Inner", (), {})],
    ids=lambda each: str(type(each)),
)
def test_only_a_method_can_be_a_hook(member):
    with pytest.raises(TypeError, match=r"Mine\.step is .*but step is a moment of the loop.*another name"):
        define("step", member)


async def coroutine(self, learn):
    pass


def generator(self, learn):
    yield


async def async_generator(self, learn):
    yield


class AsyncCaller:
    async def __call__(self, learn):
        pass


@pytest.mark.parametrize(
    "member", [coroutine, generator, async_generator, staticmethod(coroutine), AsyncCaller()], ids=title_of
)
def test_a_hook_whose_body_would_never_run_is_refused(member):
    with pytest.raises(TypeError, match="is async or has a yield in it, so its body would never run"):
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


def test_a_subclass_has_a_name_of_its_own():
    class VeryOwn(Base):
        pass

    assert (Base.name, VeryOwn.name) == ("base", "very_own")


def test_a_mixins_hook_is_called(make_learner):
    class Mixin:
        def after_epoch(self, learn):
            self.called = True

    class Mixed(Mixin, Callback):
        pass

    learn = make_learner(callbacks=[Mixed()])
    learn.fit(1)
    assert learn.callbacks.mixed.called


def test_a_mixins_operation_is_called(make_learner):
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


def test_a_mixins_misspelt_hook_is_found():
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


# Declared attributes


def test_phases_run_in_the_documented_order():
    names = ["PREPARE", "TRANSFORM", "GRADIENT", "MEASURE", "REPORT", "DECIDE", "SAVE"]
    assert [phase.name for phase in sorted(Order)] == names


def test_a_callback_reads_gradients_and_has_no_other_capability_by_default():
    plain = define("after_epoch", lambda self, learn: None)
    switches = {name: value for name, value in vars(Callback).items() if isinstance(value, bool)}
    assert [name for name in switches if getattr(plain, name)] == ["reads_gradients"]


def test_an_operation_is_surrounded_by_nothing_by_default(make_learner):
    class Surrounds(Callback):
        surrounds = ("forward",)

    make_learner(callbacks=[Surrounds()]).fit(1)


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("state", "best", r"Mine\.state = 'best': write it as a tuple of attributes' names"),
        ("state", ("best", 3), "tuple of attributes' names"),
        ("state", {"best": 1}, "tuple of attributes' names"),
        ("needs", Recorder, r"Mine\.needs = .*needs = \(Recorder,\)"),
        ("surrounds", ("forwrad",), r"Mine\.surrounds = \('forwrad',\): write it as a tuple of operations"),
        ("surrounds", 3, r"Mine\.surrounds = 3: write it as a tuple of operations"),
        ("needs", ("Recorder",), "tuple of callback classes"),
        ("order", 60, r"Mine\.order = 60: write it as a phase, as order = Order\.MEASURE"),
        ("order", "MEASURE", "a phase"),
        ("measures", ("valid_score",), "a dict to 'min', 'max' or None"),
        ("measures", {"valid_score": "bigger"}, "a dict to 'min', 'max' or None"),
        ("name", 3, "a string"),
        ("name", lambda self: "x", "a string"),
        ("state", lambda self: ("x",), "a tuple of attributes' names"),
    ],
)
def test_attributes_in_another_form_than_the_contracts_are_refused(attribute, value, words):
    with pytest.raises(TypeError, match=words):
        define(attribute, value)


def test_a_property_may_return_an_attribute_later():
    class Mine(Callback):
        @property
        def state(self):
            return ("best",)

    Mine.state  # noqa: B018


def test_state_may_name_a_property_without_a_setter_if_the_class_loads_it_itself():
    class Mine(Callback):
        state = ("total",)
        parts = (1, 2)

        @property
        def total(self):
            return sum(self.parts)

        def load_state_dict(self, state):
            self.parts = (state["total"],)

    one, other = Mine(), Mine()
    other.parts = (5,)
    one.load_state_dict(other.state_dict())
    assert one.total == 5


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3, "n=3"),
        (None, "n=None"),
        ("x", "n='x'"),
        (Path("x"), f"n={Path('x')!r}"),
        ((1, 2, 3, 4), "n=(1, 2, 3, 4)"),
        ([1, ("a", None)], "n=[1, ('a', None)]"),
        ((1, 2, 3, 4, 5), ""),
        ((1, torch.ones(2)), ""),
        (torch.ones(2), ""),
        ({"a": 1}, ""),
    ],
)
def test_repr_shows_the_settings_that_fit_in_a_line(value, shown):
    callback = Callback()
    callback.n = value
    callback._private = 1
    assert repr(callback) == f"Callback({shown})"


def test_repr_shows_settings_without_state():
    class Mine(Callback):
        state = ("best",)

    mine = Mine()
    mine.n, mine.best, mine.mode = 3, 0.5, "min"
    assert repr(mine) == "Mine(n=3, mode='min')"


@pytest.mark.parametrize(
    ("title", "name"),
    [("EarlyStopping", "early_stopping"), ("LogRMSE", "log_rmse"), ("R2", "r2"), ("RMSEPlot", "rmse_plot")],
)
def test_the_name_of_a_callback_is_that_of_its_class_in_snake_case(title, name):
    assert type(title, (Callback,), {}).name == name


# on(...)


def test_a_function_becomes_a_callback_with_its_name(make_learner):
    seen = []

    @on("after_epoch", order=Order.REPORT)
    def keep_epoch(learn):
        """Keep it."""
        seen.append(learn.epoch)

    learn = make_learner(callbacks=[keep_epoch])
    learn.fit(2)
    assert seen == [0, 1]
    assert learn.callbacks.keep_epoch is keep_epoch
    assert keep_epoch.order is Order.REPORT
    assert keep_epoch.__doc__ == "Keep it."
    assert type(keep_epoch).__module__ == __name__


def test_the_name_of_a_function_as_a_callback_is_kept_as_given():
    assert on("after_epoch", name="MyRate")(lambda learn: None).name == "MyRate"


class Keeper:
    def __init__(self):
        self.seen = []

    def keep(self, learn):
        self.seen.append(learn.epoch)

    __call__ = keep


@pytest.mark.parametrize(
    "function",
    [
        Keeper.keep,
        lambda keeper, learn: keeper.seen.append(learn.epoch),
        lambda keeper, learn, *rest: keeper(learn),
    ],
    ids=["method", "lambda", "callable"],
)
def test_methods_partials_lambdas_and_callables_become_callbacks(function, make_learner):
    keeper = Keeper()
    for callback in (
        on("after_epoch")(functools.partial(function, keeper)),
        on("after_epoch", name="bound")(keeper.keep),
    ):
        keeper.seen.clear()
        learn = make_learner(callbacks=[callback])
        learn.fit(2)
        assert keeper.seen == [0, 1]
    on("after_epoch")(keeper)
    assert on("after_epoch")(lambda learn: None).name == "after_epoch"


def test_a_function_can_do_an_operation(make_learner):
    @on("step")
    def stand_still(learn):
        pass

    learn = make_learner(callbacks=[stand_still])
    before = learn.model.weight.clone()
    learn.fit(1)
    assert torch.equal(before, learn.model.weight)


@pytest.mark.parametrize("event", ["after_bacth", "on_epoch_end", "epoch", "", None, 3])
def test_on_refuses_an_unknown_event(event):
    with pytest.raises(TypeError, match=r"on\(.*\): there is no such event. Did you mean '.*The events are"):
        on(event)


def test_on_without_the_event_is_refused():
    with pytest.raises(TypeError, match='on needs the event: write @on\\("after_batch"\\)'):

        @on
        def show(learn):
            pass


@pytest.mark.parametrize("function", [lambda: 0, lambda one, two: 0, 3, Keeper, generator], ids=title_of)
def test_on_refuses_what_cannot_take_the_learner(function):
    with pytest.raises(TypeError, match=r"on\.after_batch.*def after_batch\(learn\)"):
        on("after_batch")(function)


def test_every_event_and_operation_can_be_defined_and_none_is_like_another():
    for name in EVENTS + OPERATIONS:
        define(name, lambda self, learn: None)


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("oder", Order.SAVE, "order"),
        ("ORDER", Order.SAVE, "order"),
        ("measure", {"score": "max"}, "measures"),
        ("state_", ("n",), "state"),
        ("need", (Callback,), "needs"),
        ("surround", ("forward",), "surrounds"),
        ("surounds", ["forward"], "surrounds"),
        ("read_gradients", False, "reads_gradients"),
    ],
)
def test_a_misspelt_attribute_of_the_contract_is_refused(name, value, meant):
    with pytest.raises(TypeError, match=rf"Mine\.{name} .*Did you mean {meant}\?"):
        type("Mine", (Callback,), {name: value})
    mixin = type("Mixin", (), {name: value})
    with pytest.raises(TypeError, match=rf"Mine\.{name}"):
        type("Mine", (mixin, Callback), {})


def test_users_attributes_that_look_like_the_contracts_are_not_refused():
    class Mine(Callback):
        states = ("idle", "busy")
        names = ("a", "b")
        orders = 3
        stats = ("mean", "std")
        _order = Order.SAVE
        need = ()

        def after_batch(self, learn):
            return list(self.states)

    class ByName(Callback):
        states = ("idle", "busy")

        def after_batch(self, learn):
            return getattr(self, "states")  # noqa: B009 - by name, on purpose

    class Sub(Mine):
        """Its base uses them."""

        states = ("done",)

    class InProperty(Callback):
        states = ("idle", "busy")

        @property
        def n_states(self):
            return len(self.states)

    class InLambda(Callback):
        states = ("idle", "busy")

        def after_batch(self, learn):
            return lambda: self.states

    assert Callbacks([Mine(), ByName(), Sub(), InProperty(), InLambda()])


def test_reads_gradients_is_true_or_false():
    with pytest.raises(TypeError, match="reads_gradients = 0: write it as True or False"):
        type("Mine", (Callback,), {"reads_gradients": 0})


def test_an_operation_that_a_callback_yields_is_left_to_another_one(make_learner):
    class Yielding(Callback):
        yields = ("forward",)

        def forward(self, learn):
            raise AssertionError("it is left to the other callback")

    class Doubled(Callback):
        def forward(self, learn):
            learn.preds = 2 * learn.model(*learn.inputs)

    learn = make_learner(callbacks=[Yielding, Doubled])
    learn.fit(1)
    assert type(learn.callbacks.overrides["forward"]) is Doubled
