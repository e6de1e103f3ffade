"""The networks, one a file, and the table that recipes choose from."""

from __future__ import annotations

from export.architectures import fastnet, lenet5, resnet_cifar, textcnn
from export.architectures.base import Architecture, Group, Network, Sizes

ARCHITECTURES: dict[str, Architecture] = {
    "fastnet": fastnet.ARCHITECTURE,
    "lenet5": lenet5.ARCHITECTURE,
    "resnet-cifar": resnet_cifar.ARCHITECTURE,
    "textcnn": textcnn.ARCHITECTURE,
}

__all__ = ["ARCHITECTURES", "Architecture", "Group", "Network", "Sizes"]
