"""How a version will be run, and what its batches cost: kept from an earlier start, or measured now."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from service.backend.base import Provider
from service.backend.cuda import CudaOptions
from service.backend.gpu import gpu_name
from service.backend.onnx import RUNTIME, OnnxBackend
from service.batching import choice
from service.batching.choice import Layout
from service.batching.cost import CostModel
from service.manifest import MODEL_FILE
from service.processors import usable_cores
from service.repository.batch_view import BatchView, batch_view
from service.repository.kept_costs import Entry, KeptCosts, Key, LayoutCosts, Samples, machine, summarise
from service.repository.measuring import Measuring, groups_of
from service.repository.proof import Proof
from service.repository.store import VersionFolder
from service.settings import Settings

_LOG = logging.getLogger(__name__)
_COMPARED_SAMPLES = 25
_WORTH_SECONDS = 3e-4  # a row that takes less gains little from more threads, and a session costs memory


@dataclass(frozen=True, slots=True)
class Subject:
    """What is run: a graph, at which batch sizes, with sentences of how many tokens at most (None: no sentences)."""

    graph: BatchView
    provider: Provider
    buckets: Sequence[int]
    max_tokens: int | None


class Pricing:
    """Chooses a version's layout, then prices it.

    Attributes:
        layout: Chosen, and measured as such.
        instances: How many of its instances to run; known once it is priced.
        table: Samples by group and bucket; known once it is priced.
    """

    def __init__(self, folder: VersionFolder, model_digest: str, settings: Settings) -> None:
        """Choose the layout: the operator's, or the best that was measured, or the default."""
        self._settings = settings
        self._folder = folder
        self._key = Key(_device(settings), RUNTIME, machine(), model_digest)
        self._kept = KeptCosts(folder.path, model_digest, settings.cost_folder)
        self._entry = self._kept.read(self._key)
        self._fixed = (settings.instances, settings.intra_op_threads)
        self.layout = self._choose(self._entry)
        self.instances = self.layout.instances
        self.table: Samples = {}

    @property
    def spares_a_core(self) -> bool:
        """Whether a core is left when all instances run."""
        return self.instances * self.layout.threads < usable_cores()

    def price(self, subject: Subject, golden: Proof | None) -> CostModel:
        """Return the costs of the buckets worth having: as kept, or measured and then kept."""
        if self._entry and self._entry.provider != subject.provider.actual:
            _LOG.info("the kept costs are of %s, so they are measured anew", self._entry.provider)
            self._entry = None
        table = _samples(self._entry.of(self.layout) if self._entry else None, subject)
        if table is None:
            table = self._measure(subject, self.layout, golden)
            self._keep(subject.provider, summarise(self.layout, table, subject.buckets))
        self.table = table
        if not self._settings.instances and subject.provider.device == "cpu":
            row_seconds = max(_row_seconds(samples, subject.buckets) for samples in table.values())
            self.instances = choice.instances_with_room(self.layout, row_seconds, usable_cores())
        return _cost_model(table, subject.buckets)

    def lone_threads(self, subject: Subject) -> Sequence[int]:
        """Return the numbers of threads that a batch with the cores to itself may be quicker with, best first.

        None where the operator has fixed the threads of a run or has given the model less weight than others, nor where
        a row is over in a moment.
        """
        settings = self._settings
        row_seconds = min(_row_seconds(samples, subject.buckets) for samples in self.table.values())
        if settings.intra_op_threads or settings.weight < 1 or row_seconds < _WORTH_SECONDS:
            return ()
        return [
            threads
            for threads in choice.lone_threads(usable_cores(), self.layout.threads, settings.lone_threads)
            if (kept := self._kept_lone(subject, threads)) is None or self._quicker(subject, threads, kept)
        ]

    def price_lone(
        self, subject: Subject, threads: int, golden: Proof | None, undisturbed: Callable[[], bool]
    ) -> tuple[CostModel, Mapping[Hashable, frozenset[int]]] | None:
        """Return the costs, as kept or measured now, and for each group the buckets quicker so; None if there is none.

        Args:
            subject: The version with that many threads.
            threads: Of its runs.
            golden: What replaying showed with them.
            undisturbed: Tells, once it is measured, whether nothing ran meanwhile; only such a table is kept.
        """
        table = self._kept_lone(subject, threads)
        if table is None:
            layout = Layout(1, threads)
            table = self._measure(subject, layout, golden)
            if self._entry is not None and undisturbed():
                self._write(self._entry.updated_lone(summarise(layout, table, subject.buckets)))
        quicker = self._quicker(subject, threads, table)
        return (_cost_model(table, subject.buckets), quicker) if quicker else None

    def _kept_lone(self, subject: Subject, threads: int) -> Samples | None:
        return _samples(self._entry.lone_of(threads) if self._entry else None, subject)

    def _quicker(self, subject: Subject, threads: int, lone: Samples) -> Mapping[Hashable, frozenset[int]]:
        """Return for each group the buckets that are quicker alone; nothing if none is in any."""
        quicker = {
            group: choice.quicker_alone(subject.buckets, self.layout.threads, usual, threads, lone[group])
            for group, usual in self.table.items()
        }
        return quicker if any(quicker.values()) else {}

    def _measure(self, subject: Subject, layout: Layout, golden: Proof | None) -> Samples:
        measuring = _measuring(subject, layout, samples=5)
        if golden is not None:
            measuring.know(golden.seconds, golden.row_shape[0] if subject.max_tokens is not None else None)
        return measuring.measure(self._settings.measuring_seconds)

    def compare(self, subject: Subject, seconds: float) -> dict[Layout, LayoutCosts]:
        """Measure every layout that the operator leaves open, and keep the tables for the next start.

        Args:
            subject: The version, loaded.
            seconds: How long measuring one layout may take.

        Returns:
            Their tables; :attr:`layout` is the choice.

        Raises:
            LoadError: A session could not be opened.
        """
        tables = {}
        for layout in choice.layouts(usable_cores(), *self._fixed):
            backend = OnnxBackend(
                self._folder.path / MODEL_FILE,
                self._settings.device,
                layout.session_threads,
                CudaOptions.of(self._settings),
            )
            again = Subject(batch_view(backend), backend.provider, subject.buckets, subject.max_tokens)
            measured = _measuring(again, layout, samples=_COMPARED_SAMPLES).measure(seconds)
            tables[layout] = summarise(layout, measured, subject.buckets)
        self._keep(subject.provider, *tables.values())
        self.layout = self._choose(self._entry)
        return tables

    def _choose(self, entry: Entry | None) -> Layout:
        default = choice.default_layout(usable_cores(), *self._fixed)
        instances, threads = self._fixed
        measured = {
            table.layout: first_costs(table)
            for table in (entry.layouts if entry else ())
            if table.instances == (instances or table.instances) and table.threads == (threads or table.threads)
        }
        return choice.choose_layout(measured, default) if default in measured else default

    def _keep(self, provider: Provider, *tables: LayoutCosts) -> None:
        entry = self._entry or Entry(self._key, provider.actual, ())
        for table in tables:
            entry = entry.updated(table)
        self._write(entry)

    def _write(self, entry: Entry) -> None:
        self._entry = entry
        self._kept.write(entry)


