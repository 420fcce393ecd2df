"""What a model gets right and wrong, compared with scikit-learn and hand-written code."""

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn
from torch.nn import functional as F
from upper.looked_at import SGD, looked_at, scores

from learner import Interpretation, Learner


def test_confusion_report_and_losses_are_those_of_scikit_learn_and_torch():
    preds, targets = scores()
    found = looked_at(preds, targets, F.cross_entropy, classes=["a", "b", "c", "d"])
    predicted = preds.argmax(1)
    assert found.confusion_matrix().tolist() == metrics.confusion_matrix(targets, predicted).tolist()
    report = found.report()
    expected = metrics.classification_report(targets, predicted, output_dict=True)
    for n, name in enumerate("abcd"):
        row = expected[str(n)]
        assert report[name]["precision"] == pytest.approx(row["precision"])
        assert report[name]["recall"] == pytest.approx(row["recall"])
        assert report[name]["f1"] == pytest.approx(row["f1-score"])
        assert report[name]["support"] == row["support"]
    assert report["mean"]["f1"] == pytest.approx(expected["macro avg"]["f1-score"])
    assert report["weighted mean"]["f1"] == pytest.approx(expected["weighted avg"]["f1-score"])
    assert report["accuracy"]["f1"] == pytest.approx(expected["accuracy"])
    torch.testing.assert_close(found.losses, F.cross_entropy(preds, targets, reduction="none"))


def test_a_class_that_is_never_predicted_has_precision_0_and_is_named():
    preds = F.one_hot(torch.tensor([0, 0, 1, 1]), 4).float()
    report = looked_at(preds, torch.tensor([0, 2, 1, 1]), F.cross_entropy).report()
    assert report[2] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
    shown = repr(report)
    assert "Classes never predicted, so their precision is 0: 2, 3." in shown
    assert "Classes never a target: 3." in shown
    assert "nan" not in shown.lower()
    assert max(map(len, shown.splitlines())) < 80


@pytest.mark.parametrize(
    ("preds", "targets", "loss_func"),
    [
        (torch.tensor([[0.2], [-1.0], [3.0], [-2.0]]), torch.tensor([1, 1, 1, 0]), "logits"),
        (torch.tensor([[0.2], [-1.0], [3.0], [-2.0]]), torch.tensor([[1.0], [1], [1], [0]]), "logits"),
        (torch.tensor([0.2, -1.0, 3.0, -2.0]), torch.tensor([True, True, True, False]), "logits"),
        (torch.tensor([0.6, 0.2, 0.9, 0.1]), torch.tensor([1.0, 1, 1, 0]), "shares"),
        (torch.tensor([[0, 1.0], [1, 0], [0, 1], [1, 0]]), torch.tensor([1, 1, 1, 0]), "two"),
    ],
)
def test_two_classes_are_the_same_by_one_logit_a_probability_or_two_scores(preds, targets, loss_func):
    def with_logits(preds, targets):
        return F.binary_cross_entropy_with_logits(preds.flatten(), targets.flatten().float())

    losses = {"logits": with_logits, "shares": nn.BCELoss(), "two": F.cross_entropy}
    found = looked_at(preds, targets, losses[loss_func])
    assert found.kind == "classes"
    assert found.confusion_matrix().tolist() == [[1, 0], [1, 2]]
    assert found.losses.shape == (4,)


def test_labels_have_a_table_each():
    generator = torch.Generator().manual_seed(0)
    preds, targets = torch.randn(12, 3, generator=generator), torch.rand(12, 3, generator=generator).round()
    found = looked_at(preds, targets, nn.BCEWithLogitsLoss(), classes=["cat", "dog", "owl"])
    expected = metrics.multilabel_confusion_matrix(targets, preds > 0)
    assert found.confusion_matrix().tolist() == expected.tolist()
    assert found.report()["dog"]["f1"] == pytest.approx(metrics.f1_score(targets, preds > 0, average=None)[1])
    assert found.losses.tolist() == pytest.approx(
        F.binary_cross_entropy_with_logits(preds, targets, reduction="none").mean(1).tolist()
    )
    rows = found.plot_confusion_matrix().get_yticklabels()
    assert [row.get_text() for row in rows] == ["cat", "dog", "owl"]


