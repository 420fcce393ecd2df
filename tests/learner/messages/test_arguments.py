"""Invalid arguments are refused by name and value when the learner is made, or the fit is called."""

from __future__ import annotations

import math
import re
from functools import partial

import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from callbacks import Hooks, LearnerWarning, RNNRegularizer, ZeroGrad, on
from callbacks.annealers import combine, one_cycle
from learner import Data, Interpretation, Learner, compare, cross_validate

SGD = partial(torch.optim.SGD, lr=0.1)
PAIR = torch.ones(4, 1), torch.ones(4, 1)


def learner_of(optimizer=SGD, **options) -> Learner:
    arguments = {"model": nn.Linear(1, 1), "data": Data(line_batches(2)), "loss_func": F.mse_loss}
    return Learner(**(arguments | {"optimizer": optimizer, "defaults": (ZeroGrad,)} | options))


RATES = {
    "'1e-3' (str)": "1e-3",
    "-0.1 (float)": -0.1,
    "nan (float)": math.nan,
    "inf (float)": math.inf,
    "True (bool)": True,
    "None (NoneType)": None,
    "tensor(1) (Tensor)": torch.tensor(1),
    "tensor(nan) (Tensor)": torch.tensor(math.nan),
    "tensor([0.1000, 0.2000]) (Tensor)": torch.tensor([0.1, 0.2]),
    "(0.1+0j) (complex)": 0.1 + 0j,
}


@pytest.mark.parametrize(("shown", "rate"), RATES.items(), ids=RATES)
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_an_invalid_rate_is_refused_when_the_learner_is_made(shown, rate, make):
    with pytest.raises((TypeError, ValueError)) as caught:
        learner_of(partial(make, lr=rate))
    assert f"lr must be a finite number > 0, got {shown}." in str(caught.value)


def test_the_rate_in_a_users_factory_is_checked_too():
    with pytest.raises(TypeError, match=r"got '0.1' \(str\)"):
        learner_of(lambda parameters: torch.optim.SGD(parameters, lr="0.1"))


def test_another_error_of_a_factory_keeps_its_type_and_names_the_factory():
    with pytest.raises(ValueError, match="Invalid momentum") as caught:
        learner_of(partial(torch.optim.SGD, lr=0.1, momentum=-1))
    assert "2 trainable tensors" in caught.value.__notes__[0]


def test_a_rate_that_becomes_invalid_is_refused_by_the_fit():
    learn = learner_of()
    learn.optimizer.param_groups[0]["lr"] = math.nan
    with pytest.raises(ValueError, match=r"got nan \(float\)"):
        learn.fit(1)
    assert learn.global_step == 0


def test_the_group_with_the_wrong_rate_is_named():
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    groups = [{"params": first.parameters()}, {"params": second.parameters(), "lr": math.inf}]
    with pytest.raises(ValueError, match=r"got inf \(float\) in parameter group 1"):
        learner_of(torch.optim.SGD(groups, lr=0.1), model=nn.Sequential(first, second))


def test_a_rate_of_zero_raises_one_warning():
    with pytest.warns(LearnerWarning, match="lr is 0, so nothing is trained") as caught:
        learner_of(partial(torch.optim.SGD, lr=0)).fit(3)
    assert len(caught) == 1


def test_a_warm_up_from_zero_and_a_schedule_over_zero_are_allowed():
    @on("before_batch")
    def warm_up(learn):
        learn.optimizer.param_groups[0]["lr"] = 0.1 * learn.batch_idx

    @on("before_batch")
    def schedule(learn):
        learn.optimizer.param_groups[0]["lr"] = 0.1

    learner_of(callbacks=[warm_up]).fit(1)
    learner_of(partial(torch.optim.SGD, lr=0), callbacks=[schedule]).fit(1)


def test_a_tensor_of_one_float_is_allowed_as_in_torch():
    learn = learner_of(partial(torch.optim.SGD, lr=torch.tensor(0.1)))
    learn.fit(1)
    assert learn.global_step == 2


def test_no_epochs_return_at_once():
    learn = learner_of()
    assert len(learn.fit(0)) == 0
    assert learn.global_step == 0


@pytest.mark.parametrize("n_epochs", [-1, 2.5, "3", True, None])
def test_an_invalid_number_of_epochs_is_refused_with_the_value(n_epochs):
    with pytest.raises((TypeError, ValueError)) as caught:
        learner_of().fit(n_epochs)
    assert f"fit(n_epochs={n_epochs!r})" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("optimzer", "optimizer"),
        ("loss_fn", "loss_func"),
        ("cbs", "callbacks"),
        ("dls", "data"),
        ("metric", "metrics"),
    ],
)
def test_an_unknown_keyword_of_the_learner_is_refused_with_a_suggestion(given, meant):
    with pytest.raises(TypeError, match=rf"Learner\(\) has no argument '{given}'. Did you mean {meant}\?"):
        learner_of(**{given: None})


