"""Which models are not served as the repository has them: in the log once, in the metrics while it lasts."""

from __future__ import annotations

import logging

from service.metrics import Metrics
from service.repository.lifecycle import Lifecycle

_LOG = logging.getLogger(__name__)


class Shortfalls:
    """What was said of each model last. Driven under the reconciler's lock."""

    def __init__(self, metrics: Metrics, lifecycle: Lifecycle) -> None:
        """Know of none.

        Args:
            metrics: Shows them.
            lifecycle: Tells which models exist.
        """
        self._metrics = metrics
        self._lifecycle = lifecycle
        self._said: dict[str, str] = {}

    @property
    def names(self) -> set[str]:
        """Models with a shortfall."""
        return set(self._said)

    def note(self, name: str, problem: str) -> None:
        """Show whether a model is served as the repository has it; say so in the log when that changes.

        Args:
            name: Of the model.
            problem: What is in the way, for the operator; empty if nothing is.
        """
        before = self._said.pop(name, "")
        if problem:
            self._said[name] = problem
            self._metrics.change_failed.labels(name).set(1)
            if problem != before:
                _LOG.error("a model cannot be served as it is on disk: %s", problem, extra={"fields": {"model": name}})
        elif self._lifecycle.knows(name):
            self._metrics.change_failed.labels(name).set(0)
        else:
            self._metrics.change_failed.remove_by_labels({"model": name})
