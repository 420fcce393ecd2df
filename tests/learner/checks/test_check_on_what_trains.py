"""`learn.check()` finds no error in learners that train well, because a false alarm is worse than a missed error."""
# ruff: noqa: E501

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence

from callbacks import Callback, ClosureStep, MixedPrecision
from learner import Data, Learner

SGD = partial(torch.optim.SGD, lr=0.01)
GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(8, 4, generator=GENERATOR), torch.randn(8, 1, generator=GENERATOR)


class By(nn.Module):
    """Layers, and a function that uses them."""

    def __init__(self, use, **layers):
        super().__init__()
        for name, each in layers.items():
            setattr(self, name, each)
        self.use = use

    def forward(self, *inputs):
        return self.use(self, *inputs)


def line(**others):
    return By(lambda m, x: m.layer(x), layer=nn.Linear(4, 1), **others)


class Started(Callback):
    """A callback that creates its state in a given event before the first batch."""

    def __init__(self, event):
        super().__init__()
        self.event = event

    def before_epoch(self, learn):
        self.begin(learn, "before_epoch")

    def before_train(self, learn):
        self.begin(learn, "before_train")

    def begin(self, learn, event):
        if event == self.event:
            self.total = torch.zeros(())

    def after_backward(self, learn):
        self.total += next(learn.model.parameters()).grad.sum()