def test_an_unknown_keyword_of_fit_is_refused_with_a_suggestion():
    with pytest.raises(TypeError, match=r"fit\(\) has no argument 'epochs'. Did you mean n_epochs\?"):
        learner_of().fit(epochs=3)
    with pytest.raises(TypeError, match=r"has no argument 'zzz'. Available: n_epochs, callbacks"):
        learner_of().fit(1, zzz=3)


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        (
            "fit_one_cycle",
            {"n_epochs": 1, "lr": 0.1},
            r"fit_one_cycle\(\) has no argument 'lr'. Did you mean lr_max\?",
        ),
        ("fit_one_cycle", {"n_epochs": 1, "max_lr": 0.1}, r"Did you mean lr_max\?"),
        ("fit_one_cycle", {"n_epochs": 1, "wd": 0.1}, r"Weight decay belongs to the optimizer"),
        ("fit_one_cycle", {"n_epochs": 1, "zzz": 0.1}, r"Available: n_epochs, lr_max, .*, resume, allow"),
        ("fit_flat_cos", {"n_epochs": 1, "lr_max": 0.1}, r"Did you mean lr\?"),
        ("fine_tune", {"epochs": 1}, r"Did you mean n_epochs\?"),
        ("fine_tune", {"n_epochs": 1, "lr": 1}, r"Did you mean base_lr\?"),
        ("lr_find", {"num_it": 10}, r"Did you mean n_steps\?"),
        ("lr_find", {"max_lr": 10}, r"Did you mean end\?"),
        ("lr_find", {"show_plot": True}, r"learn.lr_find\(\).plot\(\)"),
        ("get_preds", {"dl": None}, r"Did you mean loader\?"),
        ("validate", {"dl": None}, r"Did you mean loader\?"),
    ],
)
def test_an_unknown_keyword_of_a_method_is_refused_with_a_suggestion(method, given, message):
    with pytest.raises(TypeError, match=message):
        getattr(learner_of(), method)(**given)


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("from_tensors", {"bs": 4}, r"Did you mean batch_size\?"),
        ("from_tensors", {"valid_pct": 0.2}, r"Did you mean valid\?"),
        ("from_tensors", {"n_inputs": 2}, r"Data.from_tensors\(\(first, second\), targets\)"),
        ("from_datasets", {"seed": 0}, r"torch.manual_seed\(0\) before, or pass generator="),
        ("from_datasets", {"num_worker": 0}, r"Available: train, valid, .*, num_workers"),
        ("from_datasets", {"valid": 0.2}, r"random_split\(dataset, \[0.8, 0.2\]\)"),
    ],
)
def test_an_unknown_keyword_of_data_is_refused_with_the_correct_one(method, given, message):
    with pytest.raises(TypeError, match=message):
        getattr(Data, method)(torch.ones(4, 1), **given)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda learn: learn.predict(1, 2),
            "predict() takes 1 argument by position (inputs), but got 2. Several",
        ),
        (
            lambda learn: learn.get_preds(None, "logits"),
            "but got 2. Pass the others by name: keep=..., returns=",
        ),
        (lambda learn: learn.fit(1, [], "auto"), "fit() takes 2 arguments by position (n_epochs, callbacks)"),
        (
            lambda learn: Data.from_tensors(1, 2, 3, 4),
            "takes 3 arguments by position (inputs, targets, batch_s",
        ),
        (lambda learn: Interpretation(learn, clases=[]), "Interpretation() has no argument 'clases'"),
        (lambda learn: learn.load("x.pt", strict=False), "learn.model.load_state_dict(state, strict=False)"),
        (lambda learn: compare(learn, learn, title="x"), "compare() has no argument 'title'"),
    ],
)
def test_too_many_or_unknown_arguments_are_refused_with_those_that_there_are(call, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        call(learner_of())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda learn: learn.validate(together="x"),
            "validate(together='x'): together must be True or False",
        ),
        (lambda learn: learn.fit(1, resume="yes"), "resume must be 'auto', 'must' or 'never'"),
        (lambda learn: learn.load("x.pt", only="modle"), "only must be 'model' or None"),
        (lambda learn: learner_of(decay_norms="no"), "Learner(decay_norms='no'): decay_norms must be True"),
        (lambda learn: learn.stop("enough", alike="no"), "stop(alike='no'): alike must be True or False"),
        (lambda learn: learn.async_save("x.pt", then=5), "async_save(then=5): pass a function"),
        (lambda learn: learn.fit(1, RNNRegularizer(rnn=["0"])), "RNNRegularizer(rnn=['0']): no such layer"),
        (lambda learn: combine(0.5, []), "combine(0.5, []): pass several of both"),
        (lambda learn: Data.from_tensors({}, torch.ones(3), batch_size=1), "inputs are an empty mapping"),
        (
            lambda learn: cross_validate(len, PAIR, folds="five", n_epochs=1),
            "(folds='five'): pass",
        ),
        (lambda learn: one_cycle(0.1, 1.0, 0.1, anneal="cosine"), "anneal must be 'cos' or 'linear'"),
        (
            lambda learn: Hooks(learn.model, print, of="bakward"),
            "Hooks(of='bakward'): of must be 'forward' or",
        ),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_with_those_that_can(call, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call(learner_of())


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("fit", {"n_epochs": 1, "allow": 5}, r"allow=5 is not a known difference. Choose from: optimizer"),
        ("fit", {"n_epochs": 1, "allow": ("batchsize",)}, "allow='batchsize' is not a known difference"),
        ("fit_one_cycle", {"n_epochs": 1, "moms": 5}, r"moms=5\): pass three numbers"),
        ("fit_one_cycle", {"n_epochs": 1, "moms": (0.95, 0.85)}, "pass three numbers"),
        ("fit_one_cycle", {"n_epochs": 1, "moms": (95, 85, 95)}, "from 0 to below 1"),
        ("save", {"path": "x.pt", "without": 5}, r"the model has no parameter 5\."),
    ],
)
def test_a_setting_that_would_have_no_effect_here_is_checked_too(
    method, given, message, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        getattr(learner_of(), method)(**given)


def test_the_keyword_device_is_refused_with_the_callback():
    with pytest.raises(
        TypeError, match=r"has no argument 'device'. A device is set by a callback: .*DevicePlacement"
    ):
        learner_of(device="cpu")


@pytest.mark.parametrize(
    ("keyword", "words"),
    [("max_epochs", "an argument of the fit"), ("epochs", "fit(10)"), ("batch_size", "Data.from_tensors(")],
)
def test_a_setting_of_the_fit_or_the_data_is_refused_with_its_place(keyword, words):
    with pytest.raises(TypeError, match=re.escape(words)):
        learner_of(**{keyword: 3})


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("model", None, "model is None"),
        ("model", nn.Linear, r"model is the class Linear: pass an instance, Linear\(...\)"),
        ("model", lambda inputs: inputs, "model is <function"),
        ("data", None, "data is None"),
        ("data", DataLoader, "data is the class DataLoader"),
        ("data", (None, None), r"Data\(train=...\) is None"),
        ("data", (DataLoader, None), r"Data\(train=...\) is the class DataLoader"),
        ("data", (line_batches(1), DataLoader), r"Data\(valid=...\) is the class DataLoader"),
        ("loss_func", nn.MSELoss, r"loss_func is the class MSELoss: pass an instance, MSELoss\(\)"),
        ("loss_func", "mse", "loss_func is 'mse'"),
        ("loss_func", torch.tensor(1.0), "loss_func is tensor"),
        ("optimizer", "sgd", "optimizer is 'sgd'"),
        ("optimizer", nn.Linear(1, 1).parameters(), "optimizer is <generator"),
        ("optimizer", lambda parameters: None, "made None of the parameters"),
        ("optimizer", lambda parameters: torch.optim.SGD, "which is not an optimizer"),
    ],
)
def test_a_missing_part_or_a_class_in_its_place_is_named(argument, value, message):
    with pytest.raises(TypeError, match=message):
        learner_of(**{argument: value})


