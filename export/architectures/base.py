"""What training and conversion rely on in every network. Letters: N batch, C channels, L tokens, K classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the data decide about a network.

    Attributes:
        classes: K.
        height: H of a picture in pixels; 0 for sentences.
        width: W of a picture in pixels; 0 for sentences.
        channels: C of a picture; 0 for sentences.
        vocabulary: Number of token ids, padding and unknown included; 0 for pictures.
    """

    classes: int
    height: int = 0
    width: int = 0
    channels: int = 0
    vocabulary: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Dense weights that learn alike.

    Attributes:
        parameters: Not empty.
        rate: Factor on the recipe's learning rate.
    """

    parameters: list[nn.Parameter]
    rate: float


class Network(nn.Module):
    """A classifier that returns logits (N, K).

    A picture network takes float32 (N, C, H, W), already normalised; a sentence network takes int64
    ids (N, L) and pads them itself.
    """

    def prepare(self, sample: torch.Tensor) -> None:
        """Derive weights from training inputs before the first step; most networks derive none.

        Args:
            sample: What :meth:`forward` takes, some thousand inputs.
        """

    def takes_vectors(self) -> bool:
        """Tell whether :meth:`set_vectors` must be called before the first step."""
        return False

    def set_vectors(self, rows: dict[int, torch.Tensor]) -> None:
        """Begin with given word vectors: float32 (D,) by token id."""
        raise NotImplementedError

    def groups(self) -> list[Group]:
        """Return the dense weights that are trained; most networks have one group."""
        sparse = {id(parameter) for parameter in self.sparse_parameters()}
        return [Group([p for p in self.parameters() if p.requires_grad and id(p) not in sparse], 1.0)]

    def constrain(self) -> None:
        """Project the weights after a step of the optimiser; most networks need nothing."""

    def sparse_parameters(self) -> list[nn.Parameter]:
        """Return the parameters whose gradients are sparse, so that the optimiser touches few rows."""
        return []

    def compact(self) -> None:
        """Round in place what the published file stores in less precision; inference only from here."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits (N, K)."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Architecture:
    """An entry of the table of architectures.

    Attributes:
        summary: One line for ``convserve-export list``.
        options: Dataclass that a recipe's ``[architecture]`` table must fill, without defaults.
        build: From such options and the sizes to a network with fresh weights.
    """

    summary: str
    options: type[Any]
    build: Callable[[Any, Sizes], Network]
