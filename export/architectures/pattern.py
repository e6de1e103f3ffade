"""The classic pattern as data: [(CONV-RELU)*N-POOL?]*M, (FC-RELU)*K, SOFTMAX.

A recipe states the number of filters, their size, stride and padding. The sizes in between follow from these; if one is
not a whole number, the recipe is refused before anything is built. Softmax is part of every published graph and not of
a pattern.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own spelling)
from torch import nn

from export.architectures.base import Architecture, Network, Sizes
from export.architectures.sizes import whole_output_size


@dataclass(frozen=True, slots=True)
class ConvLayers:
    """One block of the pattern: N identical convolutions, then an optional pooling.

    Attributes:
        layers: N, at least 1.
        filters: Number of maps of each convolution.
        size: F, height and width of a filter in pixels.
        stride: S.
        padding: P, zeros on each side.
        norm: Whether there is batch norm between a convolution and its ReLU.
        pool_size: Height and width of the pooling window in pixels; 0 for no pooling.
        pool_stride: Stride of the pooling; ignored without pooling.
    """

    layers: int
    filters: int
    size: int
    stride: int
    padding: int
    norm: bool
    pool_size: int
    pool_stride: int


@dataclass(frozen=True, slots=True)
class PatternOptions:
    """Options of a pattern.

    Attributes:
        blocks: The M blocks.
        hidden: Units of each of the K hidden layers.
        dropout: Share of the inputs of each linear layer dropped in training, in [0, 1).
    """

    blocks: tuple[ConvLayers, ...]
    hidden: tuple[int, ...]
    dropout: float

    def __post_init__(self) -> None:
        """Refuse impossible numbers.

        Raises:
            ValueError: Names the option.
        """
        for number, block in enumerate(self.blocks):
            if min(block.layers, block.filters, block.size, block.stride) < 1:
                raise ValueError(f"blocks[{number}]: layers, filters, size and stride must be at least 1")
            if block.padding < 0 or block.pool_size < 0 or (block.pool_size and block.pool_stride < 1):
                raise ValueError(f"blocks[{number}]: padding and pool_size must be at least 0, pool_stride at least 1")
        if not self.blocks or min(self.hidden, default=1) < 1:
            raise ValueError("blocks, hidden: expected at least one block, and hidden layers of at least one unit")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected at least 0 and below 1, got {self.dropout}")


class Pattern(Network):
    """The layers of a pattern, in order."""

    def __init__(self, options: PatternOptions, sizes: Sizes) -> None:
        """Build the layers with He's initial weights.

        Raises:
            ValueError: A size is not a whole number or a filter does not fit; names the layer and the formula.
        """
        super().__init__()
        height, width = pattern_output(options, sizes)
        layers: list[nn.Module] = []
        maps = sizes.channels
        for block in options.blocks:
            for _ in range(block.layers):
                convolution = nn.Conv2d(maps, block.filters, block.size, block.stride, block.padding)
                layers += [convolution, *([nn.BatchNorm2d(block.filters)] if block.norm else []), nn.ReLU()]
                maps = block.filters
            if block.pool_size:
                layers.append(nn.MaxPool2d(block.pool_size, block.pool_stride))
        self.features = nn.Sequential(*layers)
        units = (maps * height * width, *options.hidden, sizes.classes)
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(units))
        self.dropout = options.dropout
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map pictures (N, C, H, W) to logits (N, K)."""
        x = self.features(inputs).flatten(1)  # (N, maps * height * width)
        for number, linear in enumerate(self.linear):
            x = F.dropout(F.relu(x) if number else x, self.dropout, self.training)
            x = linear(x)
        logits: torch.Tensor = x
        return logits


def pattern_output(options: PatternOptions, sizes: Sizes) -> tuple[int, int]:
    """Return the height and width after the last block.

    Raises:
        ValueError: As for :class:`Pattern`; names the layer, the formula and the numbers.
    """
    sides = {"height": sizes.height, "width": sizes.width}
    for number, block in enumerate(options.blocks, start=1):
        steps = [(f"convolution {n}", block.size, block.stride, block.padding) for n in range(1, block.layers + 1)]
        if block.pool_size:
            steps.append(("pooling", block.pool_size, block.pool_stride, 0))
        for name, size, stride, padding in steps:
            for side, pixels in sides.items():
                try:
                    sides[side] = whole_output_size(pixels, size, stride, padding)
                except ValueError as error:
                    raise ValueError(f"block {number}, {name}, {side}: {error}") from None
    return sides["height"], sides["width"]


ARCHITECTURE = Architecture("[(CONV-RELU)*N-POOL?]*M, (FC-RELU)*K, SOFTMAX as the recipe says", PatternOptions, Pattern)
