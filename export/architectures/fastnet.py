"""FastNet: a small picture network that learns CIFAR-10 in a few passes.

Source:
    Jordan (2024), "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv:2404.00498, section 3 and
    appendix A. Layers and widths are the paper's; the code is ours.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own spelling)
from torch import nn

from export.architectures.base import Architecture, Group, Network, Sizes

_PATCH = 2  # side in pixels of the patches that the first convolution whitens
_EPSILON = 5e-4  # added to each eigenvalue; without it the weakest directions would be mostly noise


@dataclass(frozen=True, slots=True)
class FastNetOptions:
    """Options of FastNet.

    Attributes:
        widths: Maps of the three blocks; the paper has 64, 256, 256.
        bias_rate: Factor on the learning rate of the batch norm biases; the paper has 64.
        logit_scale: Factor on the logits; the paper has 1/9.
        views: ``"single"``, or ``"mirror"`` to average the logits of a picture and its mirror image, which doubles
            the work of inference. Training always uses one view.
    """

    widths: tuple[int, ...]
    bias_rate: float
    logit_scale: float
    views: Literal["single", "mirror"]

    def __post_init__(self) -> None:
        """Refuse impossible numbers.

        Raises:
            ValueError: Names the option.
        """
        if len(self.widths) != 3 or min(self.widths) < 1:
            raise ValueError(f"widths: expected three widths of at least 1, got {list(self.widths)}")
        if self.bias_rate <= 0 or self.logit_scale <= 0:
            raise ValueError("bias_rate, logit_scale: must be positive")


class _Block(nn.Module):
    """Two 3 x 3 convolutions; the first halves height and width by pooling."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, outputs)
        self.norm1 = _norm(outputs)
        self.conv2 = _convolution(outputs, outputs)
        self.norm2 = _norm(outputs)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.conv1(inputs), 2)
        x = F.gelu(self.norm1(x))
        return F.gelu(self.norm2(self.conv2(x)))


class FastNet(Network):
    """A frozen whitening convolution, three blocks of two convolutions, one linear layer."""

    def __init__(self, options: FastNetOptions, sizes: Sizes) -> None:
        """Build the layers. In the blocks each convolution starts as the identity on its first maps.

        Raises:
            ValueError: The pictures are too small for three halvings.
        """
        if min(sizes.height, sizes.width) < 9:
            raise ValueError(f"fastnet takes pictures of at least 9 x 9 pixels, not {sizes.height} x {sizes.width}")
        super().__init__()
        self.options = options
        patch_values = sizes.channels * _PATCH**2
        self.whiten = nn.Conv2d(sizes.channels, 2 * patch_values, _PATCH)
        self.whiten.weight.requires_grad_(False)
        widths = (2 * patch_values, *options.widths)
        self.blocks = nn.Sequential(*(_Block(*pair) for pair in itertools.pairwise(widths)))
        self.output = nn.Linear(widths[-1], sizes.classes, bias=False)

    def prepare(self, sample: torch.Tensor) -> None:
        """Make the first convolution whiten patches: its filters are their principal directions, with both signs."""
        patches = F.unfold(sample, _PATCH).transpose(1, 2).flatten(0, 1).double()  # (all patches, C * 4)
        covariance = patches.T @ patches / len(patches)
        values, vectors = torch.linalg.eigh(covariance)
        filters = (vectors / (values + _EPSILON).sqrt()).T.flip(0)  # strongest direction first
        with torch.no_grad():
            self.whiten.weight.copy_(torch.cat([filters, -filters]).view_as(self.whiten.weight))
            self.whiten.bias.zero_()  # type: ignore[union-attr]

    def groups(self) -> list[Group]:
        """Return the batch norm biases, which learn faster, and the rest."""
        biases = [m.bias for m in self.modules() if isinstance(m, nn.BatchNorm2d)]
        ids = {id(bias) for bias in biases}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in ids]
        return [Group(biases, self.options.bias_rate), Group(rest, 1.0)]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map pictures (N, C, 32, 32) to logits (N, K)."""
        if self.training or self.options.views == "single":
            return self._logits(inputs)
        both = self._logits(torch.cat([inputs, inputs.flip(3)]))  # (2 * N, K)
        return both.reshape(2, -1, both.shape[1]).mean(dim=0)

    def _logits(self, inputs: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.whiten(inputs))  #                 (N, 24, 31, 31)
        x = self.blocks(x)  #                              (N, 256, 3, 3)
        x = F.max_pool2d(x, (x.shape[2], x.shape[3]))  #   (N, 256, 1, 1)
        logits: torch.Tensor = self.output(x.flatten(1)) * self.options.logit_scale
        return logits


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(convolution.weight[:inputs])
    return convolution


def _norm(maps: int) -> nn.BatchNorm2d:
    """Return a batch norm without scale, whose statistics adapt fast enough for a short training."""
    norm = nn.BatchNorm2d(maps, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


ARCHITECTURE = Architecture(
    "FastNet (Jordan 2024): whitening and three blocks; CIFAR-10 in a few passes", FastNetOptions, FastNet
)
