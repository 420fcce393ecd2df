"""Find boxes in images of different sizes with a model that returns its losses, as in torchvision."""

from functools import partial

import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from callbacks import Metrics, Recorder, TorchScheduler, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT = 2, 4


class Detector(nn.Module):
    """Returns a dict of losses in training, and otherwise a dict with a box and a score for each image."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.box, self.score = nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, images, targets=None):
        features = torch.cat([self.backbone(each[None]).flatten(1) for each in images])
        boxes, scores = self.box(features).sigmoid(), self.score(features)[:, 0]
        if self.training:
            true_boxes = torch.stack([each["boxes"].mean(0) for each in targets])
            labels = torch.tensor([float(each["labels"].max() > 0) for each in targets])
            return {
                "box": F.smooth_l1_loss(boxes, true_boxes),
                "score": F.binary_cross_entropy_with_logits(scores, labels),
            }
        return [{"boxes": box[None], "scores": score[None]} for box, score in zip(boxes, scores, strict=True)]


class Scenes(Dataset):
    """Images of different sizes with one to three boxes each."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        draw = torch.Generator().manual_seed(index)
        image = torch.rand(3, 6 + index % 3, 6 + index % 2, generator=draw)
        boxes = torch.rand(1 + index % 3, 4, generator=draw)
        return image, {"boxes": boxes, "labels": torch.randint(2, (len(boxes),), generator=draw)}


def collate(items):
    return tuple(zip(*items, strict=True))


def parts():
    """The model and its loader, seeded."""
    torch.manual_seed(0)
    return Detector(), DataLoader(Scenes(), batch_size=4, shuffle=True, collate_fn=collate)


def by_hand():
    model, train = parts()
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.0005)
    scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    for _ in range(N_EPOCHS):
        model.train()
        for images, targets in train:
            loss = sum(model(images, targets).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    return model.state_dict()


def total(losses, _):
    """The sum of the losses that the model returns."""
    return sum(losses.values())


def make_learner(*callbacks):
    model, train = parts()
    scheduler = TorchScheduler(partial(optim.lr_scheduler.StepLR, step_size=1, gamma=0.1))
    return Learner(
        model,
        Data(train, n_inputs=2),
        total,
        partial(optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.0005),
        [scheduler, *callbacks],
        defaults=(ZeroGrad, Metrics, Recorder),
    )
