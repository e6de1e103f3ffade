"""Report on a run: learning curves, confusion matrix and worst mistakes, as PNG files and an HTML page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.classifier import Probabilities
from export.data import Source, Split
from export.data.inputs import Inputs
from export.data.pictures import Pictures
from export.errors import RunInvalid
from export.run import RunRecord
from export.runner import load_classifier, open_divided

REPORT_DIR = "report"
PAGE = "report.html"
_BATCH = 100
_WORST = 16
_MOST_NAMED = 20  # classes; with more, the confusion matrix has no names and no numbers


@dataclass(frozen=True, slots=True)
class Mistakes:
    """What a run gets wrong on its test split.

    Attributes:
        confusion: int64 (K, K), examples by true class and by predicted class.
        worst: Positions of the wrong answers with the highest confidence, worst first.
        answers: int64 (N,), the predicted classes.
        confidences: float64 (N,), their probabilities.
    """

    confusion: np.ndarray
    worst: np.ndarray
    answers: np.ndarray
    confidences: np.ndarray


def write_report(run_dir: Path, data: Path | None) -> Path:
    """Write ``report/`` into a finished run's folder; ``data`` is where its data are now, if they have moved.

    Returns:
        The HTML page.

    Raises:
        RunInvalid: The folder holds no run, or matplotlib is not installed.
    """
    figures = _figures()
    recipe, record, preprocessing, classifier = load_classifier(run_dir)
    divided, _ = open_divided(recipe, Source(data or Path(record.data_path)), record.seed, record.fold)
    test, labels = divided.test, recipe.data.labels
    assert test is not None
    mistakes = find_mistakes(Probabilities(classifier).eval(), preprocessing.inputs(test), test.labels, len(labels))
    folder = run_dir / REPORT_DIR
    folder.mkdir(exist_ok=True)
    _curves(figures, record).savefig(folder / "curves.png")
    _confusion(figures, mistakes.confusion, labels).savefig(folder / "confusion.png")
    if isinstance(test, Pictures):
        _pictures(figures, test, mistakes, labels).savefig(folder / "mistakes.png")
    page = folder / PAGE
    page.write_text(_html(record, test, mistakes, labels), encoding="utf-8")
    return page


def find_mistakes(model: Probabilities, inputs: Inputs, labels: np.ndarray, classes: int) -> Mistakes:
    """Run the model on every input and compare its answers with the labels."""
    answers = np.empty(len(labels), dtype=np.int64)
    confidences = np.empty(len(labels))
    order = np.arange(len(labels)) if inputs.lengths is None else np.argsort(inputs.lengths, kind="stable")
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        probabilities = model.answer(inputs.batch(rows))
        answers[rows], confidences[rows] = probabilities.argmax(axis=1), probabilities.max(axis=1)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (labels, answers), 1)
    wrong = np.flatnonzero(answers != labels)
    worst = wrong[np.argsort(-confidences[wrong], kind="stable")][:_WORST]
    return Mistakes(confusion, worst, answers, confidences)


def _figures() -> Any:
    try:
        from matplotlib import figure  # noqa: PLC0415 (only reports need it, and it costs half a second)
    except ModuleNotFoundError:
        raise RunInvalid("a report needs matplotlib; pip install '.[export]' in the checkout") from None
    return figure


def _curves(figures: Any, record: RunRecord) -> Any:
    figure = figures.Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [epoch.epoch for epoch in record.history]
    left.plot(epochs, [epoch.loss for epoch in record.history], label="training (augmented if the recipe says so)")
    left.plot(epochs, [epoch.held_out_loss for epoch in record.history], label="held out")
    left.set(xlabel="epoch", ylabel="loss")
    left.legend()
    right.plot(epochs, [epoch.held_out_accuracy for epoch in record.history])
    right.axvline(record.best_epoch, linestyle=":", color="grey")
    right.set(xlabel="epoch (dotted: the best)", ylabel="held-out accuracy")
    return figure


def _confusion(figures: Any, confusion: np.ndarray, labels: Sequence[str]) -> Any:
    figure = figures.Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    shares = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="answer", ylabel="truth")
    if len(labels) <= _MOST_NAMED:
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        for row, column in np.argwhere(confusion > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, confusion[row, column], ha="center", va="center", color=colour, fontsize=8)
    return figure


def _pictures(figures: Any, test: Pictures, mistakes: Mistakes, labels: Sequence[str]) -> Any:
    figure = figures.Figure(figsize=(8, 9), layout="constrained")
    for axes in figure.subplots(4, 4).flat:
        axes.axis("off")
    for axes, row in zip(figure.axes, mistakes.worst, strict=False):
        picture = test.images[row]
        axes.imshow(picture.squeeze(2) if picture.shape[2] == 1 else picture, cmap="gray")
        answer = f"{labels[mistakes.answers[row]]} {mistakes.confidences[row]:.2f}"
        axes.set_title(f"{answer}\nis {labels[test.labels[row]]}", fontsize=8)
    return figure


def _html(record: RunRecord, test: Split, mistakes: Mistakes, labels: Sequence[str]) -> str:
    right = int(np.trace(mistakes.confusion))
    facts = {
        "recipe": record.recipe,
        "seed": record.seed,
        "data": f"{record.dataset.name}, {record.test_name}, {record.dataset.digest}",
        "right": f"{right} of {len(test)} ({right / len(test):.2%})",
        "best epoch": f"{record.best_epoch} of {len(record.history)}",
        "time": f"{sum(epoch.seconds for epoch in record.history):.0f} s",
        "word vectors": record.word_vectors or "random",
        "commit": record.git_commit,
        **record.libraries,
    }
    rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>\n" for k, v in facts.items())
    parts = ["<h2>Learning curves</h2><img src='curves.png'>", "<h2>Confusion</h2><img src='confusion.png'>"]
    parts.append("<h2>Worst mistakes</h2>")
    if isinstance(test, Pictures):
        parts.append("<img src='mistakes.png'>")
    else:
        cells = "".join(
            f"<tr><td>{html.escape(test.raw(int(row)).decode())}</td><td>{html.escape(labels[mistakes.answers[row]])} "
            f"{mistakes.confidences[row]:.2f}</td><td>{html.escape(labels[test.labels[row]])}</td></tr>\n"
            for row in mistakes.worst
        )
        parts.append(f"<table><tr><th>sentence</th><th>answer</th><th>truth</th></tr>\n{cells}</table>")
    style = "body{font-family:sans-serif;margin:2em}th{text-align:left;padding-right:1em}img{max-width:100%}"
    title = html.escape(record.recipe)
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title><style>{style}</style>\n"
        f"<h1>{title}</h1>\n<table>{rows}</table>\n{''.join(parts)}</html>\n"
    )
