"""Requirements for every callback in several processes."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from made_callbacks import CALLBACKS, MAKERS, model_for
from ranks.in_ranks import in_ranks
from ranks.ranked import weights_of
from torch.nn import functional as F

from callbacks import Distributed, Metrics, Recorder, ZeroGrad
from learner import Data, Learner

#: Callbacks that are refused in several processes, with a part of the error.
REFUSED = {"WholeStep": "WholeStep: Distributed surrounds 'forward'"}
#: Callbacks that draw random numbers for each item, or round: the processes agree with each other, but not #:
#: with one process.
DRAWING = {"LabelMix", "MCDropout", "MixUp", "MixedPrecision", "RNNRegularizer", "RNNReset", "WeightNoise"}


def batches() -> list[Any]:
    """Batches of 4, 4 and 3 items."""
    inputs = torch.rand(11, 1, generator=torch.Generator().manual_seed(0))
    return [(part, 2 * part + 1) for part in inputs.split(4)]


def outcome(name: str, folder: Path, *distributed: Any) -> Any:
    """The weights and the history, or the error."""
    torch.manual_seed(0)
    callback = MAKERS.get(name, lambda _: CALLBACKS[name]())(folder)
    defaults = [each for each in (ZeroGrad, Metrics, Recorder) if not isinstance(callback, each)]
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    given = () if isinstance(callback, Distributed) else distributed
    learn = Learner(
        model_for(callback),
        Data(batches(), batches()),
        F.mse_loss,
        sgd,
        [*given, callback],
        defaults=defaults,
    )
    try:
        learn.fit(2)
    except Exception as error:  # noqa: BLE001 - compared below
        return f"{type(error).__name__}: {error}"
    steps = list(learn.history.steps["train_loss"])
    rows = [dict(row) for row in learn.history]
    return weights_of(learn.model), rows, steps, learn.history.validations, learn.n_samples


def outcomes(names: list[str], folder: Path) -> dict[str, Any]:
    """The outcomes of all callbacks; each rank writes to its own folder."""
    own = folder / os.environ["RANK"]
    found = {}
    for name in names:
        (own / name).mkdir(parents=True)
        found[name] = outcome(name, own / name, Distributed())
    return found


@pytest.fixture(scope="module")
def in_two(tmp_path_factory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("ranks")
    first, second = in_ranks(2, outcomes, sorted(CALLBACKS), folder)
    return first, second, folder


@pytest.mark.parametrize("name", sorted(CALLBACKS))
def test_two_processes_train_as_one_or_refuse(name, in_two, tmp_path) -> None:
    first, second = (each[name] for each in in_two[:2])
    if name in REFUSED:
        assert REFUSED[name] in first
        assert REFUSED[name] in second
        return
    assert not isinstance(first, str), first
    assert not isinstance(second, str), second
    assert all(torch.equal(each, second[0][key]) for key, each in first[0].items())
    assert str(first[1:]) == str(second[1:])
    expected = outcome(name, tmp_path)
    assert first[4] == expected[4]
    if name not in DRAWING:
        for key, each in first[0].items():
            torch.testing.assert_close(each, expected[0][key], rtol=0, atol=1e-6)
        assert first[2] == pytest.approx(expected[2], rel=1e-5)
        assert [*first[1][0]] == [*expected[1][0]]
        assert first[1][-1]["train_loss"] == pytest.approx(expected[1][-1]["train_loss"], rel=1e-5)


@pytest.mark.parametrize("name", sorted(CALLBACKS))
def test_only_the_first_process_writes_files(name, in_two) -> None:
    assert not list((in_two[2] / "1" / name).rglob("*"))
