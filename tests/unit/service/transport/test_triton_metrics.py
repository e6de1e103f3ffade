from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from service.errors import BackendFailed, DeadlineUnmeetable, InvalidInput, QueueFull, RequestCancelled
from service.transport.triton_metrics import TritonMetrics
from tests.unit.service.samples import make_servable


def test_failures_are_counted_by_tritons_reasons() -> None:
    servable = make_servable(version=2)
    for error in (QueueFull, DeadlineUnmeetable, RequestCancelled, BackendFailed, InvalidInput):
        servable.metrics.observe_failure(0.25, error.reason)
    servable.metrics.observe_failure(0.25, DeadlineUnmeetable.reason, 10)
    registry = CollectorRegistry()
    registry.register(TritonMetrics(lambda: [servable, make_servable(version=1)]))

    def failures(version: str) -> dict[str, float | None]:
        return {
            reason: registry.get_sample_value(
                "nv_inference_request_failure", {"model": "pictures", "version": version, "reason": reason}
            )
            for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER")
        }

    assert failures("2") == {"REJECTED": 12, "CANCELED": 1, "BACKEND": 1, "OTHER": 1}
    assert sum(filter(None, failures("2").values())) == servable.metrics.snapshot().fail.count
    assert failures("1") == dict.fromkeys(failures("1"), 0), "a series that is not there yet has no rate"


def test_the_names_are_tritons_in_either_format() -> None:
    servable = make_servable()
    servable.metrics.observe_success(0.5)
    registry = CollectorRegistry()
    registry.register(TritonMetrics(lambda: [servable]))
    for exposition in (generate_latest(registry), generate_openmetrics(registry)):
        assert b'\nnv_inference_request_duration_us{model="pictures",version="1"} 500000.0\n' in exposition
        assert b"_total" not in exposition


def test_without_a_cache_there_are_no_series_of_it() -> None:
    registry = CollectorRegistry()
    registry.register(TritonMetrics(lambda: [make_servable()]))
    samples = [sample.name for family in registry.collect() for sample in family.samples]
    assert "nv_inference_request_success" in samples
    assert not [name for name in samples if name.startswith("nv_cache")]
