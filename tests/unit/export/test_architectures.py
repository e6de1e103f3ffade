from __future__ import annotations

import pytest
import torch

from export.architectures import ARCHITECTURES, Sizes
from export.architectures.lenet5 import LeNet5, LeNet5Options
from export.architectures.textcnn import TextCNN, TextCNNOptions
from export.classifier import Classifier, PictureFront, build_classifier
from export.errors import RecipeInvalid
from export.recipe import find_recipe
from service.spec import ImageSpec
from tests.unit.export.samples import tiny_recipe

TEXT = TextCNNOptions(
    widths=(3, 4, 5), filters=4, dimensions=8, dropout=0.5, max_norm=3.0, variant="rand", table="float16"
)


def test_lenet_has_the_papers_layers_and_parameters() -> None:
    network = LeNet5(LeNet5Options(0.0), Sizes(10, 28, 28, 1))
    assert sum(parameter.numel() for parameter in network.parameters()) == 61_706
    shapes: list[tuple[int, ...]] = []
    for layer in (network.c1, network.c3, network.c5, network.f6, network.output):
        layer.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    network(torch.zeros(2, 1, 28, 28))
    assert shapes == [(6, 28, 28), (16, 10, 10), (120, 1, 1), (84,), (10,)]


@pytest.mark.parametrize("size", [28, 32])
def test_lenet_takes_both_sizes(size: int) -> None:
    network = ARCHITECTURES["lenet5"].build(LeNet5Options(0.1), Sizes(7, size, size, 3))
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_lenet_refuses_other_sizes() -> None:
    with pytest.raises(RecipeInvalid, match="lenet5 takes pictures of 28 x 28 or 32 x 32 pixels, not 30 x 28"):
        build_classifier(find_recipe("lenet5-mnist"), Sizes(10, 30, 28, 1))


def test_textcnn_ignores_how_far_a_sentence_is_padded() -> None:
    torch.manual_seed(0)
    network = TextCNN(TEXT, Sizes(2, vocabulary=20)).eval()
    ids = torch.randint(1, 20, (3, 6))
    padded = torch.nn.functional.pad(ids, (0, 11))
    assert torch.allclose(network(ids), network(padded), atol=1e-6)
    assert network(ids[:, :1]).shape == (3, 2)


def test_textcnn_keeps_its_padding_at_zero_and_its_norm_bounded() -> None:
    network = TextCNN(TEXT, Sizes(2, vocabulary=20))
    optimizer = torch.optim.SparseAdam(network.sparse_parameters(), lr=0.1)
    network(torch.tensor([[2, 3, 0, 0]])).sum().backward()
    optimizer.step()
    assert not network.words.weight[0].any()
    with torch.no_grad():
        network.output.weight.mul_(100)
    network.constrain()
    assert network.output.weight.norm(dim=1).tolist() == pytest.approx([3.0, 3.0], rel=1e-5)


def test_textcnn_rounds_its_table_once() -> None:
    network = TextCNN(TEXT, Sizes(2, vocabulary=20)).eval()
    ids = torch.randint(1, 20, (3, 6))
    before = network(ids)
    network.compact()
    assert network.table is not None
    assert network.table.dtype == torch.float16
    assert torch.allclose(network(ids), before, atol=1e-3)
    assert "table" not in network.state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": "[]"}, r"widths: expected filter widths of at least 1, got \[\]"),
        ({"filters": "0"}, "filters, dimensions: expected at least 1"),
        ({"max_norm": "0.0"}, "max_norm: expected a positive number, got 0.0"),
        ({"dropout": "-0.1"}, "dropout: expected at least 0 and below 1, got -0.1"),
    ],
)
def test_impossible_options_are_named(change: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeInvalid, match=message):
        tiny_recipe("textcnn-mr", **change)


def test_word_vectors_need_a_rate() -> None:
    with pytest.raises(RecipeInvalid, match=r"training\.sparse_learning_rate must be positive for textcnn"):
        build_classifier(tiny_recipe("textcnn-mr", sparse_learning_rate="0"), Sizes(2, vocabulary=9))


def test_the_front_normalises_each_channel() -> None:
    spec = ImageSpec("image", "RGB", 2, 2, "exact", 2, "bilinear", (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    picture = torch.tensor([255, 0, 51], dtype=torch.uint8).expand(1, 2, 2, 3)
    out = PictureFront(spec)(picture)
    assert out.shape == (1, 3, 2, 2)
    assert out[0, :, 1, 1].tolist() == pytest.approx([1.0, -1.0, 0.2], abs=1e-6)


def test_the_front_has_no_weights() -> None:
    classifier = Classifier(LeNet5(LeNet5Options(0.0), Sizes(10, 28, 28, 1)), find_recipe("lenet5-mnist").spec)
    assert all(name.startswith("network.") for name in classifier.state_dict())
