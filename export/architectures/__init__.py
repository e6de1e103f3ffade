"""The networks, one a file, and the table that recipes choose from."""

from __future__ import annotations

from export.architectures import lenet5, textcnn
from export.architectures.base import Architecture, Network, Sizes

ARCHITECTURES: dict[str, Architecture] = {
    "lenet5": lenet5.ARCHITECTURE,
    "textcnn": textcnn.ARCHITECTURE,
}

__all__ = ["ARCHITECTURES", "Architecture", "Network", "Sizes"]
