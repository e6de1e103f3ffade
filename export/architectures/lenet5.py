"""LeNet-5: a network for hand-written digits.

Source:
    LeCun, Bottou, Bengio, Haffner (1998), "Gradient-based learning applied to document recognition",
    section II.B and figure 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own spelling)
from torch import nn

from export.architectures.base import Architecture, Network, Sizes

_PAPER_INPUT_PX = 32


@dataclass(frozen=True, slots=True)
class LeNet5Options:
    """Options of LeNet-5.

    Attributes:
        dropout: Share of the 120 and of the 84 units dropped in training, in [0, 1); the paper has none.
    """

    dropout: float

    def __post_init__(self) -> None:
        """Refuse an impossible share.

        Raises:
            ValueError: Names the option.
        """
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected at least 0 and below 1, got {self.dropout}")


class LeNet5(Network):
    """The paper's layers and widths; 61,706 parameters for ten classes.

    Three things differ, as they are simpler or train better: ReLU instead of the scaled tanh, max pooling instead of
    the trainable averaging of S2 and S4, and a linear layer with cross-entropy instead of the radial basis functions.
    C3 sees all six maps. The paper's table I omits connections to break symmetry and save time; random initial weights
    break the symmetry, too.
    """

    def __init__(self, options: LeNet5Options, sizes: Sizes) -> None:
        """Build the layers with torch's default initial weights.

        Raises:
            ValueError: The pictures are neither 28 nor 32 pixels high and wide.
        """
        if sizes.height != sizes.width or sizes.height not in (28, 32):
            raise ValueError(f"lenet5 takes pictures of 28 x 28 or 32 x 32 pixels, not {sizes.height} x {sizes.width}")
        super().__init__()
        # The paper puts 28-pixel digits into a 32-pixel field, so that strokes reach the centre of the outermost
        # receptive fields (section II.B).
        self.padding = (_PAPER_INPUT_PX - sizes.width) // 2, (_PAPER_INPUT_PX - sizes.height) // 2
        self.c1 = nn.Conv2d(sizes.channels, 6, kernel_size=5)
        self.c3 = nn.Conv2d(6, 16, kernel_size=5)
        self.c5 = nn.Conv2d(16, 120, kernel_size=5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, sizes.classes)
        self.dropout = options.dropout

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map pictures (N, C, 28, 28) or (N, C, 32, 32) to logits (N, K)."""
        left, top = self.padding
        x = F.pad(inputs, (left, left, top, top))  #        (N, C, 32, 32)
        x = F.relu(self.c1(x))  #                           (N, 6, 28, 28)
        x = F.max_pool2d(x, 2)  #                      S2:  (N, 6, 14, 14)
        x = F.relu(self.c3(x))  #                           (N, 16, 10, 10)
        x = F.max_pool2d(x, 2)  #                      S4:  (N, 16, 5, 5)
        x = F.relu(self.c5(x)).flatten(1)  #                (N, 120)
        x = F.dropout(x, self.dropout, self.training)
        x = F.relu(self.f6(x))  #                           (N, 84)
        x = F.dropout(x, self.dropout, self.training)
        logits: torch.Tensor = self.output(x)  #            (N, K)
        return logits


ARCHITECTURE = Architecture("LeNet-5 (LeCun 1998): three convolutions, 61,706 parameters", LeNet5Options, LeNet5)