def first_costs(table: LayoutCosts) -> choice.Costs:
    """Return the medians of the first group, that of the shortest sentences."""
    first = table.costs[0].group
    return [(cost.bucket, cost.seconds[1]) for cost in table.costs if cost.group == first]


def costs_of(table: LayoutCosts, subject: Subject) -> CostModel:
    """Return a complete table as the batcher takes it: the costs of the buckets worth having."""
    samples = _samples(table, subject)
    assert samples is not None
    return _cost_model(samples, subject.buckets)


def useful_batch_size(cost: CostModel) -> int:
    """Return the largest useful batch of a version: of its groups, the largest.

    By what batches take at best, which others on the machine disturb least.
    """
    return max(
        choice.useful_batch_size([(bucket, cost.least_seconds(bucket, group)) for bucket in cost.buckets])
        for group in cost.table()
    )


def _samples(table: LayoutCosts | None, subject: Subject) -> Samples | None:
    """Return a kept table if it is complete."""
    return table.samples(groups_of(subject.max_tokens), subject.buckets) if table is not None else None


def _cost_model(table: Samples, buckets: Sequence[int]) -> CostModel:
    useful = choice.useful_buckets(buckets, list(table.values()))
    places = [buckets.index(bucket) for bucket in useful]
    return CostModel(useful, {group: [row[place] for place in places] for group, row in table.items()})


def _measuring(subject: Subject, layout: Layout, samples: int) -> Measuring:
    return Measuring(
        subject.graph.run,
        subject.graph.inputs,
        subject.buckets,
        max_tokens=subject.max_tokens,
        threads=layout.instances,
        samples=samples,
    )


def _device(settings: Settings) -> str:
    """Name the device as far as it bears on costs: on CUDA the GPU, and how it is told to run."""
    gpu = gpu_name() if settings.device != "cpu" else ""
    if not gpu:
        return settings.device
    options = CudaOptions.of(settings)
    told = (options.execution, options.cudnn_search, "TF32" if options.tf32 else "", "TensorRT" * options.tensorrt)
    return ", ".join((settings.device, gpu, *filter(None, told)))


def _row_seconds(samples: Sequence[Sequence[float]], buckets: Sequence[int]) -> float:
    return min(min(seconds) / bucket for bucket, seconds in zip(buckets, samples, strict=True))
