"""The networks, one per file, and the table that recipes choose from."""

from __future__ import annotations

from export.architectures import fastnet, googlenet_cifar, lenet5, pattern, resnet_cifar, textcnn, torchvision_nets
from export.architectures.base import Architecture, Group, Network, Sizes

ARCHITECTURES: dict[str, Architecture] = {
    "fastnet": fastnet.ARCHITECTURE,
    "googlenet-cifar": googlenet_cifar.ARCHITECTURE,
    "lenet5": lenet5.ARCHITECTURE,
    "pattern": pattern.ARCHITECTURE,
    "resnet-cifar": resnet_cifar.ARCHITECTURE,
    "textcnn": textcnn.ARCHITECTURE,
    "torchvision": torchvision_nets.ARCHITECTURE,
}

__all__ = ["ARCHITECTURES", "Architecture", "Group", "Network", "Sizes"]
