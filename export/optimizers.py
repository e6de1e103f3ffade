"""The optimisers of a training loop, and the averaging of its weights."""

from __future__ import annotations

import torch

from export.classifier import Classifier
from export.recipe import Training

_EVERY = 5  # steps between two updates of the average
_DECAY = 0.95  # per step, at the end of training


def make_optimizers(classifier: Classifier, training: Training) -> list[torch.optim.Optimizer]:
    """Return the optimiser of the dense weights and, if there are sparse weights, theirs.

    A group with a higher rate gets a smaller weight decay, so all groups decay equally per step.
    """
    rate, decay = training.learning_rate, training.weight_decay
    groups = [
        {"params": group.parameters, "rate": group.rate, "weight_decay": decay / group.rate}
        for group in classifier.network.groups()
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
        if training.optimizer == "sgd"
        else torch.optim.AdamW(groups, lr=rate)
    ]
    sparse = classifier.network.sparse_parameters()
    if sparse:
        optimizers.append(torch.optim.SparseAdam(sparse, lr=training.sparse_learning_rate))
    return optimizers


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of each group: ``rate`` times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate", 1.0)


class Lookahead:
    """Slow weights that follow the fast ones and pull them back, more strongly as training goes on.

    Source:
        Zhang et al. (2019), "Lookahead Optimizer: k steps forward, 1 step back"; the growing weight is
        Jordan's (2024, section 3.4).
    """

    def __init__(self, classifier: Classifier) -> None:
        """Start from the current weights and statistics."""
        self._fast = {name: value for name, value in classifier.state_dict().items() if value.is_floating_point()}
        self.slow = {name: value.clone() for name, value in self._fast.items()}

    def step(self, step: int, steps: int) -> None:
        """Update after one of ``steps`` steps, counted from 1. After the last, the classifier has the slow weights."""
        is_last = step == steps
        if step % _EVERY and not is_last:
            return
        decay = 1.0 if is_last else _DECAY**_EVERY * (step / steps) ** 3
        for name, fast in self._fast.items():
            slow = self.slow[name]
            slow.lerp_(fast, 1 - decay)
            fast.copy_(slow)
