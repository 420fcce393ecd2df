"""Your own model, data and callback in one file: a small network classifies the points of two spirals.

The model and the data know nothing of the Learner. The file also works in a recipe: my_recipe.yaml names
`spirals`, `SpiralNet` and `GradientNorm`.

Prints the losses, accuracy and largest gradient of each epoch, then the accuracy on the 200 validation
points: 0.98. Draws spirals.png, which shows the decision boundary at six steps.
"""

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from callbacks import Callback, LearnerProtocol, PlotSnapshots, accuracy
from learner import Data, Learner


class SpiralNet(nn.Module):
    """Maps a point in the plane to the scores of two classes, with a shortcut around the middle layer.

    Args:
        n_hidden: width of the hidden layers.
    """

    def __init__(self, n_hidden: int = 64):
        super().__init__()
        self.first = nn.Linear(2, n_hidden)
        self.middle = nn.Linear(n_hidden, n_hidden)
        self.last = nn.Linear(n_hidden, 2)

    def forward(self, points: Tensor) -> Tensor:
        """Points, shape (items, 2), to scores, shape (items, 2)."""
        features = torch.sin(3 * self.first(points))
        return self.last(features + torch.relu(self.middle(features)))


class GradientNorm(Callback):
    """Measures the largest gradient norm of each epoch, over all weights together, as `grad_norm`."""

    measures = {"grad_norm": None}

    def before_train(self, learn: LearnerProtocol) -> None:
        self.largest = torch.zeros((), device=learn.device)

    def after_backward(self, learn: LearnerProtocol) -> None:
        gradients = [weight.grad for weight in learn.model.parameters() if weight.grad is not None]
        self.largest = torch.maximum(self.largest, nn.utils.get_total_norm(gradients))

    def after_train(self, learn: LearnerProtocol) -> None:
        learn.results["grad_norm"] = self.largest.item()


def spirals(n_points: int = 1000, noise: float = 0.03, seed: int = 0) -> Data:
    """Points of two interleaved spirals, in batches of 50; a fifth is held out for validation.

    Args:
        n_points: number of points in both spirals together.
        noise: standard deviation of the points around their spiral; the spirals have a radius of 1.
        seed: for the points, the split, and the order.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(n_points) % 2
    radius = torch.rand(n_points, generator=generator).sqrt()
    angle = 3 * math.pi * radius + math.pi * classes
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    points += noise * torch.randn(n_points, 2, generator=generator)
    return Data.from_tensors(points, classes, batch_size=50, valid=0.2, seed=seed)


def draw_border(ax, learn) -> None:
    """Draw a panel: the predicted class at each place, and the points of the batch."""
    side = torch.linspace(-1.2, 1.2, 100)
    places = torch.cartesian_prod(side, side)
    shares = learn.predict(places).softmax(1)[:, 1].reshape(100, 100).T.numpy()
    ax.imshow(shares, extent=(-1.2, 1.2, -1.2, 1.2), origin="lower", cmap="coolwarm", alpha=0.5)
    points, classes = learn.inputs[0].cpu().numpy(), learn.targets.cpu().numpy()
    ax.scatter(points[:, 0], points[:, 1], c=classes, cmap="coolwarm", s=8)


def main(picture: str | Path = "spirals.png") -> Learner:
    """Train; return the learner."""
    learn = make_learner(
        callbacks=[GradientNorm(), PlotSnapshots(n=6, every="5 epochs", draw=draw_border, path=picture)]
    )
    learn.fit(30)
    print(f"accuracy {learn.validate()['valid_accuracy']:.3f}")
    return learn


def make_learner(**options) -> Learner:
    """A learner with a new model, the same one each time."""
    torch.manual_seed(0)
    optimizer = partial(torch.optim.Adam, lr=3e-3)
    return Learner(SpiralNet(), spirals(), nn.CrossEntropyLoss(), optimizer, metrics=[accuracy], **options)


if __name__ == "__main__":
    main()
