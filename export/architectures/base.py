"""The interface of every network for training and conversion. Letters: N batch, C channels, L tokens, K classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a network that depend on the data.

    Attributes:
        classes: K.
        height: H of a picture in pixels; 0 for sentences.
        width: W of a picture in pixels; 0 for sentences.
        channels: C of a picture; 0 for sentences.
        vocabulary: Number of token ids, including padding and unknown; 0 for pictures.
    """

    classes: int
    height: int = 0
    width: int = 0
    channels: int = 0
    vocabulary: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Dense weights that share a learning rate.

    Attributes:
        parameters: The weights, at least one.
        rate: Factor on the recipe's learning rate.
    """

    parameters: list[nn.Parameter]
    rate: float


class Network(nn.Module):
    """A classifier that returns logits (N, K).

    A picture network takes normalised float32 (N, C, H, W). A sentence network takes int64 ids (N, L) and pads them
    itself.
    """

    def prepare(self, sample: torch.Tensor) -> None:
        """Derive weights from training inputs before the first step. Most networks do nothing.

        Args:
            sample: A few thousand inputs, as :meth:`forward` takes them.
        """

    def takes_vectors(self) -> bool:
        """Tell whether :meth:`set_vectors` must be called before the first step."""
        return False

    def set_vectors(self, rows: dict[int, torch.Tensor]) -> None:
        """Start with the given word vectors: float32 (D,) by token id."""
        raise NotImplementedError

    def groups(self) -> list[Group]:
        """Return the trained dense weights. Most networks have one group."""
        sparse = {id(parameter) for parameter in self.sparse_parameters()}
        return [Group([p for p in self.parameters() if p.requires_grad and id(p) not in sparse], 1.0)]

    def constrain(self) -> None:
        """Project the weights after an optimiser step. Most networks do nothing."""

    def sparse_parameters(self) -> list[nn.Parameter]:
        """Return the parameters with sparse gradients, so that the optimiser updates few rows."""
        return []

    def compact(self) -> None:
        """Round in place the weights that the published file stores in lower precision. Only inference may follow."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits (N, K)."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Architecture:
    """An entry of the architecture table.

    Attributes:
        summary: One line for ``convserve-export list``.
        options: Dataclass for a recipe's ``[architecture]`` table, which must set every field.
        build: Builds a network with fresh weights from such options and the sizes: usually its class.
    """

    summary: str
    options: type[Any]
    build: Callable[[Any, Sizes], Network]
