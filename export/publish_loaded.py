"""Publishes weights trained elsewhere: converted and verified like our own, but without a measured accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from export import provenance
from export.classifier import Classifier, Probabilities
from export.convert import convert
from export.data.inputs import Inputs, TokenInputs, proving_inputs, proving_raw
from export.errors import ConversionFailed
from export.load import Loaded, Order, load_network
from export.publish import Described, Say, complete, write_aside
from export.sentence_nets import check_padding
from export.verify import TOLERANCE, are_probabilities, verify_graph
from service.backend.onnx import OnnxBackend
from service.manifest import MODEL_FILE, Dataset
from service.spec import TextSpec

_BY_ROUNDING = 10  # times the tolerance: what rounds as much would not pass verification either


def publish_loaded(order: Order, target: Path, version: int | None, max_batch_size: int, say: Say) -> Path:
    """Load a network and publish it. Whether it can be written is found out before its weights are read.

    Without a test set, no accuracy can be measured and none is claimed. torch and the graph are
    compared on golden inputs, and on noise or sentences of the tokenizer's own words.

    Returns:
        The version folder.

    Raises:
        RecipeInvalid: See :func:`export.load.load_network`.
        WeightsInvalid: Likewise.
        ConversionFailed: The network does not return logits, or the graph is not what the server expects.
        VerificationFailed: The graph does not reproduce torch's answers.
        PublishFailed: The version exists already, or the repository cannot be written.
    """
    with write_aside(target, version) as (aside, folder):
        loaded = load_network(order)
        for note in loaded.notes:
            say(f"note: {note}")
        preprocessing, spec = loaded.preprocessing, loaded.preprocessing.spec
        classifier = Classifier(loaded.network, spec).eval()
        inputs = proving_inputs(preprocessing)
        _check_logits(loaded, classifier, inputs, _BY_ROUNDING * max(order.tolerance, TOLERANCE))
        model = Probabilities(classifier).eval()
        convert(model, spec, len(loaded.labels), aside / MODEL_FILE)
        say(f"converted: {(aside / MODEL_FILE).stat().st_size / 1e6:.2f} MB")
        backend = OnnxBackend(aside / MODEL_FILE, "cpu")
        parity = verify_graph(model, backend, inputs, max_batch_size, order.tolerance)
        say(f"verified: at most {parity.max_abs_difference:.2g} from torch; same top-1 on all {parity.count}")
        about = provenance.of_loaded(loaded.name, Dataset(f"weights {loaded.weights}", loaded.digest))
        described = Described(preprocessing, loaded.labels, max_batch_size, about)
        complete(aside, described, model, proving_raw(preprocessing), parity)
    say(f"published: {folder}")
    return folder


def _check_logits(loaded: Loaded, classifier: Classifier, inputs: Inputs, rounding: float) -> None:
    """Refuse a network that does not return logits, or not always the same ones for the same input.

    Softmax applied twice would answer almost uniformly. Probabilities that differ by ``rounding`` count as the same.

    Raises:
        ConversionFailed: It returns probabilities, values that are not numbers, another type than float32 or another
            shape than (N, K), or answers that depend on chance, on the other rows of a batch or on padding.
    """
    name, spec = loaded.name, loaded.preprocessing.spec
    alone = _answers(loaded, classifier, inputs.batch(np.arange(1)))  # some networks drop an axis of size 1
    answers = _answers(loaded, classifier, inputs.batch(np.arange(2)))
    if answers.softmax(dim=1).isnan().any():
        raise ConversionFailed(
            f"{name}: returns NaN or infinity; its weights are damaged, or mean and std are not its own"
        )
    if are_probabilities(answers.numpy()):
        raise ConversionFailed(f"{name}: returns probabilities, expected logits; remove its softmax, load adds one")
    if _difference(answers, _answers(loaded, classifier, inputs.batch(np.arange(2)))) > rounding:
        raise ConversionFailed(
            f"{name}: answers the same inputs differently each time; its forward is random or keeps state, "
            "such as F.dropout without training=self.training"
        )
    if isinstance(inputs, TokenInputs) and isinstance(spec, TextSpec):
        check_padding(
            name,
            lambda ids: _answers(loaded, classifier, ids).softmax(dim=1).numpy(),
            inputs,
            spec,
            rounding,
        )
    if _difference(alone, _answers(loaded, classifier, inputs.batch(np.arange(len(inputs))))[:1]) > rounding:
        raise ConversionFailed(
            f"{name}: answers an input differently in a batch; its forward must not mix the rows of a batch, "
            "as batch norm without running statistics does"
        )


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference between the probabilities of answers (N, K)."""
    return float((one.softmax(dim=1) - other.softmax(dim=1)).abs().max())


def _answers(loaded: Loaded, classifier: Classifier, batch: np.ndarray) -> torch.Tensor:
    """Return a network's answers to one batch of inputs (N, ...): (N, K).

    Raises:
        ConversionFailed: The network fails, or returns anything else.
    """
    name, classes, count = loaded.name, len(loaded.labels), len(batch)
    try:
        with torch.inference_mode():
            answers: object = classifier(torch.from_numpy(batch))
    except Exception as error:  # the user's code may raise anything
        reason = " ".join(str(error).split())
        raise ConversionFailed(f"{name}: fails on a batch of {count} ({type(error).__name__}: {reason})") from None
    if not isinstance(answers, torch.Tensor):
        raise ConversionFailed(f"{name}: returns {type(answers).__name__}, expected a tensor of logits")
    if answers.shape != (count, classes):
        raise ConversionFailed(
            f"{name}: returns shape {tuple(answers.shape)} for a batch of {count}, expected ({count}, {classes}): "
            f"one logit for each of the {classes} labels"
        )
    if answers.dtype != torch.float32:
        raise ConversionFailed(f"{name}: returns {answers.dtype}, expected torch.float32; end its forward in .float()")
    return answers
