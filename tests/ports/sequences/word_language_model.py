"""Predict the next word with a GRU that keeps its state from batch to batch within an epoch.

After `word_language_model` in pytorch/examples: truncated backpropagation through time, clipped gradients,
and plain gradient descent whose rate is divided by 4 when the validation loss does not improve.
"""

from functools import partial

import torch
from torch import nn, optim
from torch.nn import functional as F

from callbacks import GradientClip, Metrics, Recorder, ReduceLROnPlateau, RNNReset, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT, N_WORDS, BPTT = 3, 8, 12, 5


class LanguageModel(nn.Module):
    """The hidden state is a plain attribute; each batch starts where the previous one ended."""

    def __init__(self):
        super().__init__()
        self.encoder, self.rnn = nn.Embedding(N_WORDS, 8), nn.GRU(8, 8)
        self.dropout, self.decoder = nn.Dropout(0.2), nn.Linear(8, N_WORDS)
        self.decoder.weight = self.encoder.weight  # tied
        self.hidden = None

    def reset(self):
        self.hidden = None

    def forward(self, words):
        output, hidden = self.rnn(self.dropout(self.encoder(words)), self.hidden)
        self.hidden = hidden.detach()
        return F.log_softmax(self.decoder(self.dropout(output)).flatten(0, 1), dim=1)


def batches(text, n_columns):
    """Windows over a text in columns: words, of shape (time, columns), and the words that follow, flat."""
    columns = text[: len(text) // n_columns * n_columns].view(n_columns, -1).t().contiguous()
    starts = range(0, len(columns) - 1, BPTT)
    windows = [columns[start : start + BPTT + 1] for start in starts]
    return [(each[:-1], each[1:].reshape(-1)) for each in windows]


def parts():
    """The model, and windows for training and for validation, seeded."""
    torch.manual_seed(1111)
    text = (torch.arange(100) * torch.arange(1, 101)) % N_WORDS
    return LanguageModel(), batches(text, 4), batches(text[:33], 2)


def evaluate(model, windows):
    model.eval()
    model.reset()
    total, n_items = 0.0, 0
    with torch.no_grad():
        for words, targets in windows:
            total += len(targets) * F.nll_loss(model(words), targets).item()
            n_items += len(targets)
    return total / n_items


def by_hand():
    model, train, valid = parts()
    optimizer = optim.SGD(model.parameters(), lr=2.0)
    best = None
    for _ in range(N_EPOCHS):
        model.train()
        model.reset()
        for words, targets in train:
            optimizer.zero_grad()
            loss = F.nll_loss(model(words), targets)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()
        valid_loss = evaluate(model, valid)
        if best is None or valid_loss < best:
            best = valid_loss
        else:
            optimizer.param_groups[0]["lr"] /= 4.0
    return model.state_dict()


def make_learner(*callbacks):
    model, train, valid = parts()
    anneal = ReduceLROnPlateau("valid_loss", patience=0, factor=0.25)
    return Learner(
        model,
        Data(train, valid, n_items=lambda batch: len(batch[1])),
        F.nll_loss,
        partial(optim.SGD, lr=2.0),
        [RNNReset(), GradientClip(0.25), anneal, *callbacks],
        defaults=(ZeroGrad, Metrics, Recorder),
    )