def test_segmentation_counts_pixels_without_those_that_the_loss_ignores():
    generator = torch.Generator().manual_seed(0)
    preds = torch.randn(4, 3, 5, 5, generator=generator)
    targets = torch.randint(3, (4, 5, 5), generator=generator)
    targets[:, 0] = 255
    found = looked_at(preds, targets, nn.CrossEntropyLoss(ignore_index=255))
    counted = targets != 255
    expected = metrics.confusion_matrix(targets[counted], preds.argmax(1)[counted])
    assert found.confusion_matrix().tolist() == expected.tolist()
    assert found.report()["accuracy"]["support"] == 4 * 4 * 5


def test_tokens_whose_classes_are_the_last_dimension_are_counted():
    preds, targets = torch.eye(3)[torch.tensor([[0, 1], [2, 2], [1, 1], [0, 2]])], torch.zeros(4, 2).long()

    def loss_func(preds, targets):
        return F.cross_entropy(preds.flatten(0, 1), targets.flatten())

    found = looked_at(preds, targets, loss_func)
    assert found.confusion_matrix().tolist() == [[2, 3, 3], [0, 0, 0], [0, 0, 0]]
    assert found.losses[0] == pytest.approx(loss_func(preds[:1], targets[:1]).item())


def test_most_confused_pairs_come_first_by_name():
    preds = F.one_hot(torch.tensor([1, 1, 0, 2, 0]), 3).float()
    found = looked_at(preds, torch.tensor([0, 0, 1, 2, 2]), F.cross_entropy, classes=["x", "y", "z"])
    assert found.most_confused() == [("x", "y", 2), ("y", "x", 1), ("z", "x", 1)]
    assert found.most_confused(min_count=2) == [("x", "y", 2)]


def test_top_losses_have_their_inputs_indices_targets_and_predictions():
    preds, targets = scores()
    found = looked_at(preds, targets, F.cross_entropy, batch_size=1)
    top = found.top_losses(3)
    losses = F.cross_entropy(preds, targets, reduction="none")
    assert top.indices.tolist() == losses.argsort(descending=True)[:3].tolist()
    assert top.losses.tolist() == pytest.approx(losses[top.indices].tolist())
    assert torch.equal(top.inputs, preds[top.indices])
    assert torch.equal(top.preds, preds[top.indices])
    assert torch.equal(top.targets, targets[top.indices])
    assert len(found.top_losses(100).losses) == 20
    assert len(found.plot_top_losses(4).axes) == 1  # a table
    seen = []
    found.plot_top_losses(4, show=lambda ax, inputs, target, pred: seen.append((inputs.shape, int(target))))
    assert seen == [((4,), int(target)) for target in targets[found.top_losses(4).indices]]


def test_a_loss_of_nan_is_among_the_top_losses():
    preds = torch.tensor([[0.0, 1.0], [float("nan"), 0.0], [1.0, 0.0]])
    assert looked_at(preds, torch.tensor([1, 0, 0]), F.cross_entropy).top_losses(1).indices.tolist() == [1]


def test_numbers_have_residuals_and_a_report_of_errors():
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(12, 2, generator=generator)
    preds = targets + 0.1 * torch.randn(12, 2, generator=generator)
    found = looked_at(preds, targets, F.mse_loss, classes=["x", "y"])
    report = found.report()
    assert report["x"]["r2"] == pytest.approx(metrics.r2_score(targets[:, 0], preds[:, 0]), abs=1e-5)
    error = metrics.mean_absolute_error(targets[:, 1], preds[:, 1])
    assert report["y"]["mae"] == pytest.approx(error, abs=1e-5)
    points = np.asarray(found.plot_residuals().collections[1].get_offsets())
    assert points[:, 1] == pytest.approx((preds - targets)[:, 1].numpy(), abs=1e-5)
    assert found.plot_predictions().get_title().startswith("R2 0.9")
    with pytest.raises(ValueError, match="is for classes or labels, but the targets are numbers"):
        found.confusion_matrix()


