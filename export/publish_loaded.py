"""Publishes weights trained elsewhere: converted and verified like our own, but without a measured accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from export import provenance
from export.classifier import Classifier, Probabilities
from export.convert import convert, refuse_training
from export.data.inputs import Inputs, proving_inputs, proving_raw
from export.errors import ConversionFailed
from export.load import Loaded, Order, load_network
from export.publish import Described, Say, complete, write_aside
from export.verify import (
    are_probabilities,
    check_independence,
    doubt_of_logits,
    refuse_nan,
    rounding_within,
    verify_graph,
)
from service.backend.onnx import OnnxBackend
from service.manifest import MODEL_FILE, Dataset


def publish_loaded(order: Order, target: Path, version: int | None, max_batch_size: int, say: Say) -> Path:
    """Load a network and publish it. Whether it can be written is found out before its weights are read.

    Without a test set, no accuracy can be measured and none is claimed. torch and the graph are
    compared on golden inputs, and on noise or sentences of the tokenizer's own words.

    Args:
        order: What to load.
        target: Folder of the model, ``<repository>/<name>``.
        version: Positive integer, or None for the next free one.
        max_batch_size: Largest batch to verify.
        say: Receives one line per step.

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
        classifier = Classifier(loaded.network, spec)
        inputs = proving_inputs(preprocessing)
        model = Probabilities(classifier).eval()
        refuse_training(model)
        _check_logits(loaded, classifier, inputs, order.tolerance, say)
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


def _check_logits(loaded: Loaded, classifier: Classifier, inputs: Inputs, tolerance: float, say: Say) -> None:
    """Refuse a network that does not return logits, or not always the same ones for the same input.

    Softmax applied twice would answer almost uniformly.

    Raises:
        ConversionFailed: It returns probabilities, values that are not numbers, another type than float32 or another
            shape than (N, K), or answers that depend on chance, on the other rows of a batch or on padding.
    """
    name = loaded.name
    _answers(loaded, classifier, inputs.batch(np.arange(1)))  # some networks drop an axis of size 1
    answers = _answers(loaded, classifier, inputs.batch(np.arange(len(inputs))))
    refuse_nan(name, answers.softmax(dim=1).numpy())
    if are_probabilities(answers.numpy()):
        raise ConversionFailed(f"{name}: returns probabilities, expected logits; remove its softmax, load adds one")
    if doubt := doubt_of_logits(answers.numpy()):
        say(doubt)
    check_independence(
        name,
        lambda batch: _answers(loaded, classifier, batch).softmax(dim=1).numpy(),
        inputs,
        loaded.preprocessing.spec,
        tolerance,
        padding_tolerance=rounding_within(tolerance),
    )


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
        raise ConversionFailed(
            f"{name}: returns {type(answers).__name__}, expected a tensor of logits; its forward must return them alone"
        )
    if classes == 2 and answers.shape in ((count, 1), (count,)):
        raise ConversionFailed(
            f"{name}: returns one number x for two labels; without its sigmoid, if it has one, its forward must return "
            "two logits, such as torch.stack([0 * x, x], 1) of x with shape (N,)"
        )
    if answers.shape != (count, classes):
        raise ConversionFailed(
            f"{name}: returns shape {tuple(answers.shape)} for a batch of {count}, expected ({count}, {classes}): "
            f"one logit for each of the {classes} labels"
        )
    if answers.dtype != torch.float32:
        raise ConversionFailed(f"{name}: returns {answers.dtype}, expected torch.float32; end its forward in .float()")
    return answers
