"""Decides how a version is run and what its batches cost, from an earlier start's measurements or new ones."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from service.backend.base import Provider
from service.backend.cuda import CudaOptions, gpu_name
from service.backend.onnx import RUNTIME, OnnxBackend
from service.batching import choice
from service.batching.choice import Layout
from service.batching.cost import CostModel
from service.manifest import MODEL_FILE
from service.processors import usable_cores
from service.repository.batch_view import batch_view
from service.repository.kept_costs import Entry, KeptCosts, Key, LayoutCosts, Samples, machine, summarise
from service.repository.measuring import Measuring, Subject, groups_of
from service.repository.proof import Proof
from service.repository.store import VersionFolder
from service.settings import Settings

_LOG = logging.getLogger(__name__)
_COMPARED_SAMPLES = 25


class Pricing:
    """Chooses a version's layout, then prices it.

    Attributes:
        layout: The layout that was chosen and is measured.
        instances: How many of its instances to run; known after pricing.
        row_seconds: The least cost of a row; known after pricing.
        kept: The version's tables.
        key: What they hold for on this machine.
    """

    def __init__(self, folder: VersionFolder, model_digest: str, settings: Settings) -> None:
        """Choose the layout: the operator's, or the best that was measured, or the default."""
        self._settings = settings
        self._folder = folder
        self.key = Key(_device(settings), RUNTIME, machine(), model_digest)
        self.kept = KeptCosts(folder.path, model_digest, settings.cost_folder)
        self._entry = self.kept.read(self.key)
        self._fixed = (settings.instances, settings.intra_op_threads)
        self.layout = self._choose(self._entry)
        self.instances = self.layout.instances
        self.row_seconds = 0.0

    @property
    def spares_a_core(self) -> bool:
        """Whether a core is left when all instances run."""
        return self.instances * self.layout.threads < usable_cores()

    def price(self, subject: Subject, golden: Proof | None) -> CostModel:
        """Return the costs of the buckets worth having, as kept, or measured now and then kept."""
        if self._entry and self._entry.provider != subject.provider.actual:
            _LOG.info("the kept costs are from %s, so they are measured again", self._entry.provider)
            self._entry = None
        table = samples_of(self._entry.of(self.layout) if self._entry else None, subject)
        if table is None:
            measuring = Measuring(subject, self.layout.instances)
            if golden is not None:
                measuring.know(golden.seconds, golden.row_shape[0] if subject.max_tokens is not None else None)
            table = measuring.measure(self._settings.measuring_seconds)
            self._keep(subject.provider, summarise(self.layout, table, subject.buckets))
        self._count_instances(table, subject)
        return _cost_model(table, subject.buckets)

    def compare(self, subject: Subject, seconds: float) -> dict[Layout, LayoutCosts]:
        """Measure every layout that the operator leaves open, and keep the tables for the next start.

        Args:
            subject: The version, loaded.
            seconds: How long measuring one layout may take.

        Returns:
            Their tables. :attr:`layout` is then the choice, and :attr:`instances` how many a server would run.

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
            graph = batch_view(backend, subject.graph.batched)
            again = Subject(graph, backend.provider, subject.buckets, subject.max_tokens)
            measured = Measuring(again, layout.instances, _COMPARED_SAMPLES).measure(seconds)
            tables[layout] = summarise(layout, measured, subject.buckets)
        self._keep(subject.provider, *tables.values())
        self.layout = self._choose(self._entry)
        chosen = samples_of(tables[self.layout], subject)
        assert chosen is not None
        self._count_instances(chosen, subject)
        return tables

    def _count_instances(self, table: Samples, subject: Subject) -> None:
        self.instances = self.layout.instances
        rows = [_row_seconds(samples, subject.buckets) for samples in table.values()]
        self.row_seconds = min(rows)
        if not self._settings.instances and subject.provider.device == "cpu":
            self.instances = choice.instances_with_room(self.layout, max(rows), usable_cores())

    def _choose(self, entry: Entry | None) -> Layout:
        default = choice.default_layout(usable_cores(), *self._fixed)
        candidates = choice.layouts(usable_cores(), *self._fixed)  # excludes a kept layout that was once fixed
        measured = {
            table.layout: first_costs(table) for table in (entry.layouts if entry else ()) if table.layout in candidates
        }
        return choice.choose_layout(measured, default) if default in measured else default

    def _keep(self, provider: Provider, *tables: LayoutCosts) -> None:
        entry = self._entry or Entry(self.key, provider.actual, ())
        for table in tables:
            entry = entry.updated(table)
        self._entry = entry
        self.kept.write(entry)


def first_costs(table: LayoutCosts) -> choice.Costs:
    """Return the medians of the first group (that of the shortest sentences)."""
    first = table.costs[0].group
    return [(cost.bucket, cost.seconds[1]) for cost in table.costs if cost.group == first]


def costs_of(table: LayoutCosts, subject: Subject) -> CostModel:
    """Return a complete table in the batcher's form: the costs of the buckets worth having."""
    samples = samples_of(table, subject)
    assert samples is not None
    return _cost_model(samples, subject.buckets)


def useful_batch_size(cost: CostModel) -> int:
    """Return the largest useful batch of a version: the largest among its groups.

    Judges by the least times, which other work on the machine disturbs least.
    """
    return max(
        choice.useful_batch_size([(bucket, cost.least_seconds(bucket, group)) for bucket in cost.buckets])
        for group in cost.table()
    )


def samples_of(table: LayoutCosts | None, subject: Subject) -> Samples | None:
    """Return a kept table's samples if it is complete."""
    return table.samples(groups_of(subject.max_tokens), subject.buckets) if table is not None else None


def _cost_model(table: Samples, buckets: Sequence[int]) -> CostModel:
    useful = choice.useful_buckets(buckets, list(table.values()))
    places = [buckets.index(bucket) for bucket in useful]
    return CostModel(useful, {group: [row[place] for place in places] for group, row in table.items()})


def _device(settings: Settings) -> str:
    """Name the device as far as it matters for costs: for CUDA, the GPU and the options of its runs.

    The name is not the setting's: without a GPU, "auto" runs what "cpu" does. If a GPU is there and CUDA fails, the
    entry's provider shows it.
    """
    gpu = gpu_name() if settings.device != "cpu" else ""
    if not gpu:
        return "cpu"
    options = CudaOptions.of(settings)
    told = (options.execution, options.cudnn_search, "TF32" if options.tf32 else "", "TensorRT" * options.tensorrt)
    return ", ".join(("cuda", gpu, *filter(None, told)))


def _row_seconds(samples: Sequence[Sequence[float]], buckets: Sequence[int]) -> float:
    return min(min(seconds) / bucket for bucket, seconds in zip(buckets, samples, strict=True))
