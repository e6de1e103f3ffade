"""TextCNN: convolutions over word vectors, the maximum over time, one linear layer.

Source:
    Kim (2014), "Convolutional Neural Networks for Sentence Classification", section 2; the numbers are from section
    3.1, the four variants from section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own spelling)
from torch import nn

from export.architectures.base import Architecture, Network, Sizes

PADDING_ID = 0
_INITIAL_RANGE = 0.25  # uniform in [-0.25, 0.25], as the paper's code draws unknown words


@dataclass(frozen=True, slots=True)
class TextCNNOptions:
    """Options of TextCNN.

    Attributes:
        widths: Filter widths in tokens; the paper has 3, 4, 5.
        filters: Filters of each width; the paper has 100.
        dimensions: Length D of a word vector; the paper has 300.
        dropout: Share of the pooled features dropped in training, in [0, 1); the paper has 0.5.
        max_norm: Maximum L2 norm of a class's weights, enforced after each step; the paper has 3.
        variant: ``"rand"`` trains random word vectors; ``"static"`` keeps given ones fixed; ``"non-static"`` trains
            given ones; ``"multichannel"`` has a fixed and a trained channel, and each filter sees their sum.
        table: Type of the word vectors in the published file, ``"float16"`` or ``"float32"``.
    """

    widths: tuple[int, ...]
    filters: int
    dimensions: int
    dropout: float
    max_norm: float
    variant: Literal["rand", "static", "non-static", "multichannel"]
    table: Literal["float16", "float32"]

    def __post_init__(self) -> None:
        """Refuse impossible numbers.

        Raises:
            ValueError: Names the option.
        """
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths: expected filter widths of at least 1, got {list(self.widths)}")
        if self.filters < 1 or self.dimensions < 1:
            raise ValueError("filters, dimensions: expected at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected at least 0 and below 1, got {self.dropout}")
        if self.max_norm <= 0:
            raise ValueError(f"max_norm: expected a positive number, got {self.max_norm}")


class TextCNN(Network):
    """Kim's network, made independent of how far ids are padded.

    The network pads ids itself: ``widest - 1`` zeros on the left, ``widest`` on the right. So for every sentence each
    filter has at least one window completely in padding. More zeros on the right only repeat that window, which does
    not change the maximum.
    """

    def __init__(self, options: TextCNNOptions, sizes: Sizes) -> None:
        """Build the layers with random word vectors. The vector of padding is zero and gets no gradient."""
        super().__init__()
        self.options = options
        # Sparse gradients: a batch holds a few hundred of the thousands of words, and dense updates made an epoch of
        # MR a third longer.
        self.words = nn.Embedding(sizes.vocabulary, options.dimensions, padding_idx=PADDING_ID, sparse=True)
        with torch.no_grad():
            self.words.weight.uniform_(-_INITIAL_RANGE, _INITIAL_RANGE)
            self.words.weight[PADDING_ID] = 0
        self.words.weight.requires_grad_(options.variant != "static")
        self.fixed: torch.Tensor | None
        still = torch.zeros_like(self.words.weight.detach()) if options.variant == "multichannel" else None
        self.register_buffer("fixed", still)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(options.dimensions, options.filters, kernel_size=width) for width in options.widths
        )
        self.output = nn.Linear(options.filters * len(options.widths), sizes.classes)
        self.table: torch.Tensor | None
        self.register_buffer("table", None, persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map ids (N, L), L at least 1, to logits (N, K)."""
        widest = max(self.options.widths)
        ids = F.pad(inputs, (widest - 1, widest), value=PADDING_ID)  # (N, L + 2 * widest - 1)
        x = self._vectors(ids).transpose(1, 2)  #                      (N, D, ...)
        x = torch.cat([F.relu(c(x)).amax(dim=2) for c in self.convolutions], dim=1)  # (N, filters * widths)
        x = F.dropout(x, self.options.dropout, self.training)
        logits: torch.Tensor = self.output(x)  #                       (N, K)
        return logits

    def takes_vectors(self) -> bool:
        """Tell whether the variant starts with given word vectors."""
        return self.options.variant != "rand"

    def set_vectors(self, rows: dict[int, torch.Tensor]) -> None:
        """Start with given vectors; other words get random ones, the same in both channels.

        The random vectors are drawn again, with the variance of the given ones (the paper's section 4).

        Raises:
            ValueError: A vector has the wrong length, or padding has a vector.
        """
        wrong = next((row for row in rows.values() if row.shape != (self.options.dimensions,)), None)
        if wrong is not None:
            raise ValueError(f"dimensions: the given word vectors have {len(wrong)}, not {self.options.dimensions}")
        if PADDING_ID in rows:
            raise ValueError("padding cannot have a vector of its own: zeros must answer nothing")
        if not rows:
            return
        ids = torch.tensor(sorted(rows))
        given = torch.stack([rows[int(i)] for i in ids])
        with torch.no_grad():
            reach = float(given.std()) * 3**0.5 if given.numel() > 1 else _INITIAL_RANGE
            self.words.weight.uniform_(-reach, reach)
            self.words.weight[PADDING_ID] = 0
            self.words.weight[ids] = given
            if self.fixed is not None:
                self.fixed.copy_(self.words.weight)

    def constrain(self) -> None:
        """Shrink each class's weights to at most ``max_norm`` (section 2.1)."""
        with torch.no_grad():
            self.output.weight.renorm_(p=2, dim=0, maxnorm=self.options.max_norm)

    def sparse_parameters(self) -> list[nn.Parameter]:
        """Return the word vectors, if they are trained."""
        return [cast(nn.Parameter, self.words.weight)] if self.words.weight.requires_grad else []

    def compact(self) -> None:
        """Replace the word vectors with the table of the published file; two channels become their sum."""
        dtype = torch.float16 if self.options.table == "float16" else torch.float32
        words = self.words.weight.detach()
        self.table = (words if self.fixed is None else words + self.fixed).to(dtype)

    def _vectors(self, ids: torch.Tensor) -> torch.Tensor:
        """Look ids up: float32 (N, ..., D)."""
        if self.table is None:
            vectors: torch.Tensor = self.words(ids)
            # A filter over two channels adds its results for each, so it can see their sum instead.
            return vectors if self.fixed is None else vectors + F.embedding(ids, self.fixed)
        return F.embedding(ids, self.table).float()


ARCHITECTURE = Architecture(
    "TextCNN (Kim 2014): filters over word vectors, in all four variants", TextCNNOptions, TextCNN
)
