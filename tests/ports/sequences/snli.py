"""Classify pairs of sentences, in batches that are objects, as `snli` in pytorch/examples does."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn, optim

from callbacks import Metrics, Recorder, ZeroGrad, accuracy
from learner import Data, Learner

N_EPOCHS, CUT_AT, N_WORDS = 2, 4, 20


@dataclass
class Batch:
    """Pairs of sentences, time first, padded with 0, and the relation of each pair."""

    premise: Tensor  # shape (time, items)
    hypothesis: Tensor  # shape (time, items), of another length
    label: Tensor  # shape (items,)


class Classifier(nn.Module):
    """Takes the whole batch object."""

    def __init__(self):
        super().__init__()
        self.embed, self.encode = nn.Embedding(N_WORDS, 6, padding_idx=0), nn.LSTM(6, 8)
        self.out = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))

    def sentence(self, words):
        return self.encode(self.embed(words))[1][0][-1]

    def forward(self, batch):
        return self.out(torch.cat([self.sentence(batch.premise), self.sentence(batch.hypothesis)], dim=1))


def parts():
    """The model and its batches, which differ in length and in number of items; seeded."""
    torch.manual_seed(0)
    batches = [
        Batch(
            torch.randint(1, N_WORDS, (4 + index, n_items)),
            torch.randint(1, N_WORDS, (3 + index, n_items)),
            torch.randint(3, (n_items,)),
        )
        for index, n_items in enumerate((5, 5, 3))
    ]
    return Classifier(), batches


def by_hand():
    model, batches = parts()
    criterion, optimizer = nn.CrossEntropyLoss(), optim.Adam(model.parameters(), lr=0.01)
    for _ in range(N_EPOCHS):
        for batch in batches:
            model.train()
            optimizer.zero_grad()
            loss = criterion(model(batch), batch.label)
            loss.backward()
            optimizer.step()
    return model.state_dict()


def make_learner(*callbacks):
    model, batches = parts()
    data = Data(batches, split=lambda batch: (batch, batch.label))
    return Learner(
        model,
        data,
        nn.CrossEntropyLoss(),
        partial(optim.Adam, lr=0.01),
        callbacks,
        metrics=[accuracy],
        defaults=(ZeroGrad, Metrics, Recorder),
    )
