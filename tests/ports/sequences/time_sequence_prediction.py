"""Continue sine waves with LSTM cells and LBFGS, as `time_sequence_prediction` in pytorch/examples does."""

from functools import partial

import torch
from torch import nn, optim

from callbacks import ClosureStep, Metrics, Recorder, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT = 4, 3
REFUSED = {"LeanStep": "ClosureStep", "WholeStep": "ClosureStep"}


class Sequence(nn.Module):
    """Predicts the next value at each time, and `future` more values from its own predictions."""

    def __init__(self):
        super().__init__()
        self.lstm1, self.lstm2, self.linear = nn.LSTMCell(1, 6), nn.LSTMCell(6, 6), nn.Linear(6, 1)

    def forward(self, waves, future=0):
        state1, state2 = [(waves.new_zeros(len(waves), 6),) * 2 for _ in range(2)]
        outputs = []
        for moment in waves.split(1, dim=1):
            state1 = self.lstm1(moment, state1)
            state2 = self.lstm2(state1[0], state2)
            outputs.append(self.linear(state2[0]))
        for _ in range(future):
            state1 = self.lstm1(outputs[-1], state1)
            state2 = self.lstm2(state1[0], state2)
            outputs.append(self.linear(state2[0]))
        return torch.cat(outputs, dim=1)


def parts():
    """The model in double precision, and all waves as one batch, seeded."""
    torch.manual_seed(0)
    shift = torch.randint(-40, 40, (5, 1))
    waves = torch.sin((torch.arange(12) + shift).double() / 2)
    return Sequence().double(), waves[:, :-1], waves[:, 1:]


def by_hand():
    model, inputs, targets = parts()
    criterion = nn.MSELoss()
    optimizer = optim.LBFGS(model.parameters(), lr=0.8, max_iter=4)
    for _ in range(N_EPOCHS):

        def closure():
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            return loss

        optimizer.step(closure)
    return model.state_dict()


def make_learner(*callbacks):
    model, inputs, targets = parts()
    return Learner(
        model,
        Data([(inputs, targets)]),
        nn.MSELoss(),
        partial(optim.LBFGS, lr=0.8, max_iter=4),
        [ClosureStep(), *callbacks],
        defaults=(ZeroGrad, Metrics, Recorder),
    )
