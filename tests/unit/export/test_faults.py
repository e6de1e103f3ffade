"""Planted faults of the kinds that loading and deep networks add: each must be seen."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export import cli
from export.architectures import Network, Sizes
from export.architectures.fastnet import FastNet, FastNetOptions
from export.architectures.resnet_cifar import ResNet, ResNetOptions
from export.architectures.torchvision_nets import Wrapped
from export.classifier import Classifier, Probabilities
from export.convert import convert
from export.data.inputs import PictureInputs
from export.errors import ConversionFailed, VerificationFailed
from export.verify import verify_graph
from service.backend.onnx import OnnxBackend
from service.manifest import MODEL_FILE
from service.spec import ImageSpec

SPEC = ImageSpec("image", "RGB", 32, 32, "exact", 32, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
SIZES = Sizes(10, 32, 32, 3)
INPUTS = PictureInputs(np.random.default_rng(0).integers(0, 256, size=(20, 32, 32, 3), dtype=np.uint8))


class Again(nn.Module):
    """Scales what is scaled already, as ``transform_input`` does."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.inner(inputs * (0.229 / 0.5) + (0.485 - 0.5) / 0.5)


def _resnet() -> Network:
    """A ResNet-8 with the statistics of a training."""
    torch.manual_seed(0)
    network = ResNet(ResNetOptions(8), SIZES)
    for _ in range(3):
        network(torch.randn(16, 3, 32, 32))
    return network.eval()


def _model(network: Network, spec: ImageSpec = SPEC) -> Probabilities:
    return Probabilities(Classifier(network, spec)).eval()


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> OnnxBackend:
    path = tmp_path_factory.mktemp("resnet") / MODEL_FILE
    convert(_model(_resnet()), SPEC, 10, path)
    return OnnxBackend(path, "cpu")


def test_the_right_graph_passes(graph: OnnxBackend) -> None:
    assert verify_graph(_model(_resnet()), graph, INPUTS, 32).batch_sizes == (1, 2, 7, 32)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda: _model(Wrapped(Again(_resnet()))), id="scaled twice"),
        pytest.param(lambda: _model(_resnet(), dataclasses.replace(SPEC, mean=(0.3, 0.4, 0.5))), id="swapped channels"),
        pytest.param(lambda: _model(_resnet(), dataclasses.replace(SPEC, std=(0.2, 0.25, 0.31))), id="wrong deviation"),
        pytest.param(lambda: Probabilities(Classifier(_resnet().train(), SPEC)), id="batch norm in training mode"),
    ],
)
def test_a_fault_is_seen(graph: OnnxBackend, wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(VerificationFailed, match="a probability of the graph is off by"):
        verify_graph(wrong(), graph, INPUTS, 32)


def test_a_network_in_training_mode_is_not_converted(tmp_path: Path) -> None:
    model = _model(_resnet())
    model.classifier.network.layer2.train()  # a single forgotten part is enough
    with pytest.raises(ConversionFailed, match="training mode"):
        convert(model, SPEC, 10, tmp_path / "x.onnx")


def test_a_lost_label_of_a_loaded_network_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["load", "lenet5", "--models", str(tmp_path), "--max-batch-size", "2"]) == 0
    version = shutil.copytree(tmp_path / "lenet5" / "1", tmp_path / "lenet5" / "2")
    labels = (version / "labels.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (version / "labels.txt").write_text("".join(labels[:-1]), encoding="utf-8")
    capsys.readouterr()
    assert cli.main(["verify", str(version)]) == 2
    assert "labels.txt: has digest" in capsys.readouterr().err


def test_both_views_of_fastnet_are_in_the_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = FastNet(FastNetOptions((8, 8, 8), 64.0, 1.0, "mirror"), SIZES)
    network.prepare(torch.randn(64, 3, 32, 32))
    network(torch.randn(16, 3, 32, 32))
    network.eval()
    convert(_model(network), SPEC, 10, tmp_path / MODEL_FILE)
    backend = OnnxBackend(tmp_path / MODEL_FILE, "cpu")
    batch = INPUTS.batch(np.arange(7))
    answers, mirrored = backend.run([batch])[0], backend.run([np.ascontiguousarray(batch[:, :, ::-1])])[0]
    assert np.abs(answers - mirrored).max() < 1e-6
    assert verify_graph(_model(network), backend, INPUTS, 32).max_abs_difference < 1e-5


def test_whitening_makes_patches_of_equal_strength() -> None:
    torch.manual_seed(0)
    network = FastNet(FastNetOptions((8, 8, 8), 64.0, 1.0, "single"), SIZES)
    pictures = torch.randn(64, 3, 32, 32) * torch.tensor([3.0, 1.0, 0.2]).view(1, 3, 1, 1)
    network.prepare(pictures)
    with torch.no_grad():
        maps = network.whiten(pictures)
    assert torch.allclose(maps.std(dim=(0, 2, 3)), torch.ones(24), atol=0.05)
    assert not network.whiten.weight.requires_grad
    rates = [group.rate for group in network.groups()]
    assert rates == [64.0, 1.0]
