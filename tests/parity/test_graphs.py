"""Published graphs give torch's answers, alone and in company, whatever the padding."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.architectures import Sizes
from export.architectures.textcnn import TextCNN, TextCNNOptions
from export.classifier import Classifier, Probabilities
from export.convert import convert
from export.recipe import find_recipe
from service.backend.onnx import OnnxBackend
from service.golden import read_golden
from service.manifest import GOLDEN_FILE, MANIFEST_FILE, MODEL_FILE, read_manifest

MODELS = Path(__file__).resolve().parents[2] / "models"
BUNDLED = sorted(path.parent for path in MODELS.glob(f"*/*/{MANIFEST_FILE}"))
SENTENCES = [version for version in BUNDLED if read_manifest(version).task == "sentence-classification"]
VOCABULARY = 50

ids = st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=40)


@functools.cache
def _backend(version: Path) -> OnnxBackend:
    return OnnxBackend(version / MODEL_FILE, "cpu")


def _random_graph(folder: Path) -> tuple[Probabilities, OnnxBackend]:
    """Convert an untrained TextCNN whose biases are large, so that a window of padding often is the maximum."""
    torch.manual_seed(0)
    options = TextCNNOptions((2, 3, 5), 6, 8, dropout=0.5, max_norm=3.0, variant="rand", table="float16")
    network = TextCNN(options, Sizes(3, vocabulary=VOCABULARY))
    with torch.no_grad():
        for convolution in network.convolutions:
            convolution.get_parameter("bias").uniform_(-1, 1)
    network.compact()
    spec = find_recipe("textcnn-mr").spec
    model = Probabilities(Classifier(network, spec)).eval()
    convert(model, spec, 3, folder / MODEL_FILE)
    return model, OnnxBackend(folder / MODEL_FILE, "cpu")


@pytest.fixture(scope="module")
def random_graph(tmp_path_factory: pytest.TempPathFactory) -> tuple[Probabilities, OnnxBackend]:
    return _random_graph(tmp_path_factory.mktemp("random"))


@given(sentence=ids, more=st.integers(0, 60))
@settings(max_examples=100, deadline=None)
def test_right_padding_never_changes_an_answer(
    random_graph: tuple[Probabilities, OnnxBackend], sentence: list[int], more: int
) -> None:
    model, backend = random_graph
    row = np.array([sentence], dtype=np.int64)
    padded = np.pad(row, ((0, 0), (0, more)))
    alone, in_company = backend.run([row])[0], backend.run([padded])[0]
    assert np.abs(alone - in_company).max() <= 1e-6
    assert np.abs(alone - model.answer(padded)).max() <= 1e-5


@pytest.mark.parametrize("version", SENTENCES, ids=lambda version: version.parent.name)
@given(sentence=ids, more=st.integers(0, 60))
@settings(max_examples=50, deadline=None)
def test_right_padding_never_changes_a_trained_answer(version: Path, sentence: list[int], more: int) -> None:
    row = np.array([sentence], dtype=np.int64)
    answers = [_backend(version).run([array])[0] for array in (row, np.pad(row, ((0, 0), (0, more))))]
    assert np.abs(answers[0] - answers[1]).max() <= 1e-6


@pytest.mark.parametrize("version", BUNDLED, ids=lambda version: version.parent.name)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_an_answer_is_the_same_alone_and_in_any_company(version: Path, data: st.DataObject) -> None:
    golden = read_golden(version / GOLDEN_FILE)
    company = data.draw(st.lists(st.integers(0, golden.count - 1), min_size=1, max_size=32))
    together = _backend(version).run([golden.inputs[0][company]])[0]
    assert np.abs(together - golden.outputs[0][company]).max() <= 1e-5
    alone = _backend(version).run([golden.inputs[0][company[:1]]])[0]
    assert np.abs(together[:1] - alone).max() <= 1e-6


@pytest.mark.parametrize("version", BUNDLED, ids=lambda version: version.parent.name)
def test_probabilities_are_probabilities(version: Path) -> None:
    golden = read_golden(version / GOLDEN_FILE)
    answers = _backend(version).run([golden.inputs[0]])[0]
    assert answers.dtype == np.float32
    assert (answers >= 0).all()
    assert np.abs(answers.sum(axis=1) - 1).max() < 1e-5
