from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from export.architectures import Network
from export.architectures.torchvision_nets import Wrapped
from export.classifier import Classifier, Probabilities
from export.convert import check_graph, convert, input_spec, output_spec
from export.errors import ConversionFailed
from export.runner import load_classifier
from service.backend.onnx import OnnxBackend
from service.manifest import MODEL_FILE
from service.tensors import TensorSpec
from tests.unit.export.samples import tiny_recipe

PICTURES, SENTENCES = tiny_recipe("lenet5-mnist").spec, tiny_recipe("textcnn-mr").spec


def test_graphs_have_the_services_names_types_and_axes(models: Path) -> None:
    pictures = OnnxBackend(models / "lenet5-mnist" / "1" / MODEL_FILE, "cpu")
    assert list(map(str, pictures.inputs)) == ["images UINT8 [-1, 28, 28, 1]"]
    assert list(map(str, pictures.outputs)) == ["probabilities FP32 [-1, 10]"]
    sentences = OnnxBackend(models / "textcnn-mr" / "1" / MODEL_FILE, "cpu")
    assert list(map(str, sentences.inputs)) == ["ids INT64 [-1, -1]"]
    assert list(map(str, sentences.outputs)) == ["probabilities FP32 [-1, 2]"]


def test_the_word_vectors_are_stored_once_in_half_precision(models: Path, sentence_run: Path) -> None:
    graph = onnx.load(models / "textcnn-mr" / "1" / MODEL_FILE).graph
    halves = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16]
    words = load_classifier(sentence_run)[3].network.get_parameter("words.weight")
    assert [list(tensor.dims) for tensor in halves] == [list(words.shape)]
    singles = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    assert all(list(tensor.dims) != list(words.shape) for tensor in singles)


def test_nothing_of_this_machine_is_in_a_graph(models: Path) -> None:
    for path in models.glob("*/1/*"):
        content = path.read_bytes()
        for word in (b"site-packages", str(Path.cwd()).encode(), str(models).encode()):
            assert word not in content, path


def test_equal_weights_give_equal_bytes(tmp_path: Path, models: Path, sentence_run: Path) -> None:
    recipe, _, _, classifier = load_classifier(sentence_run)
    classifier.network.compact()
    convert(Probabilities(classifier).eval(), recipe.spec, 2, tmp_path / MODEL_FILE)
    assert (tmp_path / MODEL_FILE).read_bytes() == (models / "textcnn-mr" / "1" / MODEL_FILE).read_bytes()


def test_a_model_in_training_mode_is_refused(tmp_path: Path, sentence_run: Path) -> None:
    recipe, _, _, classifier = load_classifier(sentence_run)
    model = Probabilities(classifier).eval()
    classifier.network.train()
    with pytest.raises(ConversionFailed, match=r"in training mode, at least its part 'output'; eval\(\) must"):
        convert(model, recipe.spec, 2, tmp_path / MODEL_FILE)


def test_a_refusal_of_training_mode_speaks_of_the_users_module_alone(tmp_path: Path) -> None:
    model = Probabilities(Classifier(Wrapped(nn.Flatten()), PICTURES)).eval()
    model.classifier.network.get_submodule("inner").train()
    with pytest.raises(ConversionFailed, match=r"^the model is in training mode; eval\(\) must reach all of it"):
        convert(model, PICTURES, 2, tmp_path / MODEL_FILE)


class Mean(Network):
    """A picture network of one line."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.times = times

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        means = inputs.mean(dim=(1, 2, 3))
        return torch.stack([means, -means], dim=1).repeat(1, self.times)


class Eigenvalues(Network):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(inputs).real.float().mean(dim=2).repeat(1, 2)


class ReadsItself(Network):
    """A network that no tracer can follow: its shape depends on a value."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if inputs.sum().item() > 0:
            return inputs.mean(dim=(2, 3)).repeat(1, 2)
        return torch.zeros(inputs.shape[0], 2)


def test_a_graph_with_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    model = Probabilities(Classifier(Mean(times=2), PICTURES)).eval()
    with pytest.raises(ConversionFailed) as caught:
        convert(model, PICTURES, 2, tmp_path / MODEL_FILE)
    assert str(caught.value) == (
        f"{tmp_path / MODEL_FILE}: expected the output probabilities FP32 [-1, 2], "
        "the graph has probabilities FP32 [-1, 4]"
    )
    check_graph(tmp_path / MODEL_FILE, input_spec(PICTURES), output_spec(4))
    with pytest.raises(ConversionFailed, match=r"expected the input pictures UINT8 \[-1\]"):
        check_graph(tmp_path / MODEL_FILE, TensorSpec("pictures", "UINT8", (-1,)), output_spec(4))


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    model = Probabilities(Classifier(Eigenvalues(), PICTURES)).eval()
    with pytest.raises(ConversionFailed, match=r"aten\.linalg_eig.*; its forward must use operators that ONNX has"):
        convert(model, PICTURES, 2, tmp_path / MODEL_FILE)


def test_why_torch_cannot_convert_is_told_in_one_line_and_no_advice_of_its_exporter(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = Probabilities(Classifier(ReadsItself(), PICTURES)).eval()
    with pytest.raises(ConversionFailed, match="torch cannot convert this model") as caught:
        convert(model, PICTURES, 2, tmp_path / MODEL_FILE)
    assert "Could not guard on data-dependent expression" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_graph_that_contradicts_itself_is_said_in_one_line(tmp_path: Path) -> None:
    class Flat(Network):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs.mean(dim=(1, 2, 3))

    model = Probabilities(Classifier(Flat(), PICTURES)).eval()
    with pytest.raises(ConversionFailed, match="the graph is not valid ONNX") as caught:
        convert(model, PICTURES, 2, tmp_path / MODEL_FILE)
    assert "\n" not in str(caught.value)


def test_batch_norm_is_exported_with_its_running_statistics(tmp_path: Path) -> None:
    class Normed(Network):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(1)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.norm(inputs).mean(dim=(2, 3)) * torch.tensor([[1.0, -1.0]])

    torch.manual_seed(0)
    network = Normed()
    network(torch.randn(8, 1, 28, 28) * 3 + 1)  # moves the statistics
    model = Probabilities(Classifier(network, PICTURES)).eval()
    convert(model, PICTURES, 2, tmp_path / MODEL_FILE)
    images = np.random.default_rng(0).integers(0, 256, size=(3, 28, 28, 1), dtype=np.uint8)
    answer = OnnxBackend(tmp_path / MODEL_FILE, "cpu").run([images])[0]
    assert np.abs(answer - model.answer(images)).max() < 1e-6
