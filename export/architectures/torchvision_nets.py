"""Any torchvision classifier by its torchvision name: AlexNet, VGG, GoogLeNet, ResNet and the rest.

GoogLeNet and Inception can scale their input a second time (``transform_input``). Here they never do: loading published
weights puts that scaling into the preprocessing, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchvision import models

from export.architectures.base import Architecture, Network, Sizes

SCALES_TWICE = ("googlenet", "inception_v3")


@dataclass(frozen=True, slots=True)
class TorchvisionOptions:
    """Options of a torchvision network.

    Attributes:
        model: A classifier's name in torchvision, e.g. ``"resnet50"``.
    """

    model: str

    def __post_init__(self) -> None:
        """Refuse an unknown name.

        Raises:
            ValueError: Names the option.
        """
        if self.model not in classifiers():
            raise ValueError(f"model: torchvision knows no classifier {self.model!r}")


class Wrapped(Network):
    """A third-party module with the interface of :class:`Network`.

    Attributes:
        inner: The module; it takes pictures (N, C, H, W), or ids (N, L), and returns logits (N, K).
    """

    def __init__(self, inner: nn.Module) -> None:
        """Keep the module."""
        super().__init__()
        self.inner = inner

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map pictures (N, C, H, W), or ids (N, L), to logits (N, K)."""
        answer = self.inner(inputs)
        # In training mode GoogLeNet also returns its auxiliary classifiers.
        logits: torch.Tensor = getattr(answer, "logits", answer)
        return logits


def classifiers() -> list[str]:
    """Return the names of torchvision's picture classifiers, sorted."""
    return models.list_models(module=models)  # type: ignore[no-any-return]


def build(options: TorchvisionOptions, sizes: Sizes) -> Network:
    """Return the network with fresh weights.

    Raises:
        ValueError: The pictures do not have 3 channels.
    """
    if sizes.channels != 3:
        raise ValueError(f"{options.model} takes pictures of 3 channels, not {sizes.channels}")
    more: dict[str, Any] = {}
    if options.model in SCALES_TWICE:
        more = {"transform_input": False, "aux_logits": False, "init_weights": True}
    return Wrapped(models.get_model(options.model, weights=None, num_classes=sizes.classes, **more))


ARCHITECTURE = Architecture("any classifier of torchvision by its name, for its pictures", TorchvisionOptions, build)
