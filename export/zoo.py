"""Every network, by its usual name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch

from export.architectures import ARCHITECTURES, Network, Sizes
from export.architectures.torchvision_nets import classifiers
from export.errors import RecipeInvalid
from export.layers import Layer, layers_of, layers_of_sentence
from service import strict

_IMAGENET_CLASSES = 1000
_EXAMPLE_VOCABULARY = 10_000


@dataclass(frozen=True, slots=True)
class Known:
    """One network.

    Attributes:
        name: Name on the command line.
        paper: First author and year of the paper that describes it.
        architecture: A key of :data:`export.architectures.ARCHITECTURES`.
        options: The options of that architecture, as in a recipe.
        sizes: The default sizes.
    """

    name: str
    paper: str
    architecture: str
    options: Mapping[str, Any]
    sizes: Sizes

    def build(self, sizes: Sizes | None = None) -> Network:
        """Return the network with initial weights.

        Raises:
            RecipeInvalid: It does not support these sizes.
        """
        architecture = ARCHITECTURES[self.architecture]
        try:
            options = strict.parse(architecture.options, dict(self.options), "architecture")
            return architecture.build(options, sizes or self.sizes)
        except ValueError as error:
            raise RecipeInvalid(f"{self.name}: {error}") from None

    def layers(self) -> list[Layer]:
        """Return the layers, computed without weights."""
        try:
            with torch.device("meta"):
                network = self.build()
        except NotImplementedError:  # RegNet computes its widths with tensors
            network = self.build()
        if self.sizes.vocabulary:
            return layers_of_sentence(network)
        return layers_of(network, self.sizes.height, self.sizes.width, self.sizes.channels)


def find_known(name: str) -> Known:
    """Return a network of :data:`ZOO`, or any other classifier of torchvision.

    Raises:
        RecipeInvalid: There is no such network.
    """
    if name in ZOO:
        return ZOO[name]
    if name in classifiers():
        return _torchvision(name, "torchvision")
    close = get_close_matches(name, dict.fromkeys((*ZOO, *classifiers())))
    raise RecipeInvalid(
        f"no architecture '{name}'{', did you mean ' * bool(close)}{' or '.join(close)}; "
        "convserve-export list shows them, and every classifier of torchvision.models is one too"
    )


def _torchvision(name: str, paper: str) -> Known:
    pixels = 299 if name == "inception_v3" else 224
    return Known(name, paper, "torchvision", {"model": name}, Sizes(_IMAGENET_CLASSES, pixels, pixels, 3))


def _small(name: str, paper: str, architecture: str, **options: Any) -> Known:
    return Known(name, paper, architecture, options, Sizes(10, 32, 32, 3))


def _bracket(layers: int, filters: int, size: int, pool: int) -> dict[str, Any]:
    """Return the options of convolutions with batch norm that keep height and width, and of the pooling after them."""
    return {
        "layers": layers,
        "filters": filters,
        "size": size,
        "stride": 1,
        "padding": size // 2,
        "norm": True,
        "pool_size": pool,
        "pool_stride": max(1, pool),
    }


# Configuration D of Simonyan and Zisserman (2015), with batch norm and one linear layer.
_VGG_16 = [_bracket(n, filters, 3, 2) for n, filters in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))]
# Krizhevsky's five convolutions, with filters and pooling that fit 32 pixels.
_ALEXNET_32 = [
    _bracket(1, 64, 5, 2),
    _bracket(1, 192, 5, 2),
    _bracket(2, 384, 3, 0),
    _bracket(1, 256, 3, 2),
]
_TEXTCNN = {
    "widths": [3, 4, 5],
    "filters": 100,
    "dimensions": 300,
    "dropout": 0.5,
    "max_norm": 3.0,
    "variant": "rand",
    "table": "float32",
}
_FASTNET = {"widths": [64, 256, 256], "bias_rate": 64.0, "logit_scale": 1 / 9, "views": "single"}

_ENTRIES = (
    Known("lenet5", "LeCun 1998", "lenet5", {"dropout": 0.0}, Sizes(10, 28, 28, 1)),
    _torchvision("alexnet", "Krizhevsky 2012"),
    *(_torchvision(f"vgg{d}{norm}", "Simonyan 2015") for d in (11, 13, 16, 19) for norm in ("", "_bn")),
    _torchvision("googlenet", "Szegedy 2015"),
    *(_torchvision(f"resnet{depth}", "He 2016") for depth in (18, 34, 50, 101, 152)),
    _small("alexnet-cifar", "Krizhevsky", "pattern", blocks=_ALEXNET_32, hidden=[1024, 512], dropout=0.5),
    _small("vgg16-bn-cifar", "Simonyan 2015", "pattern", blocks=_VGG_16, hidden=[], dropout=0.0),
    _small("googlenet-cifar", "Szegedy 2015", "googlenet-cifar", dropout=0.4),
    *(_small(f"resnet{depth}-cifar", "He 2016", "resnet-cifar", depth=depth) for depth in (20, 32, 44, 56, 110)),
    _small("fastnet-cifar", "Jordan 2024", "fastnet", **_FASTNET),
    *(
        Known(
            f"textcnn-{variant}",
            "Kim 2014",
            "textcnn",
            {**_TEXTCNN, "variant": variant},
            Sizes(2, vocabulary=_EXAMPLE_VOCABULARY),
        )
        for variant in ("rand", "static", "non-static", "multichannel")
    ),
)
ZOO: dict[str, Known] = {known.name: known for known in _ENTRIES}
