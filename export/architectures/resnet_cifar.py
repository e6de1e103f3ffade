"""ResNets for pictures of 32 pixels: ResNet-20, 32, 44, 56 and 110.

Source:
    He, Zhang, Ren, Sun (2016), "Deep Residual Learning for Image Recognition", section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own spelling)
from torch import nn

from export.architectures.base import Architecture, Network, Sizes

_WIDTHS = (16, 32, 64)


@dataclass(frozen=True, slots=True)
class ResNetOptions:
    """Options of the CIFAR ResNets.

    Attributes:
        depth: Number of layers with weights, 6n + 2; the paper has 20, 32, 44, 56 and 110.
    """

    depth: int

    def __post_init__(self) -> None:
        """Refuse a depth that is not 6n + 2.

        Raises:
            ValueError: Names the option.
        """
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"depth: expected 6n + 2 with n of at least 1, got {self.depth}")


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with a parameter-free shortcut (the paper's option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Build the layers."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to (N, C', H / stride, W / stride)."""
        x = F.relu(self.bn1(self.conv1(inputs)))
        x = self.bn2(self.conv2(x))
        shortcut = inputs[:, :, :: self.stride, :: self.stride] if self.stride > 1 else inputs
        if self.more:  # zeros on both sides of the maps
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return F.relu(x + shortcut)


class ResNet(Network):
    """One convolution, three stages of n blocks with 16, 32 and 64 maps, the mean, one linear layer.

    The weights have the names of Idelbayev's checkpoints (akamaster/pytorch_resnet_cifar10), so that these load
    unchanged.
    """

    def __init__(self, options: ResNetOptions, sizes: Sizes) -> None:
        """Build the layers with He's initial weights."""
        super().__init__()
        blocks = (options.depth - 2) // 6
        self.conv1 = nn.Conv2d(sizes.channels, _WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        self.layer1 = _stage(_WIDTHS[0], _WIDTHS[0], blocks, 1)
        self.layer2 = _stage(_WIDTHS[0], _WIDTHS[1], blocks, 2)
        self.layer3 = _stage(_WIDTHS[1], _WIDTHS[2], blocks, 2)
        self.linear = nn.Linear(_WIDTHS[2], sizes.classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map pictures (N, C, 32, 32) to logits (N, K)."""
        x = F.relu(self.bn1(self.conv1(inputs)))  # (N, 16, 32, 32)
        x = self.layer1(x)  #                       (N, 16, 32, 32)
        x = self.layer2(x)  #                       (N, 32, 16, 16)
        x = self.layer3(x)  #                       (N, 64, 8, 8)
        x = x.mean(dim=(2, 3))  #                   (N, 64)
        logits: torch.Tensor = self.linear(x)  #    (N, K)
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


ARCHITECTURE = Architecture(
    "ResNet-20 to 110 for 32 pixels (He 2016, section 4.2): parameter-free shortcuts", ResNetOptions, ResNet
)
