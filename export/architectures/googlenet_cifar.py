"""GoogLeNet for pictures of 32 pixels: its nine Inception modules after a stem that keeps the size.

Source:
    Szegedy et al. (2015), "Going Deeper with Convolutions", table 1. The stem and the batch norm are those usual for
    32 pixels. Batch norm makes the auxiliary classifiers unnecessary, so they are omitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own spelling)
from torch import nn

from export.architectures.base import Architecture, Network, Sizes

# Table 1: maps of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool proj; None for a pooling.
_MODULES: tuple[tuple[int, int, int, int, int, int] | None, ...] = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    None,
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    None,
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)
_STEM = 192  # maps before the first module


@dataclass(frozen=True, slots=True)
class GoogLeNetOptions:
    """Options of GoogLeNet.

    Attributes:
        dropout: Share of the 1,024 features dropped while training, in [0, 1); the paper has 0.4.
    """

    dropout: float

    def __post_init__(self) -> None:
        """Refuse an impossible share.

        Raises:
            ValueError: Names the option.
        """
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected at least 0 and below 1, got {self.dropout}")


class Inception(nn.Module):
    """Four parallel paths: 1 x 1; 3 x 3; 5 x 5; pooling (figure 2b)."""

    def __init__(self, inputs: int, maps: tuple[int, int, int, int, int, int]) -> None:
        """Build the paths."""
        super().__init__()
        one, three_reduce, three, five_reduce, five, pool = maps
        self.one = _unit(inputs, one, 1)
        self.three = nn.Sequential(_unit(inputs, three_reduce, 1), _unit(three_reduce, three, 3))
        self.five = nn.Sequential(_unit(inputs, five_reduce, 1), _unit(five_reduce, five, 5))
        self.pool = _unit(inputs, pool, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to (N, one + three + five + pool, H, W)."""
        pooled = F.max_pool2d(inputs, 3, stride=1, padding=1)
        return torch.cat([self.one(inputs), self.three(inputs), self.five(inputs), self.pool(pooled)], dim=1)


class GoogLeNet(Network):
    """A stem, nine Inception modules with two poolings in between, the mean, one linear layer."""

    def __init__(self, options: GoogLeNetOptions, sizes: Sizes) -> None:
        """Build the layers."""
        super().__init__()
        self.stem = _unit(sizes.channels, _STEM, 3)
        layers: list[nn.Module] = []
        inputs = _STEM
        for maps in _MODULES:
            if maps is None:
                layers.append(nn.MaxPool2d(3, stride=2, padding=1))
            else:
                layers.append(Inception(inputs, maps))
                inputs = maps[0] + maps[2] + maps[4] + maps[5]
        self.inceptions = nn.Sequential(*layers)
        self.linear = nn.Linear(inputs, sizes.classes)
        self.dropout = options.dropout

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map pictures (N, C, 32, 32) to logits (N, K)."""
        x = self.inceptions(self.stem(inputs))  #  (N, 1024, 8, 8)
        x = x.mean(dim=(2, 3))  #                  (N, 1024)
        x = F.dropout(x, self.dropout, self.training)
        logits: torch.Tensor = self.linear(x)  #   (N, K)
        return logits


def _unit(inputs: int, outputs: int, size: int) -> nn.Sequential:
    """Return a convolution that keeps height and width, batch norm and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


ARCHITECTURE = Architecture(
    "GoogLeNet for 32 pixels (Szegedy 2015): nine Inception modules, 5.9 M parameters", GoogLeNetOptions, GoogLeNet
)
