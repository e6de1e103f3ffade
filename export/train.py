"""The one training loop: epochs over a training part, the best epoch on a held-out part kept.

It knows neither data sets nor architectures, only inputs, labels and a classifier.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own spelling)

from export.classifier import Classifier
from export.data.inputs import Inputs
from export.errors import RunInvalid
from export.progress import Reporter
from export.recipe import Training
from export.run import CHECKPOINT_FILE, WEIGHTS_FILE, EpochRecord, load_tensors, save_tensors
from export.schedule import epoch_batches, epoch_seed, rate_factor

_EVALUATION_BATCH_SIZE = 500


@dataclass(frozen=True, slots=True)
class Part:
    """N inputs with their labels: int64 (N,)."""

    inputs: Inputs
    labels: np.ndarray


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a training ended; the classifier holds the best weights then."""

    history: tuple[EpochRecord, ...]
    best_epoch: int
    interrupted: bool


class Loop:
    """Trains one classifier into one run folder. On the CPU a seed fixes every weight, for one number of threads."""

    def __init__(self, classifier: Classifier, training: Training, seed: int, device: str, folder: Path) -> None:
        """Prepare the optimisers.

        Args:
            classifier: With fresh weights; trained in place.
            training: The loop's numbers.
            seed: Of order and dropout.
            device: A torch device.
            folder: Where weights.pt and checkpoint.pt go.
        """
        self._classifier = classifier.to(device)
        self._training = training
        self._seed = seed
        self._device = device
        self._folder = folder
        self._optimizers = _optimizers(classifier, training)
        self._history: list[EpochRecord] = []
        self._best_epoch = 0

    def resume(self) -> None:
        """Continue after the last complete epoch, as if training had never stopped.

        Raises:
            RunInvalid: The checkpoint is damaged or of another network.
        """
        path = self._folder / CHECKPOINT_FILE
        if not path.exists():
            return  # stopped within the first epoch: there is nothing to continue from
        state = load_tensors(path)
        try:
            self._classifier.load_state_dict(state["weights"])
            for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self._history = [EpochRecord(**record) for record in state["history"]]
            self._best_epoch = state["best_epoch"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunInvalid(f"{path}: does not fit this recipe ({error}); train again") from None

    def run(self, train: Part, held_out: Part, reporter: Reporter) -> Outcome:
        """Train until the last epoch, until patience ends, or until Ctrl-C.

        Raises:
            KeyboardInterrupt: Ctrl-C came before any epoch was complete.
        """
        interrupted = False
        try:
            while not self._is_over():
                self._epoch(train, held_out, reporter)
        except KeyboardInterrupt:
            if not self._best_epoch:
                raise
            interrupted = True
        self._classifier.load_state_dict(load_tensors(self._folder / WEIGHTS_FILE))
        self._classifier.eval()
        return Outcome(tuple(self._history), self._best_epoch, interrupted)

    def _is_over(self) -> bool:
        epochs = len(self._history)
        return epochs >= self._training.epochs or epochs - self._best_epoch >= self._training.patience

    def _epoch(self, train: Part, held_out: Part, reporter: Reporter) -> None:
        """Pass once over the training part, look at the held-out part, save."""
        epoch, began = len(self._history) + 1, time.monotonic()
        loss = self._pass(epoch, train, reporter)
        held_out_loss, accuracy = evaluate(self._classifier, held_out, self._device)
        record = EpochRecord(epoch, loss, held_out_loss, accuracy, time.monotonic() - began)
        best = max(self._history, key=_merit, default=None)
        is_best = best is None or _merit(record) > _merit(best)
        self._history.append(record)
        weights = self._classifier.state_dict()
        if is_best:
            self._best_epoch = epoch
            save_tensors(self._folder / WEIGHTS_FILE, weights)
        state: dict[str, Any] = {
            "weights": weights,
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "history": [_plain(each) for each in self._history],
            "best_epoch": self._best_epoch,
        }
        save_tensors(self._folder / CHECKPOINT_FILE, state)
        reporter.epoch(record, is_best)

    def _pass(self, epoch: int, train: Part, reporter: Reporter) -> float:
        """Take one step a batch and return the mean loss."""
        seed = epoch_seed(self._seed, epoch)
        torch.manual_seed(seed)
        batches = epoch_batches(len(train.labels), train.inputs.lengths, self._training.batch_size, seed)
        steps = len(batches)
        peaks = [self._training.learning_rate, self._training.sparse_learning_rate]
        self._classifier.train()
        total = 0.0
        for step, batch in enumerate(batches):
            factor = rate_factor((epoch - 1) * steps + step, steps * self._training.epochs, self._training)
            for optimizer, peak in zip(self._optimizers, peaks, strict=False):
                for group in optimizer.param_groups:
                    group["lr"] = peak * factor
            loss = self._step(train, batch)
            total += loss * len(batch)
            reporter.step(epoch, step + 1, steps, loss)
        return total / len(train.labels)

    def _step(self, train: Part, batch: np.ndarray) -> float:
        inputs = torch.from_numpy(train.inputs.batch(batch)).to(self._device)
        labels = torch.from_numpy(train.labels[batch]).to(self._device)
        loss = F.cross_entropy(self._classifier(inputs), labels, label_smoothing=self._training.label_smoothing)
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self._optimizers:
            optimizer.step()
        self._classifier.network.constrain()
        return loss.item()


def evaluate(classifier: Classifier, part: Part, device: str) -> tuple[float, float]:
    """Return mean cross-entropy and top-1 accuracy in [0, 1]; the classifier is in evaluation mode afterwards."""
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


def _optimizers(classifier: Classifier, training: Training) -> list[torch.optim.Optimizer]:
    """Return the dense weights' optimiser and, where there are sparse ones, theirs."""
    sparse = classifier.network.sparse_parameters()
    ids = {id(parameter) for parameter in sparse}
    dense = [parameter for parameter in classifier.parameters() if id(parameter) not in ids]
    rate, decay = training.learning_rate, training.weight_decay
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.SGD(dense, lr=rate, momentum=0.9, nesterov=True, weight_decay=decay)
        if training.optimizer == "sgd"
        else torch.optim.AdamW(dense, lr=rate, weight_decay=decay)
    ]
    if sparse:
        optimizers.append(torch.optim.SparseAdam(sparse, lr=training.sparse_learning_rate))
    return optimizers


def _merit(record: EpochRecord) -> tuple[float, float]:
    """Order epochs: the higher accuracy, then the lower loss."""
    return record.held_out_accuracy, -record.held_out_loss


def _plain(record: EpochRecord) -> dict[str, float]:
    return {name: getattr(record, name) for name in EpochRecord.__slots__}
