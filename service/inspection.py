"""``convserve inspect``: what a version or a repository holds, proven and measured on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from service import __version__, settings
from service.backend.onnx import RUNTIME, OnnxBackend
from service.batching import choice
from service.batching.cost import buckets_up_to
from service.cores import Cores
from service.errors import LoadError, SettingsError
from service.manifest import MODEL_FILE
from service.metrics import Metrics
from service.repository import store
from service.repository.batch_view import batch_view
from service.repository.loading import load
from service.repository.measuring import Subject
from service.repository.pricing import Pricing, costs_of, useful_batch_size
from service.repository.servable import Servable
from service.repository.store import Contents, VersionFolder
from service.spec import TextSpec


def print_report(path: str, measure_seconds: float = 1.0) -> int:
    """Load each version below ``path`` as the server would, measure every layout, and print what it found.

    Args:
        path: A repository, a model or a version.
        measure_seconds: How long measuring one layout may take.

    Returns:
        How many versions, or models whose folder cannot be read, cannot be served.

    Raises:
        SettingsError: There is no version at or below the path, or a setting of the environment is wrong.
    """
    contents = _contents(Path(path))
    of_server = settings.resolve(argparse.Namespace(config=None, models=path))
    for name, why in contents.unreadable.items():
        print(f"{name}\n  UNAVAILABLE: its folder cannot be read: {why}")
    failed = len(contents.unreadable)
    for folder in contents.folders:
        print(f"{folder.name}/{folder.version}")
        try:
            resolved = settings.read_model_settings(folder.path.parent / store.SERVING_FILE, of_server)
            servable = load(folder, resolved, Metrics(__version__, RUNTIME))
            servable.batcher.close()
            _print_servable(servable)
            _print_costs(servable, Pricing(folder, servable.digest, resolved), folder, measure_seconds)
            _print_lone(load(folder, resolved, Metrics(__version__, RUNTIME), cores=Cores()))
        except (LoadError, SettingsError, OSError) as error:
            failed += 1
            print(f"  UNAVAILABLE: {error}")
    return failed


def _contents(path: Path) -> Contents:
    """Accept a version's folder, a model's folder or a repository."""
    if (path / MODEL_FILE).is_file():
        path = path.resolve()
        if not path.name.isdecimal():
            raise SettingsError(f"{path}: the folder of a version must be a number")
        return Contents([VersionFolder(path.parent.name, int(path.name), path)], {})
    if not path.is_dir():
        raise SettingsError(f"{path}: no such folder")
    found = store.scan(path)
    if not found.folders:
        path = path.resolve()
        if folders := [folder for folder in store.scan(path.parent).folders if folder.name == path.name]:
            return Contents(folders, {})
    if not found.folders and not found.unreadable:
        raise SettingsError(f"{path}: holds no MODEL/VERSION/{MODEL_FILE}")
    return found


def _print_servable(servable: Servable) -> None:
    golden = servable.golden
    proof = f"{golden.count} golden answers, worst difference {golden.max_abs_error:.2g}" if golden else "no"
    print(f"  task        {servable.task}")
    print(f"  verified    {proof}")
    print(f"  provider    {servable.provider.actual} (requested: {servable.provider.requested})")
    print(f"  inputs      {', '.join(map(str, servable.inputs))}")
    print(f"  outputs     {', '.join(map(str, servable.outputs))}")
    print(f"  digest      {servable.digest}")
    if servable.manifest is not None:
        provenance = servable.manifest.provenance
        print(f"  trained     {provenance.architecture}, recipe {provenance.recipe}, on {provenance.dataset.name}")
        for accuracy in servable.manifest.accuracy:
            print(
                f"  accuracy    {accuracy.metric} {accuracy.value:.4f} on {accuracy.dataset}/{accuracy.split} "
                f"(n = {accuracy.count}, 95 % interval {accuracy.interval_low:.4f} to {accuracy.interval_high:.4f})"
            )


def _print_costs(servable: Servable, pricing: Pricing, folder: VersionFolder, seconds: float) -> None:
    """Print the table of every layout, the median and a high quantile, and what is chosen from them."""
    spec = servable.preparer.spec if servable.preparer is not None else None
    graph = batch_view(OnnxBackend(folder.path / MODEL_FILE, servable.provider.requested), servable.batched)
    max_tokens = spec.max_tokens if isinstance(spec, TextSpec) else None
    subject = Subject(graph, servable.provider, buckets_up_to(servable.max_batch_size), max_tokens)
    tables = pricing.compare(subject, seconds)
    for layout, table in tables.items():
        print(f"  cost in ms by batch size, median and 95 %, {_said(layout)}")
        for group in dict.fromkeys(cost.group for cost in table.costs):
            cells = "  ".join(
                f"{cost.bucket}: {_milliseconds(cost.seconds[1])} {_milliseconds(cost.seconds[2])}"
                for cost in table.costs
                if cost.group == group
            )
            print(f"    {'' if group is None else f'{group} tokens  '}{cells}")
    chosen = costs_of(tables[pricing.layout], subject)
    buckets = ", ".join(map(str, chosen.buckets))
    spared = pricing.layout.instances - pricing.instances
    room = f" minus {spared}, which leaves cores for the transport" if spared else ""
    print(
        f"  chosen      {_said(pricing.layout)}{room}; buckets {buckets}; "
        f"largest useful batch {useful_batch_size(chosen)}"
    )


def _print_lone(servable: Servable) -> None:
    """Print what batches cost when they have the cores to themselves, for the sizes that are then quicker."""
    if servable.lone is not None:
        servable.lone.open(servable.batcher)
    servable.batcher.close()
    runs = servable.lone.runs if servable.lone is not None else None
    if runs is None:
        return
    print(f"  alone       on {runs.threads} threads, in ms by batch size")
    for group, rows in runs.policy.cost.table().items():
        cells = "  ".join(f"{size}: {_milliseconds(mean)}" for size, mean in rows if size in runs.quicker[group])
        if cells:
            print(f"    {'' if group is None else f'{group} tokens  '}{cells}")


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 0.9995 else f"{seconds * 1e3:.0f}"  # not 1.04e+03


def _said(layout: choice.Layout) -> str:
    instances = "1 instance" if layout.instances == 1 else f"{layout.instances} instances"
    return f"{instances} of {layout.threads} thread{'' if layout.threads == 1 else 's'}"
