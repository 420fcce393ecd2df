"""Translate with an encoder, a decoder and an optimizer for each, as the seq2seq tutorial of PyTorch does."""

from functools import partial

import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import Metrics, Optimizers, Recorder, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT, N_WORDS, START, END = 2, 5, 10, 0, 1


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.gru, self.dropout = nn.Embedding(N_WORDS, 6), nn.GRU(6, 8), nn.Dropout(0.1)

    def forward(self, words):
        return self.gru(self.dropout(self.embedding(words)))[1]


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.gru, self.out = nn.Embedding(N_WORDS, 6), nn.GRU(6, 8), nn.Linear(8, N_WORDS)

    def forward(self, word, hidden):
        output, hidden = self.gru(F.relu(self.embedding(word)), hidden)
        return self.out(output), hidden


class Translator(nn.Module):
    """Encoder and decoder; each decoded word is the input for the next one, without teacher forcing."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()

    def forward(self, sentences):
        words = sentences.t()
        hidden, word, outputs = self.encoder(words), torch.full_like(words[:1], START), []
        for _ in range(len(words)):
            output, hidden = self.decoder(word, hidden)
            word = output.argmax(-1).detach()
            outputs.append(output[0])
        return torch.stack(outputs, dim=2)  # shape (items, N_WORDS, time)


def parts():
    """The model and its loader, seeded; a translation is the sentence in reverse order."""
    torch.manual_seed(0)
    sentences = torch.randint(2, N_WORDS, (24, 4))
    sentences[:, -1] = END
    data = TensorDataset(sentences, sentences.flip(1))
    return Translator(), DataLoader(data, batch_size=6, shuffle=True)


def by_hand():
    model, train = parts()
    encoder_optimizer = optim.Adam(model.encoder.parameters(), lr=0.01)
    decoder_optimizer = optim.SGD(model.decoder.parameters(), lr=0.1, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    for _ in range(N_EPOCHS):
        for sentences, translations in train:
            encoder_optimizer.zero_grad()
            decoder_optimizer.zero_grad()
            loss = criterion(model(sentences), translations)
            loss.backward()
            encoder_optimizer.step()
            decoder_optimizer.step()
    return model.state_dict()


def make_learner(*callbacks):
    model, train = parts()
    optimizers = Optimizers(
        (partial(optim.Adam, lr=0.01), lambda name, _: name.startswith("encoder.")),
        partial(optim.SGD, lr=0.1, momentum=0.9),
    )
    return Learner(
        model,
        Data(train),
        nn.CrossEntropyLoss(),
        optimizers,
        callbacks,
        defaults=(ZeroGrad, Metrics, Recorder),
    )
