"""Classify the nodes of one graph by attention to their neighbours, as `gat` in pytorch/examples does.

Source: Veličković et al. 2018, arXiv:1710.10903, eq. 1 to 4.
"""

from functools import partial

import torch
from torch import nn, optim
from torch.nn import functional as F

from callbacks import Metrics, Recorder, ZeroGrad
from learner import Learner

N_EPOCHS, CUT_AT, N_NODES, N_CLASSES = 8, 5, 20, 3


class GraphAttention(nn.Module):
    """One layer of `n_heads` heads; nodes without an edge between them get the weight exp(-inf) = 0."""

    def __init__(self, n_in, n_out, n_heads):
        super().__init__()
        self.weights = nn.Parameter(torch.empty(n_in, n_heads * n_out))
        self.attention = nn.Parameter(torch.empty(n_heads, 2 * n_out, 1))
        nn.init.xavier_normal_(self.weights)
        nn.init.xavier_normal_(self.attention)
        self.n_heads, self.dropout = n_heads, nn.Dropout(0.2)

    def forward(self, nodes, adjacency):
        hidden = (self.dropout(nodes) @ self.weights).view(len(nodes), self.n_heads, -1).transpose(0, 1)
        source, target = (hidden @ each for each in self.attention.chunk(2, dim=1))
        scores = F.leaky_relu(source + target.transpose(1, 2), 0.2).masked_fill(adjacency == 0, -torch.inf)
        return (self.dropout(scores.softmax(dim=-1)) @ hidden).transpose(0, 1)


class GAT(nn.Module):
    """The edges of the graph are a buffer of the model; a batch contains only the nodes."""

    def __init__(self, adjacency):
        super().__init__()
        self.register_buffer("adjacency", adjacency, persistent=False)
        self.first, self.second = GraphAttention(5, 4, n_heads=2), GraphAttention(8, N_CLASSES, n_heads=1)

    def forward(self, nodes):
        nodes = F.elu(self.first(nodes, self.adjacency)).flatten(1)
        return F.log_softmax(self.second(nodes, self.adjacency).mean(1), dim=1)


def parts():
    """The model, the nodes, their classes, and a mask of the training nodes; seeded."""
    torch.manual_seed(13)
    classes = torch.arange(N_NODES) % N_CLASSES
    nodes = F.one_hot(classes, 5) + torch.randn(N_NODES, 5)
    linked = (classes[:, None] == classes) & (torch.rand(N_NODES, N_NODES) < 0.5)
    return GAT((linked | torch.eye(N_NODES, dtype=torch.bool)).float()), nodes, classes, slice(0, 12)


def by_hand():
    model, nodes, classes, train = parts()
    optimizer, criterion = optim.Adam(model.parameters(), lr=0.005, weight_decay=5e-4), nn.NLLLoss()
    for _ in range(N_EPOCHS):
        model.train()
        optimizer.zero_grad()
        loss = criterion(model(nodes)[train], classes[train])
        loss.backward()
        optimizer.step()
    return model.state_dict()


def make_learner(*callbacks):
    model, nodes, classes, train = parts()
    criterion = nn.NLLLoss()
    return Learner(
        model,
        (nodes, classes),
        lambda predictions, classes: criterion(predictions[train], classes[train]),
        partial(optim.Adam, lr=0.005, weight_decay=5e-4),
        callbacks,
        defaults=(ZeroGrad, Metrics, Recorder),
    )
