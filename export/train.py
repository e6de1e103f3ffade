"""The training loop: runs epochs over a training part and keeps the epoch that is best on a held-out part.

It knows nothing about data sets or architectures, only inputs, labels and a classifier.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own spelling)

from export.augment import AUGMENTATIONS
from export.classifier import Classifier
from export.data.inputs import Inputs
from export.errors import RunInvalid
from export.optimizers import Lookahead, make_optimizers, set_rate
from export.progress import Reporter
from export.recipe import Training
from export.run import CHECKPOINT_FILE, WEIGHTS_FILE, EpochRecord, load_tensors, save_tensors
from export.schedule import epoch_batches, epoch_seed, rate_factor

_EVALUATION_BATCH_SIZE = 500

Keep = Callable[[tuple[EpochRecord, ...], int], None]


@dataclass(frozen=True, slots=True)
class Part:
    """N inputs with their labels: int64 (N,)."""

    inputs: Inputs
    labels: np.ndarray


@dataclass(frozen=True, slots=True)
class Outcome:
    """How training ended. The classifier then has the best weights."""

    history: tuple[EpochRecord, ...]
    best_epoch: int
    interrupted: bool


class Loop:
    """Trains one classifier into one run folder. On the CPU, seed and number of threads determine every weight."""

    def __init__(self, classifier: Classifier, training: Training, seed: int, device: str, folder: Path) -> None:
        """Prepare the optimisers. The classifier, with initial weights, is trained in place.

        ``seed`` decides order, augmentation and dropout; weights.pt and checkpoint.pt are written into the folder.
        """
        self._classifier = classifier.to(device)
        self._training = training
        self._seed = seed
        self._device = device
        self._folder = folder
        self._optimizers = make_optimizers(classifier, training)
        if training.precision == "bfloat16":  # bfloat16 convolutions are fast in this layout
            classifier.network.to(memory_format=torch.channels_last)
        self._average = Lookahead(classifier) if training.average == "lookahead" else None
        self._augment = AUGMENTATIONS[training.augmentation]
        self._history: list[EpochRecord] = []
        self._saved = 0  # epochs of the history whose files are written

    def resume(self) -> None:
        """Continue after the last complete epoch as if training had not stopped.

        Raises:
            RunInvalid: The checkpoint is damaged or belongs to another network.
        """
        path = self._folder / CHECKPOINT_FILE
        if not path.exists():
            return  # stopped within the first epoch, so there is no checkpoint
        state = load_tensors(path)
        try:
            self._classifier.load_state_dict(state["weights"])
            for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            if self._average is not None:
                for name, slow in state["average"].items():
                    self._average.slow[name].copy_(slow)
            self._history = [EpochRecord(**record) for record in state["history"]]
            self._saved = len(self._history)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunInvalid(f"{path}: does not fit this recipe ({error}); train again") from None

    def run(self, train: Part, held_out: Part, reporter: Reporter, keep: Keep) -> Outcome:
        """Train until the last epoch, until patience runs out, or until Ctrl-C.

        Args:
            train: The examples to learn from.
            held_out: Determines the best epoch.
            reporter: Receives each step and each epoch.
            keep: Saves history and best epoch after an epoch's weights are saved.

        Raises:
            KeyboardInterrupt: Ctrl-C came before any epoch was complete.
            RunInvalid: The loss is not finite, or a file cannot be written.
        """
        interrupted = False
        try:
            while not self._is_over():
                self._epoch(train, held_out, reporter, keep)
        except KeyboardInterrupt:
            if not self._history:
                raise
            if self._saved < len(self._history):  # Ctrl-C came while the last epoch was being saved
                self._save(keep)
            interrupted = True
        self._classifier.load_state_dict(load_tensors(self._folder / WEIGHTS_FILE))
        self._classifier.eval()
        return Outcome(tuple(self._history), self._best_epoch, interrupted)

    def _is_over(self) -> bool:
        epochs = len(self._history)
        return epochs >= self._training.epochs or epochs - self._best_epoch >= self._training.patience

    @property
    def _best_epoch(self) -> int:
        """The best epoch, the first if several are equal; 0 before any is complete."""
        return max(self._history, key=_merit).epoch if self._history else 0

    def _epoch(self, train: Part, held_out: Part, reporter: Reporter, keep: Keep) -> None:
        """Train on the training part once, evaluate on the held-out part, save."""
        epoch, began = len(self._history) + 1, time.monotonic()
        loss = self._pass(epoch, train, reporter)
        held_out_loss, accuracy = evaluate(self._classifier, held_out, self._device)
        record = EpochRecord(epoch, loss, held_out_loss, accuracy, time.monotonic() - began)
        self._history.append(record)
        self._save(keep)
        reporter.epoch(record, is_best=self._best_epoch == epoch)

    def _save(self, keep: Keep) -> None:
        """Write the files of the last epoch. May be repeated if it was interrupted."""
        weights = self._classifier.state_dict()
        if self._best_epoch == len(self._history):
            save_tensors(self._folder / WEIGHTS_FILE, weights)
        state: dict[str, Any] = {
            "weights": weights,
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "average": {} if self._average is None else self._average.slow,
            "history": [_plain(each) for each in self._history],
        }
        save_tensors(self._folder / CHECKPOINT_FILE, state)
        keep(tuple(self._history), self._best_epoch)
        self._saved = len(self._history)

    def _pass(self, epoch: int, train: Part, reporter: Reporter) -> float:
        """Take one step per batch and return the mean loss."""
        seed = epoch_seed(self._seed, epoch)
        torch.manual_seed(seed)
        rng = np.random.default_rng([seed, 1])
        batches = epoch_batches(len(train.labels), train.inputs.lengths, self._training.batch_size, seed)
        steps = len(batches)
        peaks = [self._training.learning_rate, self._training.sparse_learning_rate]
        self._classifier.train()
        total = 0.0
        for step, batch in enumerate(batches):
            done, whole = (epoch - 1) * steps + step, steps * self._training.epochs
            factor = rate_factor(done, whole, self._training)
            for optimizer, peak in zip(self._optimizers, peaks, strict=False):
                set_rate(optimizer, peak * factor)
            array = train.inputs.batch(batch)
            if self._augment is not None:
                array = self._augment(array, batch, epoch, rng)
            loss = self._step(array, train.labels[batch])
            if not math.isfinite(loss):  # no later step would recover
                raise RunInvalid(
                    f"{self._folder}: the loss is {loss} in step {step + 1} of epoch {epoch}; "
                    "lower training.learning_rate, or look for extreme values in the data"
                )
            if self._average is not None:
                self._average.step(done + 1, whole)
            total += loss * len(batch)
            reporter.step(epoch, step + 1, steps, loss)
        return total / len(train.labels)

    def _step(self, array: np.ndarray, classes: np.ndarray) -> float:
        inputs, labels = (torch.from_numpy(part).to(self._device) for part in (array, classes))
        half = self._training.precision == "bfloat16"
        with torch.autocast(torch.device(self._device).type, dtype=torch.bfloat16, enabled=half):
            logits = self._classifier(inputs)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self._training.label_smoothing)
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self._optimizers:
            optimizer.step()
        self._classifier.network.constrain()
        return loss.item()


def evaluate(classifier: Classifier, part: Part, device: str) -> tuple[float, float]:
    """Return mean cross-entropy and top-1 accuracy in [0, 1]. Leaves the classifier in evaluation mode."""
    classifier.eval()
    count = len(part.labels)
    order = np.arange(count) if part.inputs.lengths is None else np.argsort(part.inputs.lengths, kind="stable")
    loss, right = 0.0, 0
    with torch.inference_mode():
        for start in range(0, count, _EVALUATION_BATCH_SIZE):
            batch = order[start : start + _EVALUATION_BATCH_SIZE]
            logits = classifier(torch.from_numpy(part.inputs.batch(batch)).to(device))
            labels = torch.from_numpy(part.labels[batch]).to(device)
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(dim=1) == labels).sum())
    return loss / count, right / count


def _merit(record: EpochRecord) -> tuple[float, float]:
    """Return the sort key of epochs: higher accuracy first, then lower loss."""
    return record.held_out_accuracy, -record.held_out_loss


def _plain(record: EpochRecord) -> dict[str, float]:
    return {name: getattr(record, name) for name in EpochRecord.__slots__}
