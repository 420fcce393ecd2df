"""For a name of another framework, and for a typing error, the message gives ours."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch

import callbacks
import learner
from callbacks import Callback
from callbacks.core.foreign_names import CALLBACK_WORDS, LEARNER_WORDS, PACKAGE_WORDS
from learner import Data, Interpretation, Learner
from tests.test_docs import names_in, section, table


def make() -> Learner:
    """The smallest learner that fits."""
    data = torch.ones(4, 2), torch.ones(4, 1)
    return Learner(torch.nn.Linear(2, 1), data, torch.nn.functional.mse_loss, torch.optim.SGD)


@pytest.mark.parametrize(
    ("module", "name", "meant"),
    [
        ("callbacks", "ModelCheckpoint", "Checkpoint"),
        ("callbacks", "SaveModelCallback", "Checkpoint"),
        ("callbacks", "EarlyStoppingCallback", "EarlyStopping"),
        ("callbacks", "CancelFitException", "CancelFit"),
        ("callbacks", "Accuracy", "accuracy"),
        ("callbacks", "Tensorboard", "TensorBoard"),
        ("callbacks", "early_stopping", "EarlyStopping"),
        ("callbacks", "one_cycle", "from callbacks.annealers import one_cycle"),
        ("callbacks", "Learner", "from learner import Learner"),
        ("learner", "EarlyStopping", "from callbacks import EarlyStopping"),
        ("learner", "ModelCheckpoint", "Checkpoint"),
        ("learner", "DataLoaders", "Data"),
        ("learner", "Trainer", "Learner"),
        ("learner", "ClassificationInterpretation", "Interpretation(learn)"),
        ("learner", "digits", "from learner.datasets import digits"),
    ],
)
def test_importing_another_frameworks_name_gives_ours(module, name, meant):
    with pytest.raises(
        ImportError, match=rf"there is no {module}\.{name}\. Its equivalent here: {re.escape(meant)}\."
    ):
        exec(f"from {module} import {name}")


@pytest.mark.parametrize("module", [callbacks, learner])
def test_an_unknown_name_is_an_attribute_error_so_that_hasattr_works(module):
    assert not hasattr(module, "Nonsense")
    assert not hasattr(module, "_ipython_display_")
    with pytest.raises(ImportError, match="cannot import name 'Nonsense'"):
        exec(f"from {module.__name__} import Nonsense")


def test_modules_of_the_packages_are_still_imported_by_from():
    for package in (callbacks, learner):
        for path in package.__path__:
            names = [entry.stem for entry in Path(path).glob("[a-z]*.py")]
            for name in names:
                exec(f"from {package.__name__} import {name}")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dls", "data"),
        ("recorder", "history"),
        ("add_cb", "add_callbacks"),
        ("fit_onecycle", "fit_one_cycle"),
        ("lr_finder", "lr_find"),
        ("early_stopping", "the callback EarlyStopping()"),
    ],
)
def test_a_missing_attribute_of_a_learner_is_an_error_with_our_name(name, meant):
    with pytest.raises(AttributeError, match=rf"Learner has no '{name}'. Did you mean {re.escape(meant)}"):
        getattr(make(), name)


@pytest.mark.parametrize(
    ("owner", "name", "meant"),
    [
        (Interpretation, "from_learner", "Interpretation(learn)"),
        (Data, "from_df", "Data.from_tensors(inputs, targets)"),
        (Data([1]), "one_batch", "next(iter(data.batches(data.train)))"),
    ],
)
def test_a_missing_attribute_of_another_class_is_an_error_with_our_name(owner, name, meant):
    with pytest.raises(AttributeError, match=f"has no '{name}'. Did you mean {re.escape(meant)}"):
        getattr(owner, name)
    assert name not in dir(Data([1]))


def test_the_error_shows_where_a_callback_is():
    with pytest.raises(AttributeError, match=r"Did you mean learn\.callbacks\.progress"):
        make().progress  # noqa: B018


@pytest.mark.parametrize(
    ("typed", "meant"), [("validat", "did you mean learn.validate?"), ("probe", "learn.callbacks.probe")]
)
def test_a_typing_error_in_a_hook_gets_a_suggestion(typed, meant):
    class Probe(Callback):
        def after_batch(self, learn):
            getattr(learn, typed)

    learn = make()
    learn.add_callbacks(Probe())
    with pytest.raises(AttributeError, match=f"no attribute '{typed}'") as caught:
        learn.fit(1)
    assert any(meant in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("learn", "write learn, not self.learn"), ("epoch", "write learn.epoch, not self.epoch")],
)
def test_a_hook_that_looks_for_the_learner_on_itself_gets_a_suggestion(typed, meant):
    class Probe(Callback):
        def after_batch(self, learn):
            getattr(self, typed)

    with pytest.raises(AttributeError, match=f"no attribute '{typed}'") as caught:
        make().fit(1, callbacks=[Probe()])
    assert any(meant in note for note in caught.value.__notes__)


def test_a_hook_that_takes_the_inputs_for_a_tensor_gets_a_suggestion():
    class Probe(Callback):
        def before_batch(self, learn):
            learn.inputs = learn.inputs.flip(0)

    with pytest.raises(AttributeError, match="'tuple' object has no attribute 'flip'") as caught:
        make().fit(1, callbacks=[Probe()])
    assert any("write (inputs,) = learn.inputs" in note for note in caught.value.__notes__)


def test_other_words_are_neither_completed_nor_in_the_way():
    class Mine(Learner):
        dls = "of a subclass"

    data = torch.ones(4, 2), torch.ones(4, 1)
    learn = Mine(torch.nn.Linear(2, 1), data, torch.nn.functional.mse_loss, torch.optim.SGD)
    learn.lr = 0.5
    assert (learn.dls, learn.lr) == ("of a subclass", 0.5)
    assert {"dls", "lr", "fit", "history"} <= set(dir(learn))
    assert not {"recorder", "early_stopping"} & set(dir(learn))
    assert not hasattr(Learner, "dls")


def test_python_reads_the_existing_attributes():
    assert not hasattr(Learner, "__getattr__")  # CPython 3.11 would look up each attribute the slow way


def test_a_learners_property_that_raises_keeps_its_own_words():
    class Mine(Learner):
        @property
        def shown(self):
            raise AttributeError("my own words")

    data = torch.ones(4, 2), torch.ones(4, 1)
    learn = Mine(torch.nn.Linear(2, 1), data, torch.nn.functional.mse_loss, torch.optim.SGD)
    with pytest.raises(AttributeError, match="my own words"):
        learn.shown  # noqa: B018


def test_a_learner_is_still_copied():
    learn = make()
    copied = copy.deepcopy(learn)
    copied.fit(1)
    assert len(copied.history) == 1
    assert len(learn.history) == 0


@pytest.mark.parametrize("word", sorted(CALLBACK_WORDS) + sorted(PACKAGE_WORDS))
def test_every_suggested_name_exists(word):
    for meant in re.split(r", or | or |, ", {**PACKAGE_WORDS, **CALLBACK_WORDS}[word]):
        first = re.match(r"(from [\w.]+ import )?[\w.]+", meant)
        assert first, meant
        found = first.group()
        if found.startswith("from "):
            exec(found)
        elif found.startswith("torch."):
            exec(f"import torch; {found}")
        elif found.startswith("learn."):
            assert hasattr(make(), found.split(".")[1])
        elif found[0].isupper():
            assert found in callbacks.__all__ + learner.__all__
    assert word not in callbacks.__all__ + learner.__all__ or word in ("Data", "Learner")


@pytest.mark.parametrize("word", sorted(LEARNER_WORDS))
def test_every_suggested_attribute_exists(word):
    learn = make()
    assert not hasattr(learn, word)
    for meant in re.split(r", or | or |, ", LEARNER_WORDS[word]):
        if callback := re.match(r"the callback (\w+)", meant):
            assert callback.group(1) in callbacks.__all__
        elif "learn" not in meant and not meant.startswith(("as ", "in ", "and ")):
            assert hasattr(learn, re.match(r"\w+", meant).group())


@pytest.mark.parametrize("page", ["coming_from/fastai.md", "coming_from/lightning.md"])
def test_reading_each_attribute_that_a_page_translates_gives_our_name(page):
    learn = make()
    headings = ["The learner", "In a hook"] if "fastai" in page else ["In a hook"]
    rows = [row for heading in headings for row in table(section(page, heading))]
    words = " ".join(name for row in rows for name in names_in(row[0]))
    asked = set(re.findall(r"(?:self|learn|trainer)\.(?:learn\.)?([a-z_0-9]+)", words))
    assert len(asked) >= 5
    for name in asked:
        if not hasattr(learn, name):
            with pytest.raises(AttributeError, match=r"Did you mean|learn\.callbacks"):
                getattr(learn, name)


def test_a_module_does_not_have_another_frameworks_name():
    assert not hasattr(callbacks, "LRFinder")
    assert getattr(learner, "Trainer", None) is None
    with pytest.raises(
        AttributeError, match=r"there is no callbacks\.LRFinder. Its equivalent here: learn\.lr_find"
    ):
        callbacks.LRFinder  # noqa: B018
