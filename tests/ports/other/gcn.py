"""Classify the nodes of one graph by convolutions over its edges, as `gcn` in pytorch/examples does.

Source: Kipf and Welling 2017, arXiv:1609.02907, eq. 2.
"""

from functools import partial

import torch
from torch import nn, optim
from torch.nn import functional as F

from callbacks import EarlyStopping, Metrics, Recorder, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT, N_NODES, N_CLASSES = 12, 7, 24, 3


class GraphConvolution(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.kernel, self.bias = nn.Parameter(torch.empty(n_in, n_out)), nn.Parameter(torch.zeros(n_out))
        nn.init.xavier_normal_(self.kernel)

    def forward(self, nodes, edges):
        return torch.sparse.mm(edges, nodes @ self.kernel) + self.bias


class GCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = GraphConvolution(6, 8), GraphConvolution(8, N_CLASSES)
        self.dropout = nn.Dropout(0.5)

    def forward(self, nodes, edges):
        nodes = self.dropout(F.relu(self.first(nodes, edges)))
        return F.log_softmax(self.second(nodes, edges), dim=1)


def graph():
    """The features of the nodes, the normalized adjacency matrix (sparse), and the classes."""
    classes = torch.arange(N_NODES) % N_CLASSES
    nodes = F.one_hot(classes, 6) + 0.5 * torch.randn(N_NODES, 6)
    linked = (classes[:, None] == classes) & (torch.rand(N_NODES, N_NODES) < 0.5)
    adjacency = (linked | linked.t() | torch.eye(N_NODES, dtype=torch.bool)).float()
    degree = adjacency.sum(1).rsqrt()
    return nodes, (degree[:, None] * adjacency * degree).to_sparse(), classes


def parts():
    """The model, the graph, and the nodes to train and to validate on; seeded."""
    torch.manual_seed(42)
    is_train = torch.arange(N_NODES) < 12
    return GCN(), graph(), is_train


def by_hand():
    model, (nodes, edges, classes), is_train = parts()
    optimizer = optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    best, n_worse = None, 0
    for _ in range(N_EPOCHS):
        model.train()
        optimizer.zero_grad()
        loss = F.nll_loss(model(nodes, edges)[is_train], classes[is_train])
        loss.backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            valid_loss = F.nll_loss(model(nodes, edges)[~is_train], classes[~is_train]).item()
        if best is None or valid_loss < best:
            best, n_worse = valid_loss, 0
        else:
            n_worse += 1
            if n_worse == 5:
                break
    return model.state_dict()


def masked_loss(predictions, classes, is_counted):
    return F.nll_loss(predictions[is_counted], classes[is_counted])


def make_learner(*callbacks):
    model, (nodes, edges, classes), is_train = parts()
    train, valid = [[(nodes, edges, classes, is_counted)] for is_counted in (is_train, ~is_train)]
    return Learner(
        model,
        Data(train, valid, n_inputs=2),
        masked_loss,
        partial(optim.Adam, lr=0.01, weight_decay=5e-4),
        [EarlyStopping("valid_loss", patience=5, restore_best=False), *callbacks],
        defaults=(ZeroGrad, Metrics, Recorder),
    )
