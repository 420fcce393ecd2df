"""Train a small GPT on characters, as nanoGPT does.

Weight decay for matrices only, warm-up and cosine decay of the rate, gradient accumulation and clipping.
"""

import math
from functools import partial

import torch
from torch import nn, optim
from torch.nn import functional as F

from callbacks import GradientAccumulation, GradientClip, Metrics, Recorder, TorchScheduler, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT = 2, 5
TEXT = "the quick brown fox jumps over the lazy dog and the dog sleeps on "
CHARACTERS = sorted(set(TEXT))
BLOCK, WIDTH, N_HEADS, N_BATCHES, N_MICRO_BATCHES = 8, 16, 2, 8, 2
N_UPDATES = N_EPOCHS * N_BATCHES // N_MICRO_BATCHES


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x):
        items, length, _ = x.shape
        parts = self.qkv(self.norm1(x)).view(items, length, 3, N_HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(items, length, WIDTH))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(len(CHARACTERS), WIDTH), nn.Embedding(BLOCK, WIDTH)
        self.blocks, self.norm = nn.Sequential(Block(), Block()), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, len(CHARACTERS), bias=False)
        self.words.weight = self.head.weight  # tied

    def forward(self, tokens):
        x = self.words(tokens) + self.places.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x))).transpose(1, 2)


class Windows:
    """Batches of windows at random positions of a text, from their own generator.

    `state_dict` and `load_state_dict` let a killed run resume within an epoch.
    """

    def __init__(self):
        self.text = torch.tensor([CHARACTERS.index(each) for each in TEXT])
        self.generator, self.n_drawn = torch.Generator().manual_seed(0), 0

    def __len__(self):
        return N_BATCHES

    def __iter__(self):
        while self.n_drawn < N_BATCHES:
            starts = torch.randint(len(self.text) - BLOCK, (4,), generator=self.generator).tolist()
            windows = torch.stack([self.text[start : start + BLOCK + 1] for start in starts])
            self.n_drawn += 1
            yield windows[:, :-1], windows[:, 1:]
        self.n_drawn = 0

    def state_dict(self):
        return {"generator": self.generator.get_state(), "n_drawn": self.n_drawn}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])
        self.n_drawn = state["n_drawn"]


def parts():
    """The model and its batches, seeded."""
    torch.manual_seed(1337)
    return GPT(), Windows()


def make_optimizer(parameters):
    """AdamW with weight decay for matrices and embeddings, but not for biases and norms."""
    parameters = list(parameters)
    groups = [
        {"params": [each for each in parameters if each.ndim >= 2], "weight_decay": 0.1},
        {"params": [each for each in parameters if each.ndim < 2], "weight_decay": 0.0},
    ]
    return optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))


def rate(step):
    """Factor of the learning rate at an update: two steps of warm-up, then half a cosine down to a tenth."""
    if step < 2:
        return (step + 1) / 3
    progress = (step - 2) / max(1, N_UPDATES - 2)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


def by_hand():
    model, train = parts()
    optimizer = make_optimizer(model.parameters())
    scheduler = optim.lr_scheduler.LambdaLR(optimizer, rate)
    for _ in range(N_EPOCHS):
        for index, (inputs, targets) in enumerate(train, start=1):
            loss = F.cross_entropy(model(inputs), targets) / N_MICRO_BATCHES
            loss.backward()
            if index % N_MICRO_BATCHES == 0:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad(set_to_none=True)
    return model.state_dict()


def make_learner(*callbacks):
    model, train = parts()
    schedule = TorchScheduler(partial(optim.lr_scheduler.LambdaLR, lr_lambda=rate), every="1 step")
    return Learner(
        model,
        Data(train),
        F.cross_entropy,
        make_optimizer,
        [GradientAccumulation(N_MICRO_BATCHES), GradientClip(1.0), schedule, *callbacks],
        defaults=(ZeroGrad, Metrics, Recorder),
    )
