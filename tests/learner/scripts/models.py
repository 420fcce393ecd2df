"""The user's own files of the compositions in `compositions.py`: they do not import this project."""

import random

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset


class Net(nn.Module):
    def __init__(self, n_hidden: int = 8, p: float = 0.2):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, n_hidden), nn.BatchNorm1d(n_hidden), nn.ReLU(), nn.Dropout(p))
        self.head = nn.Linear(n_hidden, 3)

    def forward(self, x):
        return self.head(self.body(x))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, one, two):
        return self.first(one) + self.second(two)


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x, mask):
        return self.layer(x * mask)


class Tagger(nn.Module):
    """A class for each moment of a sequence: (items, time) to (items, classes, time)."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(12, 6)
        self.memory = nn.GRU(6, 8, batch_first=True, num_layers=2, dropout=0.1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.memory(self.embedding(x))[0]).transpose(1, 2)


class PartlyFrozen(nn.Module):
    """A model whose first part is not trained, and stays in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.fixed = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.head = nn.Linear(4, 3)
        self.fixed.requires_grad_(False)
        self.fixed.eval()

    def forward(self, x):
        return self.head(self.fixed(x))


class OwnLoss(nn.Module):
    """A model whose output has the loss, as those of Hugging Face."""

    class Output:
        def __init__(self, loss, logits):
            self.loss, self.logits = loss, logits

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x, labels):
        scores = self.layer(x)
        return self.Output(nn.functional.cross_entropy(scores, labels), scores)


def tensors(n_items: int = 70):
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(n_items, 4, generator=generator)
    return inputs, (inputs @ torch.randn(4, 3, generator=generator)).argmax(1)


def loaders(batch_size: int = 16):
    inputs, targets = tensors()
    train = DataLoader(TensorDataset(inputs[:50], targets[:50]), batch_size, shuffle=True)
    return train, DataLoader(TensorDataset(inputs[50:], targets[50:]), 32)


def train_only(batch_size: int = 16):
    return loaders(batch_size)[0]


class Noisy(Dataset):
    """Items that draw from three generators."""

    def __init__(self, n_items: int):
        self.inputs, self.targets = tensors(n_items)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        noise = torch.randn(4) * 0.1 + random.random() * 0.1 + np.random.rand() * 0.1
        return self.inputs[index] + noise, self.targets[index]


def noisy_loaders():
    return DataLoader(Noisy(40), 12, shuffle=True), DataLoader(Noisy(20), 10)


def worker_loaders():
    return DataLoader(Noisy(24), 12, shuffle=True, num_workers=1), DataLoader(Noisy(12), 12)


def generator():
    for _ in range(4):
        inputs = torch.randn(10, 4)
        yield inputs, inputs[:, :3].argmax(1)


def stream():
    return generator, None


def two_inputs():
    inputs, targets = tensors(40)
    batches = [(inputs[n : n + 10], inputs[n : n + 10, :2], targets[n : n + 10]) for n in range(0, 40, 10)]
    return batches, batches[:1]


def by_name():
    inputs, targets = tensors(40)
    parts = zip(inputs.split(10), targets.split(10), strict=True)
    return [{"x": x, "mask": (x > -1).float(), "y": y} for x, y in parts], None


def with_labels():
    inputs, targets = tensors(40)
    return [{"x": x, "labels": y} for x, y in zip(inputs.split(10), targets.split(10), strict=True)], None


def sequences():
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(12, (30, 7), generator=generator)
    targets = words % 5
    targets[:, 5:][words[:, 5:] > 6] = -100
    return [(words[:20], targets[:20]), (words[20:], targets[20:])], [(words[:8], targets[:8])]


def one_batch():
    inputs, targets = tensors(30)
    return inputs, targets


class YesOrNo(nn.Module):
    """A model that returns one number per item, which is a probability or has a sign."""

    def __init__(self, is_share: bool = False):
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.last = nn.Sigmoid() if is_share else nn.Identity()

    def forward(self, x):
        return self.last(self.layer(x)).squeeze(1)


class Share(YesOrNo):
    def __init__(self):
        super().__init__(is_share=True)


def binary(low: float = 0.0):
    inputs, targets = tensors(60)
    targets = low + (1 - low) * (targets == 1)
    parts = list(zip(inputs.split(10), targets.split(10), strict=True))
    return parts[:3], parts[3:]


def signs():
    return binary(-1.0)


class TwoAnswers(nn.Linear):
    """A model whose scores have the shape (items, answers, classes)."""

    def __init__(self):
        super().__init__(4, 6)

    def forward(self, x):
        return super().forward(x).unflatten(1, (2, 3))


def two_answers():
    inputs = torch.randn(40, 4)
    return [(each, each[:, :2].round().long().clamp(-1, 2)) for each in inputs.split(10)], [
        (inputs, inputs[:, :2].round().long().clamp(-1, 2))
    ]


def loss_of_answers(preds, targets):
    return nn.functional.cross_entropy(preds.flatten(0, 1), targets.flatten(), ignore_index=-1)


def hinge(preds, targets):
    return (1 - preds * targets).clamp(min=0).mean()


def focal(preds, targets):
    losses = nn.functional.cross_entropy(preds, targets, reduction="none")
    return ((1 - (-losses).exp()) ** 2 * losses).mean()


def error_rate(preds, targets):
    return (preds.argmax(1) != targets).float().mean()


error_rate.higher_is_better = False


class Spread:
    """A metric with a state, which only `reset` creates."""

    def reset(self):
        self.total = 0.0

    def update(self, preds, targets):
        self.total += float(preds.std())

    def compute(self):
        return self.total


def down(progress):
    return 0.1 * (1 - progress) + 0.01


def split(model):
    return [model.body, model.head]


def optimizer_of(parameters, lr=0.1):
    return torch.optim.RMSprop(parameters, lr=lr, momentum=0.5)


def loss_func(preds, targets):
    """The script has a variable of this name, so it imports the function under another one."""
    return nn.functional.cross_entropy(preds, targets)


class Pair(nn.Module):
    """A model with two outputs."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 1)

    def forward(self, x):
        return self.first(x), self.second(x)


def loss_of_pair(preds, targets):
    return nn.functional.cross_entropy(preds[0], targets) + preds[1].square().mean()


class InOrderOfEpoch(Sampler):
    """An order that depends on the epoch, which the loop must pass on."""

    def __init__(self, n_items: int):
        self.n_items, self.epoch = n_items, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.n_items

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.epoch)
        return iter(torch.randperm(self.n_items, generator=generator).tolist())


def sampled():
    dataset = TensorDataset(*tensors(40))
    return DataLoader(dataset, 9, sampler=InOrderOfEpoch(40)), DataLoader(dataset, 20)


def drawn():
    """Data that is drawn from the random state that the model draws from too."""
    inputs = torch.randn(40, 4)
    return [(each, each[:, :3].argmax(1)) for each in inputs.split(10)], None
