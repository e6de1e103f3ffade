"""The table of metrics in docs/operations.md is what a scrape shows."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

from service.errors import (
    DeadlineExceeded,
    DeadlineUnmeetable,
    InvalidInput,
    ModelNotReady,
    QueueFull,
    RequestCancelled,
)
from service.metrics import STATES, Metrics
from service.transport.triton_metrics import TritonMetrics
from tests.unit.service.samples import make_servable
from tests.unit.service.test_metrics import fill

ROOT = Path(__file__).parents[3]
ROW = re.compile(
    r"^\| `(?P<name>[a-z_]+)` \| (?P<type>[a-z]+) \| (?P<labels>[^|]*) \| (?P<what>[^|]+) \|$", re.MULTILINE
)
REFUSALS = (DeadlineExceeded, DeadlineUnmeetable, InvalidInput, ModelNotReady, QueueFull, RequestCancelled)
Families = dict[str, tuple[str, frozenset[str]]]


def rows() -> dict[str, re.Match[str]]:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    found = list(ROW.finditer(section))
    assert len(found) == len({row["name"] for row in found}), "a family stands twice"
    return {row["name"]: row for row in found}


def documented() -> Families:
    return {name: (row["type"], frozenset(re.findall("`([a-z_]+)`", row["labels"]))) for name, row in rows().items()}


def shown(metrics: Metrics) -> Families:
    """Every family with its type and labels, counters by the name of their series."""
    families = {}
    for family in metrics.registry.collect():
        labels = {name for sample in family.samples for name in sample.labels} - {"le"}
        name = family.name + ("_total" if family.type == "counter" else "")
        families[name] = (family.type.replace("unknown", "untyped"), frozenset(labels))
    return families


def values(name: str) -> set[str]:
    """What the table says of the last label's values."""
    return set(rows()[name]["labels"].partition(": ")[2].split(", "))


def test_every_family_has_its_row_and_every_row_its_family() -> None:
    metrics = Metrics("1", "runtime")
    fill(metrics)
    cached = make_servable(shared=SimpleNamespace(cache=object()))
    metrics.registry.register(TritonMetrics(lambda: [cached]))
    assert documented() == shown(metrics)


def test_the_values_of_labels_are_those_of_the_code() -> None:
    assert values("convserve_model_state") == set(STATES)
    assert values("convserve_rejected_total") == {error.reason.lower() for error in REFUSALS}
    metrics = Metrics("1", "runtime")
    fill(metrics)
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    phases = {sample.labels["phase"] for sample in samples if "phase" in sample.labels}
    assert values("convserve_phase_duration_seconds") == phases