def test_a_picture_shows_the_share_of_correct_predictions_and_the_most_common_error():
    preds = F.one_hot(torch.tensor([1, 1, 0, 2]), 3).float()
    found = looked_at(preds, torch.tensor([0, 0, 0, 2]), F.cross_entropy, classes=["x", "y", "z"])
    ax = found.plot_confusion_matrix()
    assert ax.get_title() == "50.0 % correct\nmost common error: x predicted as y"
    assert sorted(text.get_text() for text in ax.texts) == ["1", "1", "2"]


def test_long_names_of_classes_fit_into_the_picture():
    preds = F.one_hot(torch.tensor([1, 1]), 2).float()
    names = ["a background with much noise", "a disc in front of it"]
    ax = looked_at(preds, torch.tensor([0, 1]), F.cross_entropy, classes=names).plot_confusion_matrix()
    ax.figure.draw_without_rendering()
    title = ax.title.get_window_extent()
    assert title.x0 >= 0
    assert title.x1 <= ax.figure.bbox.width


def test_the_former_name_of_the_predicted_values_works_with_a_warning(learn):
    found = Interpretation(learn)
    with pytest.warns(
        DeprecationWarning, match=r"Interpretation\.answers is called Interpretation\.predicted now"
    ):
        assert found.answers is found.predicted


def test_the_learner_stays_as_it_is(learn):
    state = torch.get_rng_state()
    before = {name: value.clone() for name, value in learn.model.state_dict().items()}
    Interpretation(learn)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, learn.model.state_dict()[name]) for name, value in before.items())
    assert not learn.results


def test_an_output_with_logits_needs_no_keep_and_targets_can_be_chosen():
    class Output(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 3)

        def forward(self, x):
            return {"logits": self.layer(x), "hidden": x}

    batch = (torch.randn(6, 2), (torch.tensor([0, 1, 2, 0, 1, 2]), torch.zeros(6)))

    def loss_func(preds, targets, others):
        return F.cross_entropy(preds["logits"], targets)

    learn = Learner(Output(), ([batch], [batch]), loss_func, SGD)
    with pytest.raises(TypeError, match="Pass target= to choose it"):
        Interpretation(learn)
    found = Interpretation(learn, target=lambda targets: targets[0])
    assert found.confusion_matrix().sum() == 6


def test_shares_of_classes_as_targets_are_compared_by_their_largest():
    preds, targets = scores()
    found = looked_at(preds, F.one_hot(targets, 4) * 0.7 + 0.075, nn.CrossEntropyLoss())
    assert found.confusion_matrix().tolist() == metrics.confusion_matrix(targets, preds.argmax(1)).tolist()


def test_scores_that_the_model_has_flattened_are_compared_token_by_token():
    def loss_func(preds, targets):
        return F.cross_entropy(preds, targets.flatten())

    tokens, table = torch.tensor([[0, 1, 2], [2, 1, 0]]), torch.eye(3)[[1, 1, 2]]
    model = nn.Sequential(nn.Embedding.from_pretrained(table, freeze=False), nn.Flatten(0, 1))
    learn = Learner(model, ([(tokens, tokens)], [(tokens, tokens)]), loss_func, SGD)
    found = Interpretation(learn, losses=False)
    assert found.confusion_matrix().tolist() == [[0, 2, 0], [0, 2, 0], [0, 0, 2]]
    assert found.predicted.shape == (2, 3)


def test_a_report_is_a_table_in_a_notebook():
    preds, targets = scores()
    shown = looked_at(preds, targets, F.cross_entropy, classes=["<a>", "b", "c", "d"]).report()._repr_html_()
    assert ">&lt;a&gt;</td>" in shown
    assert shown.startswith("<table>")


def test_names_that_are_there_twice_get_their_numbers():
    report = looked_at(*scores(), F.cross_entropy, classes=["crane", "dog", "crane", "cat"]).report()
    assert list(report.rows) == ["crane (0)", "dog", "crane (2)", "cat"]
