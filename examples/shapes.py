"""A data set with augmentation, its loaders and a model in plain PyTorch, for both `shapes_*.py` scripts."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


def draw_shapes(n_items: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy images of a disc, a square or a cross.

    Returns:
        Images of shape (items, 1, 16, 16), and labels 0, 1 or 2 of shape (items,).
    """
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n_items,), generator=draw)
    size, x, y = torch.rand(3, n_items, 1, 1, generator=draw) * 3
    dx = (torch.arange(16).view(1, 1, 16) - 6 - x).abs()
    dy = (torch.arange(16).view(1, 16, 1) - 6 - y).abs()
    far, near = torch.maximum(dx, dy), torch.minimum(dx, dy)
    kinds = torch.stack([dx.hypot(dy), far, far + 9 * (near > 1)])
    distances = kinds[labels, torch.arange(n_items)]
    images = (distances < 3 + size) + 0.5 * torch.randn(n_items, 16, 16, generator=draw)
    return images.unsqueeze(1), labels


class Shapes(Dataset):
    """The images one by one; with `augment` they are mirrored and moved at random."""

    def __init__(self, n_items: int, seed: int, augment: bool = False):
        self.images, self.labels = draw_shapes(n_items, seed)
        self.augment = augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        if self.augment:
            image = image.flip(-1) if torch.rand(()) < 0.5 else image
            image = image.roll(torch.randint(-2, 3, (2,)).tolist(), (-2, -1))
        return image, self.labels[index]


def make_loaders() -> tuple:
    """Loaders for training, with two workers, and for validation."""
    train = DataLoader(Shapes(800, seed=1, augment=True), batch_size=64, shuffle=True, num_workers=2)
    valid = DataLoader(Shapes(400, seed=2), batch_size=128, generator=torch.Generator())
    return train, valid


class ShapeNet(nn.Sequential):
    """Images of shape (items, 1, 16, 16) to scores of shape (items, 3)."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(2)),
            *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 3)),
        )
