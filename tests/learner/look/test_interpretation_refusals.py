"""What an interpretation cannot show is refused with what to do."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from upper.looked_at import SGD, Fixed, looked_at, scores

from learner import Data, Interpretation, Learner


def test_what_cannot_be_compared_is_refused_with_what_to_pass():
    preds, targets = scores()
    with pytest.raises(ValueError, match="3 names for 4 classes"):
        looked_at(preds, targets, F.cross_entropy, classes=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"1 targets are outside the classes 0 to 3, such as 9\. Pass"):
        looked_at(preds, targets.index_fill(0, torch.tensor([2]), 9), lambda p, t: p.mean())
    with pytest.raises(ValueError, match=r"top_losses\(k=0\): k must be a whole number, 1 or more"):
        looked_at(preds, targets, F.cross_entropy).top_losses(0)
    with pytest.raises(ValueError, match="the inputs were not kept"):
        looked_at(preds, targets, F.cross_entropy, inputs=False).plot_top_losses()
    with pytest.raises(ValueError, match="the losses were not computed"):
        looked_at(preds, targets, F.cross_entropy, losses=False).top_losses()
    with pytest.raises(ValueError, match="cannot be compared"):
        looked_at(preds, torch.rand(20, 3), lambda p, t: p.mean())


def test_an_empty_loader_is_refused(learn):
    with pytest.raises(ValueError, match="no batches"):
        Interpretation(learn, [])


def test_a_loss_of_all_items_together_is_refused_with_the_argument_to_pass():
    preds, targets = scores()
    with pytest.raises(ValueError, match="depends on the items together") as caught:
        looked_at(preds, targets, lambda p, t: F.normalize(p - p.mean(0)).std())
    assert caught.value.__notes__[-1].startswith(
        "If single items have no loss, pass Interpretation(..., losses"
    )


@pytest.mark.parametrize(
    ("method", "given", "meant"),
    [
        ("plot_confusion_matrix", "figsize", r"ax=plt\.subplots\(figsize"),
        ("plot_top_losses", "classes", r"Interpretation\(learn, classes"),
        ("most_confused", "min_val", r"Did you mean min_count\?"),
    ],
)
def test_an_argument_of_fastai_gets_a_suggestion(method, given, meant):
    with pytest.raises(TypeError, match=meant):
        getattr(looked_at(*scores(), F.cross_entropy), method)(**{given: 1})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"classes": {0: "a", 1: "b", 2: "c", 3: "d"}},
            "pass a list with a name for each class, in the order",
        ),
        ({"classes": {"a", "b", "c", "d"}}, "pass a list with a name for each class"),
        ({"classes": 4}, "pass a list with a name for each class"),
        ({"target": 0}, r"target=0\): pass a function of the targets"),
        ({"threshold": "0.5"}, r"threshold='0.5'\): pass a number"),
        ({"ignore_index": "0"}, r"ignore_index='0'\): pass a whole number"),
    ],
)
def test_an_argument_of_another_type_is_refused_before_the_pass(options, words):
    with pytest.raises(TypeError, match=words):
        looked_at(*scores(), F.cross_entropy, **options)


def test_a_model_or_a_path_instead_of_a_learner_is_refused():
    for wrong in (nn.Linear(1, 1), "runs/digits-1", None):
        with pytest.raises(TypeError, match=r"pass a learner; .*learner\.open_run\(folder\)"):
            Interpretation(wrong)


def test_batches_without_targets_are_refused_with_the_reason():
    learn = Learner(Fixed(), Data([torch.ones(2, 3)]), F.cross_entropy, SGD)
    with pytest.raises(ValueError, match="the batches have no targets to compare the predictions with"):
        Interpretation(learn, [torch.ones(2, 3)], losses=False)