def test_an_optimizer_class_makes_an_optimizer():
    learn = learner_of(torch.optim.Adam)
    learn.fit(1)
    assert learn.global_step == 2


def test_a_learner_without_an_optimizer_predicts_and_refuses_to_fit():
    learn = learner_of(None)
    assert learn.predict(torch.ones(3, 1)).shape == (3, 1)
    with pytest.raises(TypeError, match="optimizer is None, so nothing can be trained"):
        learn.fit(1)


def test_several_errors_are_reported_at_once():
    learn = learner_of(None, data=Data([], iter([])))
    with torch.no_grad(), pytest.raises(ValueError, match="4 errors") as caught:
        learn.fit(2)
    for message in (
        "torch.no_grad",
        "training data, an empty list, has no batch",
        "validation data is a list_iterator",
        "optimizer is None",
    ):
        assert message in str(caught.value)


@pytest.mark.parametrize("settings", [{"lr": 0.1}, {"lr_max": 0.1}])
def test_a_rate_passed_to_fit_is_refused_with_the_place_for_rates(settings):
    with pytest.raises(TypeError, match=r"The rate belongs to the optimizer.*fit_one_cycle"):
        learner_of().fit(1, **settings)
    with pytest.raises(TypeError, match=r"The rate belongs to the optimizer.*fit_one_cycle"):
        learner_of().fit(1, *settings.values())
