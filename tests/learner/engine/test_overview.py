"""What a notebook shows for a learner, its data, an examination and a cost."""

import pytest
import torch
from torch import nn

from callbacks import accuracy
from callbacks.history.tables import html_table
from learner import Data, Learner


@pytest.fixture
def classifier():
    x = torch.rand(32, 4, generator=torch.Generator().manual_seed(0))
    data = Data.from_tensors(x, (x.sum(1) > 2).long(), valid=0.25, batch_size=8, seed=0)
    return Learner(nn.Linear(4, 2), data, nn.CrossEntropyLoss(), torch.optim.Adam, metrics=accuracy)


def test_a_learner_shows_what_it_is_made_of(classifier):
    shown = classifier._repr_html_()
    for text in (
        "Linear, 10 trainable parameters",
        "CrossEntropyLoss",
        "Adam",
        "accuracy",
        "Progress",
        "0 epochs",
    ):
        assert text in shown


def test_a_lazy_model_and_an_output_with_its_own_loss_are_shown_too():
    shown = Learner(nn.LazyLinear(1), Data([(torch.ones(2, 3), torch.ones(2, 1))]))._repr_html_()
    assert "LazyLinear, 0 trainable parameters" in shown
    assert ">loss<" not in shown


def test_data_a_check_and_a_cost_are_tables(classifier):
    assert "3 batches" in classifier.data._repr_html_()
    assert ">test<" not in classifier.data._repr_html_()
    assert ">test<" in Data([], test=[])._repr_html_()
    assert "0 errors" in classifier.check()._repr_html_()
    shown = classifier.cost(20)._repr_html_()
    for text in ("zero_grad", "the loop itself", "100%", "Medians of 20 steps"):
        assert text in shown


def test_cells_are_escaped_and_numbers_are_aligned_right():
    table = html_table([("<a>", 1.5)], ["name", "number"], n_text=1)
    assert '<td style="text-align: left">&lt;a&gt;</td><td style="text-align: right">1.5</td>' in table
    assert table.count("<tr>") == 2
