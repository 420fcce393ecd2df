"""The section of a report about the predictions of the model on the validation data."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from callbacks import Metrics, Recorder, ZeroGrad
from learner import Data, Learner
from learner.cli.commands import main


def fitted(targets: torch.Tensor, model: nn.Module, loss) -> Learner:
    """A learner after one epoch on ten items with two inputs."""
    inputs = torch.arange(20.0).reshape(10, 2) / 20
    optimizer = partial(torch.optim.SGD, lr=0.1)
    defaults = (ZeroGrad, Metrics, Recorder)
    learn = Learner(model, Data([(inputs, targets)], [(inputs, targets)]), loss, optimizer, defaults=defaults)
    learn.fit(1)
    return learn


def section(learn: Learner) -> str:
    """The section of a learner's report, empty if it has none."""
    found = re.search(r"<h2>Predictions.*?</section>", learn.report().html, re.DOTALL)
    return found[0] if found else ""


def test_classes_have_their_confusion_matrix_and_scores():
    torch.manual_seed(0)
    targets = torch.arange(10) % 3
    learn = fitted(targets, nn.Linear(2, 3), F.cross_entropy)
    predicted = learn.predict(learn.data.valid[0][0]).argmax(1)
    cells = re.findall(r"<td[^>]*>(\d+)</td>", section(learn).split("Rows are targets")[0])
    counts = torch.zeros(3, 3, dtype=torch.long)
    for target, pred in zip(targets, predicted, strict=True):
        counts[target, pred] += 1
    assert [int(each) for each in cells] == counts.flatten().tolist()
    assert "precision" in section(learn)


def test_many_classes_are_a_plot():
    learn = fitted(torch.arange(10), nn.Linear(2, 30), F.cross_entropy)
    assert '<svg role="img" aria-label="confusion matrix' in section(learn)


def test_names_of_classes_are_escaped():
    learn = fitted(torch.arange(10) % 2, nn.Linear(2, 2), F.cross_entropy)
    learn.data.valid = type("Loader", (list,), {})(learn.data.valid)
    learn.data.valid.dataset = type("Named", (), {"classes": ["<b>cat</b>", "dog"]})
    text = section(learn)
    assert "&lt;b&gt;cat" in text
    assert "<b>cat" not in text


def test_numbers_have_their_residuals():
    text = section(fitted(torch.rand(10, 1), nn.Linear(2, 1), F.mse_loss))
    assert 'aria-label="predictions' in text
    assert 'aria-label="residuals' in text
    assert "rmse" in text


@pytest.mark.parametrize("predictions", [True, False])
def test_the_predictions_can_be_left_out(predictions):
    learn = fitted(torch.arange(10) % 3, nn.Linear(2, 3), F.cross_entropy)
    assert ("<h2>Predictions" in learn.report(predictions=predictions).html) == predictions


def test_the_former_name_of_the_argument_works_with_a_warning_at_the_callers_line():
    learn = fitted(torch.arange(10) % 3, nn.Linear(2, 3), F.cross_entropy)
    with pytest.warns(
        DeprecationWarning, match=r"report\(answers=\) is called report\(predictions=\) now"
    ) as found:
        html = learn.report(answers=False).html
    assert "<h2>Predictions" not in html
    assert found[0].filename == __file__
    with pytest.raises(TypeError, match=r"report\(\) has no argument 'answers'"):
        learn.report(answers=False, predictions=True)


def test_data_that_cannot_be_compared_is_left_out_with_the_reason():
    learn = fitted(torch.rand(10, 4), nn.Linear(2, 1), lambda preds, targets: (preds - targets).mean())
    html = learn.report().html
    assert "<h2>Predictions" not in html
    assert "<h2>Left out" in html
    assert "cannot be compared" in html


RECIPE = """
seed: 0
data: {use: digits, batch_size: 256}
model: {use: Linear, in_features: 64, out_features: 10}
loss: cross_entropy
optimizer: {use: SGD, lr: 0.1}
defaults: [ZeroGrad, Metrics, Recorder]
fit: {epochs: 1}
"""


@pytest.mark.parametrize(("option", "n_matrices"), [([], 1), (["--no-predictions"], 0)])
def test_the_command_loads_the_weights_of_the_run(tmp_path, monkeypatch, option, n_matrices):
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE)
    assert main(["run", "small.yaml"]) == 0
    assert main(["report", "runs/small-1", *option]) == 0
    assert (
        Path("runs/small-1/report.html").read_text(encoding="utf-8").count("Confusion matrix") == n_matrices
    )


def test_the_former_name_of_the_option_works_with_a_warning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE)
    assert main(["run", "small.yaml"]) == 0
    with pytest.warns(DeprecationWarning, match="--no-answers is called --no-predictions now"):
        assert main(["report", "runs/small-1", "--no-answers"]) == 0
    assert "Confusion matrix" not in Path("runs/small-1/report.html").read_text(encoding="utf-8")


def test_code_that_is_gone_does_not_prevent_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE)
    assert main(["run", "small.yaml"]) == 0
    recipe = Path("runs/small-1/recipe.yaml")
    recipe.write_text(recipe.read_text().replace("use: Linear", "use: 'models.py:Gone'"))
    assert main(["report", "runs/small-1"]) == 0
    assert "left out: Predictions" in capsys.readouterr().out


def test_the_learner_stays_as_it_is():
    learn = fitted(torch.arange(10) % 3, nn.Sequential(nn.Linear(2, 3), nn.Dropout()), F.cross_entropy)
    learn.model.train()
    before = torch.get_rng_state()
    learn.report()
    assert torch.equal(torch.get_rng_state(), before)
    assert learn.model.training
    assert len(learn.history) == 1
