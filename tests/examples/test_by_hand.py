"""The learners of the examples train with the same bits as hand-written loops over the same batches."""

import torch
from torch.nn import functional as F

N_EPOCHS = 2


def train_by_hand(model, loss_func, optimizer, batches):
    """Train by hand; return the losses of all steps."""
    losses = []
    for _ in range(N_EPOCHS):
        model.train()
        for inputs, targets in batches():
            loss = loss_func(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        model.eval()
    return losses


def assert_same(learn, model, losses):
    assert list(learn.history.steps["train_loss"]) == losses
    wanted, found = model.state_dict(), learn.model.state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_conv_net_on_digits_equals_a_loop_by_hand_bit_for_bit(load, capsys):
    example = load("digits")
    learn = example.make_learner(example.ConvNet)
    learn.fit(N_EPOCHS)
    torch.manual_seed(0)
    model, train = example.ConvNet(), example.load_data().train
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    assert_same(learn, model, train_by_hand(model, F.cross_entropy, optimizer, lambda: train))


def test_the_network_on_diabetes_equals_a_loop_by_hand_bit_for_bit(load, capsys):
    example = load("diabetes")
    learn = example.make_learner()
    learn.fit(N_EPOCHS)
    again = example.make_learner()
    model, train = again.model, again.data.train
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.3)
    assert_same(learn, model, train_by_hand(model, F.mse_loss, optimizer, lambda: train))


def test_the_users_own_model_equals_a_loop_by_hand_bit_for_bit(load, capsys):
    example = load("my_model")
    learn = example.make_learner(callbacks=[example.GradientNorm()])
    learn.fit(N_EPOCHS)
    torch.manual_seed(0)
    model, train = example.SpiralNet(), example.spirals().train
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    assert_same(learn, model, train_by_hand(model, F.cross_entropy, optimizer, lambda: train))


def test_the_model_of_text_equals_a_loop_by_hand_bit_for_bit(load, capsys):
    example = load("text")
    learn = example.make_learner()
    learn.fit(N_EPOCHS)
    torch.manual_seed(2021)
    model = example.CharacterModel(len(example.CHARACTERS))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def batches():
        return ((batch["text"], batch["following"]) for batch in example.batches())

    assert_same(learn, model, train_by_hand(model, F.cross_entropy, optimizer, batches))


def test_check_finds_nothing_wrong_with_any_of_the_examples(load, capsys):
    digits = load("digits")
    learners = [
        *(digits.make_learner(each) for each in (digits.MLP, digits.ConvNet)),
        *(load(name).make_learner() for name in ("diabetes", "my_model", "text")),
    ]
    reports = [learn.check() for learn in learners]
    assert [(report.errors, report.warnings) for report in reports] == [([], [])] * 5
