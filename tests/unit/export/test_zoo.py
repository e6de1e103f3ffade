from __future__ import annotations

import pytest
import torch

from export.architectures import Sizes
from export.architectures.sizes import conv_output_size, pool_output_size, whole_output_size
from export.errors import RecipeInvalid
from export.zoo import ZOO, Known, find_known


@pytest.mark.parametrize("name", ZOO)
def test_formulas_give_the_sizes_and_counts_of_the_real_tensors(name: str) -> None:
    layers = ZOO[name].layers()
    assert [layer.output for layer in layers] == [layer.came for layer in layers]
    with torch.device("meta"):
        network = ZOO[name].build()
    counted = sum(layer.parameters for layer in layers)
    assert counted == sum(parameter.numel() for parameter in network.parameters()) + sum(
        buffer.numel() for buffer_name, buffer in network.named_buffers() if buffer_name == "fixed"
    )
    assert layers[-1].output == (ZOO[name].sizes.classes,)


@pytest.mark.parametrize(
    ("name", "parameters", "mega"),
    [  # the papers' tables, and torchvision's
        ("lenet5", 61_706, 0.42),
        ("alexnet", 61_100_840, 714),
        ("vgg16", 138_357_544, 15_470),
        ("vgg19_bn", 143_678_248, 19_632),
        ("googlenet", 6_624_904, 1_498),
        ("resnet50", 25_557_032, 4_089),
        ("resnet152", 60_192_808, 11_514),
        ("regnet_y_400mf", 4_344_144, 402),
        ("resnet20-cifar", 269_722, 41),
        ("resnet110-cifar", 1_727_962, 253),
        ("vgg16-bn-cifar", 14_728_266, 313),
    ],
)
def test_parameters_and_multiply_adds_are_the_published_ones(name: str, parameters: int, mega: float) -> None:
    layers = find_known(name).layers()
    assert sum(layer.parameters for layer in layers) == parameters
    assert sum(layer.multiply_adds for layer in layers) / 1e6 == pytest.approx(mega, rel=0.02)


def test_the_first_layer_of_alexnet() -> None:
    first = ZOO["alexnet"].layers()[0]
    assert (first.kind, first.output) == ("conv 11x11/4", (64, 55, 55))
    assert first.parameters == (11 * 11 * 3 + 1) * 64
    assert first.multiply_adds == 11 * 11 * 3 * 64 * 55 * 55


def test_a_layer_has_the_name_of_the_module_that_computes_it() -> None:
    names = [layer.name for layer in ZOO["lenet5"].layers()]
    assert names == ["c1", "", "c3", "", "c5", "f6", "output"]  # it pools in a function of its own


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"), [(32, 5, 1, 0), (7, 3, 2, 1), (9, 2, 3, 0), (5, 5, 1, 0)]
)
def test_sizes_are_torchs(size: int, kernel: int, stride: int, padding: int) -> None:
    picture = torch.zeros(1, 1, size, size)
    came = torch.nn.functional.conv2d(picture, torch.zeros(1, 1, kernel, kernel), stride=stride, padding=padding)
    assert conv_output_size(size, kernel, stride, padding) == came.shape[2]
    for ceil in (False, True):
        pooled = torch.nn.functional.max_pool2d(picture, kernel, stride, padding, ceil_mode=ceil)
        assert pool_output_size(size, kernel, stride, padding, ceil=ceil) == pooled.shape[2]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((224, 11, 4, 0), r"\(W - F \+ 2P\) / S \+ 1 = \(224 - 11 \+ 2 \* 0\) / 4 \+ 1 = 54\.25: not a whole number"),
        ((4, 7, 1, 1), r"= \(4 - 7 \+ 2 \* 1\) / 1 \+ 1 < 1: the filter does not fit"),
    ],
)
def test_a_size_that_does_not_come_out_is_refused(numbers: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        whole_output_size(*numbers)


def _pattern(**changes: int) -> Known:
    block = {"layers": 2, "filters": 4, "size": 3, "stride": 1, "padding": 1}
    block |= {"norm": False, "pool_size": 2, "pool_stride": 2, **changes}
    options = {"blocks": [block], "hidden": [7], "dropout": 0.0}
    return Known("mine", "nobody", "pattern", options, Sizes(3, 8, 8, 1))


def test_a_pattern_becomes_its_layers() -> None:
    network = _pattern().build()
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    layers = _pattern().layers()
    assert [layer.kind for layer in layers] == ["conv 3x3/1", "conv 3x3/1", "max pool 2x2/2", "linear", "linear"]
    assert [layer.name for layer in layers] == ["features.0", "features.2", "features.4", "linear.0", "linear.1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"stride": 2},
            r"mine: block 1, convolution 1, height: .*\(8 - 3 \+ 2 \* 1\) / 2 \+ 1 = 4\.5: not",
        ),
        ({"size": 11, "padding": 0}, r"block 1, convolution 1, height: .* < 1: the filter does not fit"),
        ({"pool_size": 3}, r"block 1, pooling, height: .*\(8 - 3 \+ 2 \* 0\) / 2 \+ 1 = 3\.5"),
        ({"layers": 0}, r"blocks\[0\]: layers, filters, size and stride must be at least 1"),
        ({"padding": -1}, r"blocks\[0\]: padding"),
    ],
)
def test_a_pattern_that_does_not_come_out_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(RecipeInvalid, match=message):
        _pattern(**changes).build()


def test_an_unknown_name_is_answered_with_those_like_it() -> None:
    assert find_known("mobilenet_v2").architecture == "torchvision"
    with pytest.raises(
        RecipeInvalid, match=r"no architecture 'mobilenet', did you mean mobilenet_v2 or .*; convserve-exp"
    ):
        find_known("mobilenet")
    with pytest.raises(RecipeInvalid, match=r"^no architecture 'garment\.garment'; convserve-export list shows them"):
        find_known("garment.garment")