class Double(torch.autograd.Function):
    """A function without a second derivative."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * grad


class Critic(Callback):
    """A callback that trains another network within the step, like a GAN."""

    def before_fit(self, learn):
        self.net = nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01)

    def after_pred(self, learn):
        if learn.training:
            self.optimizer.zero_grad()
            self.net(learn.preds.detach()).square().mean().backward()
            self.optimizer.step()


def forces(model, p):
    p = p.requires_grad_()
    return -torch.autograd.grad(model.net(p).sum(), p, create_graph=True)[0]


def vae_loss(preds, targets):
    mean, noise = preds
    return F.mse_loss(mean + noise, targets)


def remember(model, x):
    with torch.no_grad():
        model.seen = model.seen + 1 if hasattr(model, "seen") else 1
    return model.layer(x)


def graph(model, x, edges):
    return model.layer(torch.zeros_like(x).index_add(0, edges[1], x[edges[0]]))


def masked(preds, targets):
    known = targets.isfinite()
    return torch.where(known, preds - targets, 0.0).square().sum() / known.sum()


def tied():
    model = By(
        lambda m, i: F.linear(m.inner(m.emb(i)), m.emb.weight), emb=nn.Embedding(9, 4), inner=nn.Linear(4, 4)
    )
    return model  # noqa: RET504


def own(model, x):
    preds = model.layer(x)
    return SimpleNamespace(preds=preds, loss=preds.square().mean())


def padded(preds, targets):
    return F.cross_entropy(preds.flatten(0, 1), targets.flatten(), ignore_index=0)


IDS = torch.randint(1, 9, (4, 3), generator=GENERATOR)
TIME = torch.randn(5, 8, 4, generator=GENERATOR)
EDGES = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
mse = F.mse_loss
TRAINS = {
    "sparse input": lambda: (By(lambda m, a: torch.sparse.mm(a, m.w), w=nn.Parameter(torch.ones(4, 1))), [(X.to_sparse(), Y)], mse),
    "sparse rows": lambda: (By(lambda m, a: a @ m.w, w=nn.Parameter(torch.ones(4, 1))), [(X.to_sparse_csr(), Y)], mse),
    "sparse gradient": lambda: (nn.Sequential(nn.EmbeddingBag(9, 4, sparse=True), nn.Linear(4, 1)), [(IDS, torch.randn(4, 1))], mse),
    "a mask of -inf": lambda: (By(lambda m, a, mask: (m.l(a) + mask).softmax(-1), l=nn.Linear(8, 8)), Data([(torch.randn(8, 8), nn.Transformer.generate_square_subsequent_mask(8), torch.rand(8, 8))], n_inputs=2), mse),
    "targets that are absent": lambda: (line(), [(X, torch.where(torch.arange(8)[:, None] == 3, torch.nan, Y))], masked),
    "a gradient within forward": lambda: (By(forces, net=nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1, bias=False))), [(X, X)], mse),
    "a loss that changes its batch": lambda: (line(), [(X, 255 * Y)], lambda p, t: mse(p, t.div_(255.0))),
    "a model that changes its batch": lambda: (By(lambda m, x: m.l(x.mul_(0.5)), l=nn.Linear(4, 1)), [(X, Y)], mse),
    "time first": lambda: (By(lambda m, x: m.out(m.rnn(x)[0][-1]), rnn=nn.GRU(4, 3), out=nn.Linear(3, 1)), [(TIME, Y)], mse),
    "packed sequences": lambda: (By(lambda m, x: m.out(m.rnn(x)[1][0]), rnn=nn.GRU(4, 3), out=nn.Linear(3, 1)), [(pack_sequence([X[:5], X[:3]]), Y[:2])], mse),
    "a graph": lambda: (By(graph, layer=nn.Linear(4, 1)), Data([(X, EDGES, Y)], n_inputs=2), mse),
    "complex numbers": lambda: (By(lambda m, x: (m.w * x).sum(1), w=nn.Parameter(torch.ones(4, dtype=torch.cfloat))), [(X.cfloat(), Y[:, 0].cfloat())], lambda p, t: (p - t).abs().square().mean()),
    "outputs in a dict": lambda: (By(lambda m, x: {"out": m.l(x), "name": "a"}, l=nn.Linear(4, 1)), [(X, Y)], lambda p, t: mse(p["out"], t)),
    "a loss of its own": lambda: (By(own, layer=nn.Linear(4, 1)), Data([X], n_inputs=1), None),
    "noise in the output": lambda: (By(lambda m, x: (m.l(x), torch.randn(len(x), 1)), l=nn.Linear(4, 1)), [(X, Y)], vae_loss),
    "pictures of bytes": lambda: (By(lambda m, x: m.l(x.float() / 255), l=nn.Linear(4, 1)), [((X * 50).abs().byte(), Y)], mse),
    "tied weights": lambda: (tied(), [(IDS[:, 0], IDS[:, 1])], F.cross_entropy),
    "padding": lambda: (nn.Sequential(nn.Embedding(9, 4, padding_idx=0), nn.Linear(4, 9)), [(IDS, IDS * (IDS > 2))], padded),
    "a part without a gradient": lambda: (By(lambda m, x: m.b(m.a(x).detach()) + m.a(x)[:, :1], a=nn.Linear(4, 4), b=nn.Linear(4, 1)), [(X, Y)], mse),
    "frozen parts": lambda: (nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 1)), [(X, Y)], mse),
    "no second derivative": lambda: (By(lambda m, x: Double.apply(m.l(x)), l=nn.Linear(4, 1)), [(X, Y)], mse),
    "what it has seen": lambda: (By(remember, layer=nn.Linear(4, 1)), [(X, Y)], mse),
    "double precision": lambda: (nn.Linear(4, 1).double(), [(X.double(), Y.double())], mse),
    "bfloat16": lambda: (nn.Linear(4, 1).bfloat16(), [(X.bfloat16(), Y.bfloat16())], mse),
    "no targets": lambda: (By(lambda m, x: m.l(x), l=nn.Linear(4, 4)), [(X, None)], lambda p, t: p.square().mean()),
    "one item without a dimension for it": lambda: (nn.Linear(4, 1), [(X[0], Y[0])], mse),
    "nan in a buffer": lambda: (By(lambda m, x: m.l(x), l=nn.BatchNorm1d(4, affine=True), bank=nn.Buffer(torch.full((3,), torch.nan))), [(X, X)], mse),
    "a placeholder": lambda: (line(absent=nn.Parameter(torch.full((2,), torch.nan), requires_grad=False)), [(X, Y)], mse),
    "nested tensors": lambda: (By(lambda m, x: m.l(x).to_padded_tensor(0.0).sum(1), l=nn.Linear(4, 1)), [(torch.nested.nested_tensor([X[:2], X[:3]], layout=torch.jagged), Y[:2])], mse),
    "a state that is fed back": lambda: (By(lambda m, x: m.rnn(x, torch.zeros(1, 8, 3))[0].mean(1), rnn=nn.GRU(4, 3, batch_first=True)), [(X[:, None], torch.randn(8, 3))], mse),
    "names and numbers": lambda: (By(lambda m, b: m.l(b["x"]), l=nn.Linear(4, 1)), Data([({"x": X, "name": ["a"] * 8}, Y)]), mse),
}  # fmt: skip


def learner_of(name, callbacks=(), optimizer=SGD):
    torch.manual_seed(0)
    model, data, loss_func = TRAINS[name]()
    if isinstance(data, list):
        data = Data([tuple(each.clone() if isinstance(each, torch.Tensor) else each for each in data[0])])
    return Learner(model, data, loss_func, optimizer, callbacks)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("name", TRAINS)
def test_a_model_that_trains_has_no_error(name, capsys):
    learner_of(name).fit(1)
    report = learner_of(name).check()
    assert report.ok, report.errors


@pytest.mark.parametrize("event", ["before_epoch", "before_train"])
def test_state_created_before_the_first_batch_is_available(event, capsys):
    assert (
        learner_of("frozen parts", [Started(event)]).check().ok is False
    )  # its first weight has no gradient
    assert learner_of("double precision", [Started(event)]).check().ok


@pytest.mark.parametrize(
    ("callbacks", "optimizer"),
    [
        ([ClosureStep], partial(torch.optim.LBFGS, lr=0.1, max_iter=2)),
        ([Critic], SGD),
        ([MixedPrecision("bf16")], SGD),
        ([MixedPrecision("fp16")], SGD),
    ],
)
def test_callbacks_that_take_part_in_the_step_have_no_error(callbacks, optimizer, capsys):
    learner_of("what it has seen", callbacks, optimizer).fit(8)
    assert learner_of("what it has seen", callbacks, optimizer).check().ok


def test_batches_of_a_generator_are_examined(capsys):
    def batches():
        yield X, Y

    make = lambda: Learner(nn.Linear(4, 1), Data(batches), mse, SGD)  # noqa: E731
    make().fit(1)
    assert make().check().ok


def test_a_failure_in_training_is_still_an_error(capsys):
    wrong = {
        "NaN in a batch": Learner(line(), Data([(X * torch.nan, Y)]), mse, SGD),
        "weights that are NaN": Learner(nn.Linear(4, 1), Data([(X, Y)]), lambda p, t: mse(p, t) / 0, SGD),
        "no gradient": Learner(line(), Data([(X, Y)]), lambda p, t: mse(p.detach(), t), SGD),
        "sizes": Learner(nn.Linear(3, 1), Data([(X, Y)]), mse, SGD),
    }
    assert [name for name, learn in wrong.items() if learn.check().ok] == []


class Experts(nn.Module):
    """A model whose expert is chosen by the first number of a batch."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 1) for _ in range(2))

    def forward(self, x):
        return self.experts[int(x[0, 0] > 0)](x)


class Codebook(nn.Module):
    """A frozen weight that follows the inputs by a moving average."""

    def __init__(self):
        super().__init__()
        self.layer, self.code = nn.Linear(4, 1), nn.Parameter(torch.zeros(4), requires_grad=False)

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.code.lerp_(x.mean(0), 0.1)
        return self.layer(x + self.code)


@pytest.mark.parametrize("model", [Experts, Codebook])
def test_a_warning_says_when_its_finding_is_intended(model, capsys):
    report = Learner(model(), Data([(X, Y), (-X, Y)]), mse, SGD).check()
    assert report.ok
    assert report.warnings
    assert all(each.endswith("this is correct.") for each in report.warnings)
