"""A user's losses that are not means over items: one warning, with the fix."""

from __future__ import annotations

import copy
import pickle
import warnings
from contextlib import contextmanager
from functools import partial, wraps

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from callbacks import GradientAccumulation, LearnerWarning, Metrics, ZeroGrad
from learner import Data, Learner

DRAW = torch.Generator().manual_seed(0)
TOKENS = torch.randint(0, 5, (7, 9), generator=DRAW)
LABELS = torch.full((7, 9), -100)
for row, length in enumerate((9, 1, 2, 3, 1, 5, 4)):
    LABELS[row, :length] = torch.randint(0, 5, (length,), generator=DRAW)
X = torch.randn(7, 3, generator=DRAW)
Y = X.sum(1, keepdim=True)
MASK = torch.arange(7).view(7, 1) < 3


class Scores(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(5, 5)

    def forward(self, tokens):
        return self.embedding(tokens)


@contextmanager
def assert_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        yield


def line():
    torch.manual_seed(1)
    return nn.Linear(3, 1)


def of_tokens(preds, targets):
    return F.cross_entropy(preds.flatten(0, 1), targets.flatten(), label_smoothing=0.1)


def of_next_tokens(preds, targets):
    return F.cross_entropy(preds[:, :-1].flatten(0, 1), targets[:, 1:].flatten())


class OfTokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.loss = nn.CrossEntropyLoss()

    def forward(self, preds, targets):
        return self.loss(preds.transpose(1, 2), targets)


def masked(preds, targets, mask):
    return ((preds - targets).square() * mask).sum() / mask.sum()


def without_missing(preds, targets):
    return (preds - targets)[~targets.isnan()].abs().mean()


def total(preds, targets):
    return (preds - targets).square().sum()


WITH_MISSING = Y.masked_fill(~MASK, torch.nan)
KINDS = {
    "tokens": (of_tokens, Scores, TOKENS, LABELS, "(learn.targets != -100).sum()"),
    "next tokens": (of_next_tokens, Scores, TOKENS[2:], LABELS[2:], "(learn.targets[:, 1:] != -100).sum()"),
    "tokens of a module": (OfTokens(), Scores, TOKENS, LABELS, "(learn.targets != -100).sum()"),
    "mask": (masked, line, X, (Y, MASK), "learn.targets[1].sum()"),
    "missing targets": (without_missing, line, X, WITH_MISSING, "(~learn.targets.isnan()).sum()"),
    "sum": (total, line, X, Y, "sum"),
}


def learner_of(loss, model, inputs, targets, *callbacks):
    columns = [inputs, *(targets if isinstance(targets, tuple) else (targets,))]
    batches = list(zip(*(each.split(2) for each in columns), strict=True))
    sgd = partial(torch.optim.SGD, lr=0.1)
    return Learner(model, Data(batches, list(batches)), loss, sgd, callbacks)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_not_a_mean_over_items_raises_one_warning_whose_fix_is_right(kind):
    loss, make, inputs, targets, code = KINDS[kind]
    learn = learner_of(loss, make(), inputs, targets)
    with pytest.warns(LearnerWarning, match=r"is a sum|divides by") as seen:
        learn.validate()
    assert len(seen) == 1
    assert "reduction = 'sum'" in str(seen[0].message) if code == "sum" else code in str(seen[0].message)
    with assert_silent():
        learn.validate()

    fixed, weight = loss, eval(f"lambda learn: {code}") if code != "sum" else None
    if code == "sum":
        fixed = wraps(total)(lambda preds, targets: total(preds, targets))
        fixed.reduction = "sum"
    callbacks = [Metrics(weight=weight), GradientAccumulation(99, weight=weight)]
    model, by_hand = make(), make()
    learn = learner_of(fixed, model, inputs, targets, *callbacks)
    whole = loss(by_hand(inputs), *(targets if isinstance(targets, tuple) else (targets,)))
    with assert_silent():
        assert learn.validate()["valid_loss"] == pytest.approx(whole.item(), rel=1e-5)
    Learner(model, Data(learn.data.train), fixed, learn.optimizer_given, callbacks).fit(1)
    whole.backward()
    torch.optim.SGD(by_hand.parameters(), lr=0.1).step()
    for one, other in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def of_items(preds, targets):
    return F.mse_loss(preds, targets) + 0.1 * preds.abs().mean()


def contrastive(preds, targets):
    distances = torch.cdist(preds, targets)
    return F.cross_entropy(-distances, torch.arange(len(preds)))


def root(preds, targets):
    return F.mse_loss(preds, targets).sqrt()


def drawing(preds, targets):
    return (preds - targets).square().mean() * torch.rand(())


@pytest.mark.parametrize(
    "loss", [of_items, contrastive, root, drawing, F.mse_loss, nn.MSELoss(reduction="sum")]
)
def test_other_losses_raise_no_warning(loss):
    with assert_silent():
        learner_of(loss, line(), X, Y).validate()


def test_a_loss_that_keeps_something_is_called_once_per_batch():
    seen = []

    def keeping(preds, targets):
        seen.append(len(preds))
        return total(preds, targets)

    learner_of(keeping, line(), X, Y).validate()
    assert seen == [2, 2, 2, 1]


class Running(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("n_calls", torch.zeros(()))

    def forward(self, preds, targets):
        self.n_calls.add_(1)
        return total(preds, targets)


class RunningAlias(Running):
    def forward(self, preds, targets):
        n_calls = self.n_calls
        n_calls += 1
        return total(preds, targets)


@pytest.mark.parametrize("loss", [Running(), RunningAlias()])
def test_a_loss_that_writes_to_its_buffers_is_called_once_per_batch(loss):
    learner_of(loss, line(), X, Y).validate()
    assert loss.n_calls == 4


class Critic:
    """An object that owns a network whose buffers a call changes, hidden from the code of its loss."""

    def __init__(self, layer):
        torch.manual_seed(2)
        self.parts = [layer(), nn.Linear(1, 4)]

    def network(self, preds):
        return self.parts[0](self.parts[1](preds))

    def loss(self, preds, targets):
        return -self.network(preds).mean()


CHANGING = {
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)),
    "the older one": lambda: nn.utils.spectral_norm(nn.Linear(4, 3)),
    "batch norm": lambda: nn.BatchNorm1d(4),
    "weights of a quantizer": lambda: torch.ao.quantization.FakeQuantize(),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of torch
@pytest.mark.parametrize("layer", CHANGING)
def test_trying_a_loss_leaves_the_modules_that_it_calls_unchanged(layer):
    found = []
    for defaults in ([ZeroGrad, Metrics], [ZeroGrad]):
        critic, model = Critic(CHANGING[layer]), line()
        batches = list(zip(X[:6].split(2), Y[:6].split(2), strict=True))
        sgd = partial(torch.optim.SGD, lr=0.1)
        Learner(model, Data(batches), critic.loss, sgd, defaults=defaults).fit(3)
        found.append([*model.parameters(), *critic.parts[0].buffers()])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_a_copy_of_the_metrics_tries_the_loss_of_its_own_learner():
    learn = learner_of(total, line(), X, Y, Metrics())
    for each in (copy.deepcopy(learn), pickle.loads(pickle.dumps(learn))):
        with pytest.warns(LearnerWarning, match="is a sum"):
            each.validate()


def mean_of_squares(preds, targets):
    return (preds - targets).square().mean()


def of_sequences(lengths, loss=mean_of_squares):
    """A learner whose batches have equally many rows, and these numbers of columns."""
    torch.manual_seed(0)
    batches = [(torch.randn(5, n, 3), torch.randn(5, n, 1)) for n in lengths]
    return Learner(line(), Data(batches, list(batches)), loss, partial(torch.optim.SGD, lr=0.1)), batches


def test_a_smaller_last_batch_with_time_first_raises_a_warning_whose_fix_is_right():
    learn, batches = of_sequences([4, 4, 1])
    with pytest.warns(LearnerWarning, match=r"divides by .*lambda learn: learn.targets.numel\(\)\)"):
        learn.validate()
    inputs, targets = (torch.cat(parts, 1) for parts in zip(*batches, strict=True))
    whole = mean_of_squares(learn.model(inputs), targets).item()
    weighted = Metrics(weight=lambda learn: learn.targets.numel())
    fixed = Learner(learn.model, learn.data, mean_of_squares, callbacks=[weighted])
    with assert_silent():
        assert fixed.validate()["valid_loss"] == pytest.approx(whole)


@pytest.mark.parametrize(
    ("lengths", "loss"), [([4, 4, 4], mean_of_squares), ([2, 4, 3], mean_of_squares), ([4, 1], F.mse_loss)]
)
def test_sequences_of_equal_lengths_or_of_many_raise_no_warning(lengths, loss):
    with assert_silent():
        of_sequences(lengths, loss)[0].validate()


def of_nodes(preds, targets, mask):
    return F.mse_loss(preds[mask[:, 0]], targets[mask[:, 0]])


@pytest.mark.parametrize("n_items", [None, lambda batch: int(batch[2].sum())])
def test_a_graph_that_is_one_batch_raises_no_warning_for_its_masks(n_items):
    def split(batch):
        return batch[0], batch[1:]

    data = Data([(X, Y, MASK)], [(X, Y, ~MASK)], split=split, n_items=n_items)
    with assert_silent():
        Learner(line(), data, of_nodes, partial(torch.optim.SGD, lr=0.1)).fit(3)


def test_a_loss_that_divides_by_the_given_number_of_items_raises_no_warning():
    batches = list(zip(X.split(3), Y.split(3), MASK.split(3), strict=True))[:2]
    batches = [(x, y, mask | (torch.arange(len(x)).view(-1, 1) < 1)) for x, y, mask in batches]
    data = Data(batches, split=lambda batch: (batch[0], batch[1:]), n_items=lambda batch: int(batch[2].sum()))
    with assert_silent():
        Learner(line(), data, masked, partial(torch.optim.SGD, lr=0.1)).fit(2)
