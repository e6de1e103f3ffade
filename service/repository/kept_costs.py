"""What batches cost, kept from one start of the server to the next.

A version's table lies beside its model file, or in a folder that the operator names. It holds for
the machines that measured it. It is a convenience: if it is missing, damaged, not writable or about
something else, the server measures.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from service import strict
from service.batching.choice import Layout
from service.manifest import COST_FILE
from service.processors import processor_name, usable_cores

_LOG = logging.getLogger(__name__)
_SCHEMA_VERSION = 2  # 1: free dimensions were measured at 1
_MAX_ENTRIES = 8  # machines that share a repository; the entry written longest ago goes first
_HIGH_QUANTILE = 0.95

Samples = Mapping[Hashable, Sequence[Sequence[float]]]


@dataclass(frozen=True, slots=True)
class Key:
    """What a measurement holds for.

    Attributes:
        device: ``"cpu"``, or ``"cuda"`` with the GPU and its options.
        runtime: The runtime and its version.
        machine: The processor and the number of cores that the process may use.
        model_digest: The digest of model.onnx.
    """

    device: str
    runtime: str
    machine: str
    model_digest: str


@dataclass(frozen=True, slots=True)
class Cost:
    """One cell: the least, the median and a high quantile of the seconds that a batch took."""

    group: int | None
    bucket: int
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot have been measured."""
        if len(self.seconds) != 3 or not 0 < self.seconds[0] <= self.seconds[1] <= self.seconds[2]:
            raise ValueError(f"seconds: expected least, median and high, got {list(self.seconds)}")


@dataclass(frozen=True, slots=True)
class LayoutCosts:
    """The table of one layout."""

    instances: int
    threads: int
    costs: tuple[Cost, ...]

    @property
    def layout(self) -> Layout:
        """The layout."""
        return Layout(self.instances, self.threads)

    def samples(self, groups: Sequence[Hashable], buckets: Sequence[int]) -> dict[Hashable, list[list[float]]] | None:
        """Return the table as ``CostModel`` takes it; None if a cell is missing."""
        cells = {(cost.group, cost.bucket): list(cost.seconds) for cost in self.costs}
        try:
            return {group: [cells[group, bucket] for bucket in buckets] for group in groups}  # type: ignore[index]
        except KeyError:
            return None


@dataclass(frozen=True, slots=True)
class Entry:
    """What one machine measured.

    Attributes:
        key: What it holds for.
        provider: The execution provider that ran.
        layouts: One table per layout.
        lone: One table per number of threads that was tried for a batch with the cores to itself, an instance's
            number included; one run at a time.
    """

    key: Key
    provider: str
    layouts: tuple[LayoutCosts, ...]
    lone: tuple[LayoutCosts, ...] = ()

    def of(self, layout: Layout) -> LayoutCosts | None:
        """Return the table of a layout, if there is one."""
        return next((table for table in self.layouts if table.layout == layout), None)

    def lone_of(self, threads: int) -> LayoutCosts | None:
        """Return the table of lone runs with that many threads, if there is one."""
        return next((table for table in self.lone if table.threads == threads), None)

    def updated(self, table: LayoutCosts) -> Entry:
        """Return a copy with one table added or replaced."""
        return dataclasses.replace(self, layouts=_replaced(self.layouts, table))

    def updated_lone(self, table: LayoutCosts) -> Entry:
        """Return a copy with one table of lone runs added or replaced."""
        return dataclasses.replace(self, lone=_replaced(self.lone, table))


def _replaced(tables: tuple[LayoutCosts, ...], table: LayoutCosts) -> tuple[LayoutCosts, ...]:
    return (*(other for other in tables if other.layout != table.layout), table)


@dataclass(frozen=True, slots=True)
class _File:
    schema_version: int
    entries: tuple[Entry, ...]


def summarise(layout: Layout, measured: Samples, buckets: Sequence[int]) -> LayoutCosts:
    """Return samples in the form in which they are kept."""
    costs = [
        Cost(group if isinstance(group, int) else None, bucket, _quantiles(samples))
        for group, row in measured.items()
        for bucket, samples in zip(buckets, row, strict=True)
    ]
    return LayoutCosts(layout.instances, layout.threads, tuple(costs))


class KeptCosts:
    """The file of one version. Reading and writing never raise: they log, and the server measures."""

    def __init__(self, version_folder: Path, model_digest: str, cache_folder: str = "") -> None:
        """Name the file: beside the model, or in the cache folder by the model's digest."""
        self._path = version_folder / COST_FILE
        if cache_folder:
            self._path = Path(cache_folder) / f"{model_digest.replace(':', '-')}.json"
        self._may_be_missing = bool(cache_folder)
        self._said: set[str] = set()

    def read(self, key: Key) -> Entry | None:
        """Return what was measured under this key, if anything was."""
        entries = self._entries()
        found = next((entry for entry in entries if entry.key == key), None)
        if entries and found is None:
            self._say(logging.INFO, "costs are kept only for other machines or models, so they are measured again")
        return found

    def write(self, entry: Entry) -> bool:
        """Keep an entry in place of an older one under its key; return whether that was possible.

        Concurrent readers see the old file or the new one. If two servers write at once, one entry is lost
        and is measured again.
        """
        others = [other for other in self._entries() if other.key != entry.key]
        file = _File(_SCHEMA_VERSION, (entry, *others[: _MAX_ENTRIES - 1]))
        aside = self._path.with_name(f".{COST_FILE}.{os.getpid()}-{threading.get_ident()}")
        try:
            if self._may_be_missing:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                aside.write_text(json.dumps(dataclasses.asdict(file)) + "\n", encoding="utf-8")
                aside.replace(self._path)
            finally:
                aside.unlink(missing_ok=True)
        except OSError as error:
            self._say(logging.INFO, f"costs cannot be kept, so every start measures them: {error.strerror}")
            return False
        return True

    def _entries(self) -> tuple[Entry, ...]:
        try:
            if self._path.exists() and not self._path.is_file():  # a pipe would be read without end
                raise ValueError("it is not a file")
            data = json.loads(self._path.read_bytes())
            file = strict.parse(_File, data)
            if file.schema_version != _SCHEMA_VERSION:
                raise strict.StrictError(f"schema_version: expected {_SCHEMA_VERSION}, got {file.schema_version}")
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, RecursionError) as error:
            self._say(logging.WARNING, f"ignored, so costs are measured again: {error}")
            return ()
        return file.entries

    def _say(self, level: int, what: str) -> None:
        """Log what is wrong with the file, once: it is read again and again."""
        if what not in self._said:
            self._said.add(what)
            _LOG.log(level, "%s: %s", self._path, what)


def machine() -> str:
    """Name the processor and the cores that this process may use."""
    return f"{processor_name()}, {usable_cores()} cores"


def _quantiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Return the least, the median and the 95 % quantile, at least a nanosecond each."""
    ordered = sorted(max(seconds, 1e-9) for seconds in samples)
    high = ordered[int(_HIGH_QUANTILE * len(ordered))]
    return ordered[0], min(median(ordered), high), high
