from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from export.architectures.base import Sizes
from export.architectures.lenet5 import LeNet5, LeNet5Options
from export.classifier import Classifier, Probabilities
from export.convert import convert
from export.data.inputs import PictureInputs, TokenInputs
from export.errors import ConversionFailed, VerificationFailed
from export.runner import load_classifier
from export.verify import check_independence, largest_difference, verify_graph, verify_run, verify_version
from service.backend.base import Provider
from service.backend.onnx import OnnxBackend
from service.digests import sealed
from service.errors import GraphInvalid, ManifestInvalid
from service.golden import read_golden, write_golden
from service.manifest import GOLDEN_FILE, MANIFEST_FILE, MODEL_FILE, read_manifest, write_manifest
from service.spec import ImageSpec, TextSpec
from service.tensors import TensorSpec
from tests.unit.export.samples import picture_arrays

COLOUR = ImageSpec("image", "RGB", 32, 32, "exact", 32, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


class Answers:
    """A backend that answers with what a function makes of the right answer."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    provider = Provider("cpu", "CPUExecutionProvider", "cpu")

    def __init__(self, model: Probabilities, change: object) -> None:
        self._model = model
        self._change = change

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        assert callable(self._change)
        return [self._change(self._model.answer(inputs[0]))]


def _colour_model(spec: ImageSpec = COLOUR) -> Probabilities:
    torch.manual_seed(0)
    return Probabilities(Classifier(LeNet5(LeNet5Options(0.5), Sizes(10, 32, 32, 3)), spec)).eval()


@pytest.fixture(scope="module")
def colour_graph(tmp_path_factory: pytest.TempPathFactory) -> OnnxBackend:
    path = tmp_path_factory.mktemp("colour") / MODEL_FILE
    convert(_colour_model(), COLOUR, 10, path)
    return OnnxBackend(path, "cpu")


@pytest.fixture(scope="module")
def inputs() -> PictureInputs:
    return PictureInputs(np.random.default_rng(0).integers(0, 256, size=(40, 32, 32, 3), dtype=np.uint8))


def test_the_right_graph_passes_at_every_batch_size(colour_graph: OnnxBackend, inputs: PictureInputs) -> None:
    parity = verify_graph(_colour_model(), colour_graph, inputs, 33)
    assert parity.batch_sizes == (1, 2, 7, 32, 33)
    assert parity.max_abs_difference < 1e-6
    assert (parity.top1_agreement, parity.count) == (1.0, 40)


def test_a_small_largest_batch_is_the_largest_verified(colour_graph: OnnxBackend, inputs: PictureInputs) -> None:
    assert verify_graph(_colour_model(), colour_graph, inputs, 4).batch_sizes == (1, 2, 4)


def test_a_wrong_mean_is_seen(colour_graph: OnnxBackend, inputs: PictureInputs) -> None:
    wrong = dataclasses.replace(COLOUR, mean=(0.5, 0.4, 0.31))
    with pytest.raises(VerificationFailed, match=r"a probability of the graph is off by .* expected at most 1e-05"):
        verify_graph(_colour_model(wrong), colour_graph, inputs, 32)


def test_swapped_channels_are_seen(colour_graph: OnnxBackend, inputs: PictureInputs) -> None:
    model = _colour_model()
    weight = model.classifier.network.get_parameter("c1.weight")
    with torch.no_grad():
        weight.copy_(weight.flip(1))
    with pytest.raises(VerificationFailed, match="a probability of the graph is off"):
        verify_graph(model, colour_graph, inputs, 32)


def test_swapped_classes_are_seen(colour_graph: OnnxBackend, inputs: PictureInputs) -> None:
    model = _colour_model()
    with torch.no_grad():
        for name in ("output.weight", "output.bias"):
            parameter = model.classifier.network.get_parameter(name)
            parameter.copy_(parameter.flip(0))
    with pytest.raises(VerificationFailed, match="a probability of the graph is off"):
        verify_graph(model, colour_graph, inputs, 32)


def test_a_model_in_training_mode_is_seen(colour_graph: OnnxBackend, inputs: PictureInputs) -> None:
    model = _colour_model()
    model.classifier.network.train()
    with pytest.raises(VerificationFailed, match="a probability of the graph is off"):
        verify_graph(model, colour_graph, inputs, 32)


def test_another_top_1_is_seen_however_small_the_difference(inputs: PictureInputs) -> None:
    model = _colour_model()
    with pytest.raises(VerificationFailed, match="the graph's top-1 is another on 40 of 40 inputs"):
        verify_graph(model, Answers(model, lambda answer: answer[:, ::-1]), inputs, 32, tolerance=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda answer: np.where(np.arange(len(answer))[:, None] % 7 == 6, np.nan, answer), "NaN for 1 of 7 inputs"),
        (lambda answer: answer[:-1], "a probability of the graph is off by inf"),
        (lambda answer: answer + np.float32(2e-5), "a probability of the graph is off by 2e-05"),
    ],
)
def test_what_is_no_answer_is_never_close_enough(change: object, message: str, inputs: PictureInputs) -> None:
    model = _colour_model()
    with pytest.raises(VerificationFailed, match=message):
        verify_graph(model, Answers(model, change), inputs, 32)


def test_a_fault_at_one_batch_size_is_seen(inputs: PictureInputs) -> None:
    def wrong_for_seven(answer: np.ndarray) -> np.ndarray:
        return answer + np.float32(0.01) if len(answer) == 7 else answer

    model = _colour_model()
    with pytest.raises(VerificationFailed, match=r"batch size 7, inputs from 0"):
        verify_graph(model, Answers(model, wrong_for_seven), inputs, 32)


def test_the_largest_difference() -> None:
    assert largest_difference(np.array([0.25, 0.75]), np.array([0.5, 0.5])) == 0.25
    assert largest_difference(np.zeros(2), np.zeros(3)) == float("inf")
    assert largest_difference(np.array([np.nan]), np.array([np.nan])) == float("inf")


# A published version.


@pytest.fixture
def version(tmp_path: Path, models: Path) -> Path:
    return shutil.copytree(models / "textcnn-mr" / "1", tmp_path / "1")


def _edit(version: Path, old: str, new: str) -> None:
    text = (version / MANIFEST_FILE).read_text()
    assert old in text
    (version / MANIFEST_FILE).write_text(text.replace(old, new))


def test_a_published_version_passes(models: Path) -> None:
    for version in models.glob("*/1"):
        manifest, worst = verify_version(version)
        assert worst <= manifest.parity.tolerance == 1e-5


def test_another_file_is_seen(version: Path, models: Path) -> None:
    shutil.copy(models / "lenet5-mnist" / "1" / MODEL_FILE, version)
    with pytest.raises(GraphInvalid, match=r"model file has digest sha256:.*, the manifest says sha256:"):
        verify_version(version)
    digest = json.loads((models / "lenet5-mnist" / "1" / MANIFEST_FILE).read_text())["model_digest"]
    _edit(version, json.loads((version / MANIFEST_FILE).read_text())["model_digest"], digest)
    with pytest.raises(
        VerificationFailed, match=r"the graph has images UINT8 \[-1, 28, 28, 1\].*the manifest says otherwise"
    ):
        verify_version(version)


def test_missing_labels_are_seen(version: Path) -> None:
    (version / "labels.txt").write_text("negative\n")
    with pytest.raises(ManifestInvalid, match=r"labels\.txt: has digest"):
        verify_version(version)
    write_manifest(sealed(read_manifest(version), version), version)
    with pytest.raises(VerificationFailed, match=r"labels\.txt: has 1 labels for 2 classes"):
        verify_version(version)


def test_another_tokenizer_is_seen(version: Path) -> None:
    text = (version / "tokenizer.json").read_text()
    (version / "tokenizer.json").write_text(text.replace('"film":', '"movie":'))
    with pytest.raises(ManifestInvalid, match=r"tokenizer\.json: has digest"):
        verify_version(version)
    write_manifest(sealed(read_manifest(version), version), version)
    with pytest.raises(
        VerificationFailed, match=r"golden\.npz: preprocessing gives other tensors than those stored in it"
    ):
        verify_version(version)


def test_other_golden_answers_are_seen(version: Path) -> None:
    golden = read_golden(version / GOLDEN_FILE)
    write_golden(dataclasses.replace(golden, outputs=(golden.outputs[0][:, ::-1],)), version / GOLDEN_FILE)
    with pytest.raises(ManifestInvalid, match=r"golden\.npz: has digest"):
        verify_version(version)
    write_manifest(sealed(read_manifest(version), version), version)
    with pytest.raises(
        VerificationFailed, match=r"a probability of the graph is off .*\(golden answers at batch size 1\)"
    ):
        verify_version(version)


def test_damaged_files_are_named(version: Path) -> None:
    (version / MODEL_FILE).write_bytes(b"no graph")
    with pytest.raises(GraphInvalid, match="model file has digest"):
        verify_version(version)
    (version / MANIFEST_FILE).unlink()
    with pytest.raises(ManifestInvalid, match=r"manifest\.json: no such file"):
        verify_version(version)


def test_a_version_is_compared_with_its_run(version: Path, sentence_run: Path) -> None:
    recipe, _, preprocessing, classifier = load_classifier(sentence_run)
    inputs = preprocessing.inputs_of_raw([b"a fine film", b"a dull film , with music", b"lovely"])
    assert verify_run(version, recipe, preprocessing, classifier, inputs).max_abs_difference < 1e-6
    (version / "labels.txt").write_text("positive\nnegative\n")
    with pytest.raises(VerificationFailed, match="labels are positive, negative; the run has negative, positive"):
        verify_run(version, recipe, preprocessing, classifier, inputs)


def test_a_version_of_another_tokenizer_is_seen(version: Path, sentence_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(sentence_run, tmp_path / "changed")
    file = run / "tokenizer.json"
    file.write_text(file.read_text().replace('"Lowercase"', '"NFC"').replace('"lovely"', '"lovelier"'))
    recipe, _, preprocessing, classifier = load_classifier(run)
    with pytest.raises(VerificationFailed, match="its tokenizer is not the run's"):
        verify_run(version, recipe, preprocessing, classifier, preprocessing.inputs_of_raw([b"a fine film"]))


def test_a_version_of_other_weights_is_seen(version: Path, sentence_run: Path) -> None:
    recipe, _, preprocessing, classifier = load_classifier(sentence_run)
    with torch.no_grad():
        classifier.network.get_parameter("output.bias").add_(torch.tensor([0.01, 0.0]))
    with pytest.raises(VerificationFailed, match="a probability of the graph is off"):
        verify_run(version, recipe, preprocessing, classifier, preprocessing.inputs_of_raw([b"a fine film"]))


def test_pictures_in_memory_equal_pictures_sent(picture_run: Path) -> None:
    _, _, preprocessing, _ = load_classifier(picture_run)
    images, labels = picture_arrays(1, 5)
    from export.data.pictures import Pictures

    split = Pictures(images[..., np.newaxis], labels)
    sent = preprocessing.inputs_of_raw([split.raw(i) for i in range(10)])
    indices = np.arange(10)
    assert np.array_equal(sent.batch(indices), preprocessing.inputs(split).batch(indices))


def test_padding_may_change_answers_by_its_own_tolerance_only() -> None:
    def answer(ids: np.ndarray) -> np.ndarray:
        changed = np.where(ids[:, -1:] == 0, 5e-5, 0.0)
        return np.hstack([0.5 + changed, 0.5 - changed])

    inputs, spec = TokenInputs([np.array([2, 3]), np.array([3, 2])], 0), TextSpec("text", "tokenizer.json", 0, 1, 9)
    check_independence("net", answer, inputs, spec, 1e-5, padding_tolerance=1e-4)
    with pytest.raises(ConversionFailed, match="changes by 5e-05 if 1 tokens of padding"):
        check_independence("net", answer, inputs, spec, 1e-5, padding_tolerance=1e-5)
