"""``convserve inspect``: what a version or a repository holds, proven and measured on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from service import __version__, settings
from service.backend.onnx import RUNTIME
from service.errors import LoadError, SettingsError
from service.manifest import MODEL_FILE
from service.metrics import Metrics
from service.repository import servable as servables
from service.repository import store
from service.repository.servable import Servable
from service.repository.store import VersionFolder


def print_report(path: str) -> None:
    """Load each version below ``path`` as the server would, and print what it found.

    Raises:
        SettingsError: There is no version at or below the path.
    """
    for folder in _versions(Path(path)):
        _print(f"{folder.name}/{folder.version}")
        try:
            resolved = settings.resolve(argparse.Namespace(config=None, models=str(folder.path.parent.parent)))
            resolved = settings.read_model_settings(folder.path.parent / store.SERVING_FILE, resolved)
            servable = servables.load(folder, resolved, Metrics(__version__, RUNTIME))
        except LoadError as error:
            _print(f"  UNAVAILABLE: {error}")
            continue
        _print_servable(servable)
        servable.batcher.close()


def _versions(path: Path) -> list[VersionFolder]:
    """Accept a version's folder, a model's folder or a repository."""
    if (path / MODEL_FILE).is_file():
        path = path.resolve()
        if not path.name.isdecimal():
            raise SettingsError(f"{path}: the folder of a version must be a number")
        return [VersionFolder(path.parent.name, int(path.name), path)]
    if not path.is_dir():
        raise SettingsError(f"{path}: no such folder")
    found = store.scan(path)
    if not found:
        path = path.resolve()
        found = [folder for folder in store.scan(path.parent) if folder.name == path.name]
    if not found:
        raise SettingsError(f"{path}: holds no MODEL/VERSION/{MODEL_FILE}")
    return found


def _print_servable(servable: Servable) -> None:
    golden = servable.golden
    proof = f"{golden.count} golden answers, worst difference {golden.max_abs_error:.2g}" if golden else "no"
    _print(f"  task        {servable.task}")
    _print(f"  verified    {proof}")
    _print(f"  provider    {servable.provider.actual} (asked for: {servable.provider.requested})")
    _print(f"  inputs      {', '.join(map(str, servable.inputs))}")
    _print(f"  outputs     {', '.join(map(str, servable.outputs))}")
    _print(f"  digest      {servable.digest}")
    if servable.manifest is not None:
        provenance = servable.manifest.provenance
        _print(f"  trained     {provenance.architecture}, recipe {provenance.recipe}, on {provenance.dataset.name}")
        for accuracy in servable.manifest.accuracy:
            _print(
                f"  accuracy    {accuracy.metric} {accuracy.value:.4f} on {accuracy.dataset}/{accuracy.split} "
                f"(n = {accuracy.count}, 95 % interval {accuracy.interval_low:.4f} to {accuracy.interval_high:.4f})"
            )
    _print(f"  instances   {servable.batcher.instances}")
    for group, rows in servable.batcher.policy.cost.table().items():
        cells = "  ".join(f"{bucket}: {seconds * 1e3:.3g}" for bucket, seconds, _ in rows)
        _print(f"  cost in ms by batch size{'' if group is None else f', {group} tokens'}: {cells}")


def _print(line: str) -> None:
    print(line)  # noqa: T201 - this is what the command is for
