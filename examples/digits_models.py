"""Two models for images of 8 x 8 pixels in ten classes, used by digits.py and digits.yaml."""

from torch import Tensor, nn


class MLP(nn.Module):
    """Two linear layers with a ReLU and dropout between them.

    Args:
        n_hidden: width of the hidden layer.
        dropout: share of the hidden units that are dropped in training.
    """

    def __init__(self, n_hidden: int = 128, dropout: float = 0.2):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, n_hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(n_hidden, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images, shape (items, 8, 8) or (items, 64), to scores, shape (items, 10)."""
        return self.layers(images)


class ConvNet(nn.Module):
    """Two convolutions with batch norm, max pooling by two, and a linear layer.

    Args:
        n_channels: channels of the first convolution; the second has twice as many.
        dropout: share of the features that are dropped in training.
    """

    def __init__(self, n_channels: int = 16, dropout: float = 0.2):
        super().__init__()
        self.layers = nn.Sequential(
            *convolution(1, n_channels),
            *convolution(n_channels, 2 * n_channels),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * n_channels * 4 * 4, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images, shape (items, 8, 8) or (items, 64), to scores, shape (items, 10)."""
        return self.layers(images.view(-1, 1, 8, 8))


def convolution(n_inputs: int, n_outputs: int) -> list[nn.Module]:
    """A 3 x 3 convolution that keeps the size, batch norm, and a ReLU."""
    layer = nn.Conv2d(n_inputs, n_outputs, 3, padding=1, bias=False)
    return [layer, nn.BatchNorm2d(n_outputs), nn.ReLU()]
