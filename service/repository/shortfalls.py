"""What is not served as the repository has it: logged once; for a model, in the metrics while it lasts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.metrics import Metrics
from service.repository import version_policy
from service.repository.lifecycle import UNLOADED, Lifecycle, VersionStatus
from service.repository.store import VersionFolder

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shortfall:
    """What cannot be served of a model as the repository has it.

    Attributes:
        problem: What is in the way, for the operator; empty if nothing is.
        absent: Versions that a setting names and that are not on disk.
    """

    problem: str = ""
    absent: Sequence[int] = ()


def shortfall_of(
    folders: Sequence[VersionFolder],
    policy: str,
    wanted: Sequence[VersionFolder],
    failure: Callable[[str, int], str],
) -> Shortfall:
    """Return what cannot be served of a model on disk, in words for callers.

    Args:
        folders: Its versions on disk.
        policy: The setting ``versions``.
        wanted: The versions on disk that the policy names.
        failure: Returns why a model's version does not serve; empty if it does.
    """
    absent = version_policy.absent(policy, [folder.version for folder in folders])
    for folder in wanted:
        if failed := failure(folder.name, folder.version):
            return Shortfall(f"version {folder.version}: {failed}", absent)
    if absent:
        numbers = ", ".join(map(str, absent))
        return Shortfall(f"has no version {numbers} on disk, which its setting 'versions' names", absent)
    return Shortfall() if wanted else Shortfall("has no version on disk that its setting 'versions' names")


class Shortfalls:
    """The last shortfall of each model. Call it under the reconciler's lock."""

    def __init__(self, metrics: Metrics, lifecycle: Lifecycle) -> None:
        """Know of none."""
        self._metrics = metrics
        self._lifecycle = lifecycle
        self._said: dict[str, Shortfall] = {}
        self._lost = ""

    @property
    def names(self) -> set[str]:
        """Models with a shortfall."""
        return set(self._said)

    @property
    def absent(self) -> list[VersionStatus]:
        """Versions that a setting names and that are not on disk. Needs no lock."""
        return [
            VersionStatus(
                name, version, "UNAVAILABLE", UNLOADED, "its setting 'versions' names it, but it is not on disk"
            )
            for name, shortfall in list(self._said.items())
            for version in shortfall.absent
        ]

    def note_repository(self, problem: str) -> None:
        """Say in the log when the repository as a whole can be followed no longer, and when it can again.

        Args:
            problem: What is in the way, for the operator; empty if nothing is.
        """
        before, self._lost = self._lost, problem
        if problem and problem != before:
            _LOG.error("the model repository %s; serving goes on", problem)
        elif before and not problem:
            _LOG.info("the model repository is followed again")

    def note(self, name: str, shortfall: Shortfall) -> None:
        """Show whether a model is served as the repository has it; say so in the log when that changes.

        Args:
            name: The model's name.
            shortfall: What cannot be served, if anything.
        """
        before = self._said.pop(name, Shortfall())
        if problem := shortfall.problem:
            self._said[name] = shortfall
            self._metrics.change_failed.labels(name).set(1)
            if problem != before.problem:
                _LOG.error("a model cannot be served as it is on disk: %s", problem, extra={"fields": {"model": name}})
        elif self._lifecycle.knows(name):
            self._metrics.change_failed.labels(name).set(0)
        else:
            self._metrics.change_failed.remove_by_labels({"model": name})
