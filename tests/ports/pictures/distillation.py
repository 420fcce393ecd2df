"""Train a small network on the soft predictions of a larger one (Hinton et al. 2015, arXiv:1503.02531)."""

from functools import partial

import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import Metrics, Recorder, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT = 2, 5
TEMPERATURE, SOFT_SHARE = 2.0, 0.25


def network(width):
    return nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 5))


def parts():
    """A teacher trained for two steps, the student, and the loader, seeded."""
    torch.manual_seed(42)
    inputs = torch.randn(48, 16)
    targets = inputs[:, :5].argmax(1)
    teacher, student = network(32), network(4)
    optimizer = optim.Adam(teacher.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(teacher(inputs), targets).backward()
        optimizer.step()
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=12, shuffle=True)
    return teacher.eval(), student, loader


def distillation_loss(logits, teacher_logits, targets):
    """Cross-entropy with the labels, and Kullback-Leibler divergence from the teacher at a temperature."""
    soft_targets = F.softmax(teacher_logits / TEMPERATURE, dim=-1)
    soft_probabilities = F.log_softmax(logits / TEMPERATURE, dim=-1)
    soft = (soft_targets * (soft_targets.log() - soft_probabilities)).sum() / len(logits) * TEMPERATURE**2
    return SOFT_SHARE * soft + (1 - SOFT_SHARE) * F.cross_entropy(logits, targets)


def by_hand():
    teacher, student, loader = parts()
    optimizer = optim.Adam(student.parameters(), lr=0.001)
    student.train()
    for _ in range(N_EPOCHS):
        for inputs, targets in loader:
            optimizer.zero_grad()
            with torch.no_grad():
                teacher_logits = teacher(inputs)
            loss = distillation_loss(student(inputs), teacher_logits, targets)
            loss.backward()
            optimizer.step()
    return student.state_dict()


def make_learner(*callbacks):
    teacher, student, loader = parts()

    def with_teacher(batch):
        inputs, targets = batch
        with torch.no_grad():
            return inputs, (teacher(inputs), targets)

    return Learner(
        student,
        Data(loader, split=with_teacher),
        distillation_loss,
        partial(optim.Adam, lr=0.001),
        callbacks,
        defaults=(ZeroGrad, Metrics, Recorder),
    )
