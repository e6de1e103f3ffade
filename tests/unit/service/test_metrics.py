from __future__ import annotations

import re
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.metrics import STATES, Metrics, taken
from service.model_metrics import Duration, ModelMetrics

# Name of every family of ours as a scrape shows it, with its type and its labels. Dashboards and
# alerts rely on them: a change here is a change of the interface.
FAMILIES = {
    "convserve_requests": ("counter", "model version method code"),
    "convserve_request_duration_seconds": ("histogram", "model version"),
    "convserve_phase_duration_seconds": ("histogram", "model version phase"),
    "convserve_queue_depth": ("gauge", "model version"),
    "convserve_inflight_requests": ("gauge", ""),
    "convserve_ready": ("gauge", ""),
    "convserve_draining": ("gauge", ""),
    "convserve_batch_size": ("histogram", "model version"),
    "convserve_batch_padding_ratio": ("histogram", "model version"),
    "convserve_batch_release": ("counter", "model version reason"),
    "convserve_rejected": ("counter", "model version reason"),
    "convserve_cancelled": ("counter", "model version stage"),
    "convserve_response_cache_hits": ("counter", "model version"),
    "convserve_response_cache_misses": ("counter", "model version"),
    "convserve_response_cache_evictions": ("counter", "model version"),
    "convserve_response_cache_bytes": ("gauge", "model version"),
    "convserve_merged_requests": ("counter", "model version"),
    "convserve_execution_provider_info": ("gauge", "model version requested actual device"),
    "convserve_batch_cost_seconds": ("gauge", "model version group bucket"),
    "convserve_golden_check_passed": ("gauge", "model version"),
    "convserve_golden_check_max_abs_error": ("gauge", "model version"),
    "convserve_predictions": ("counter", "model version class"),
    "convserve_prediction_confidence": ("histogram", "model version"),
    "convserve_model_state": ("gauge", "model version state"),
    "convserve_model_change_failed": ("gauge", "model"),
    "convserve_model_load_duration_seconds": ("gauge", "model version"),
    "convserve_build_info": ("gauge", "version runtime"),
    "grpc_server_started": ("counter", "grpc_type grpc_service grpc_method"),
    "grpc_server_handled": ("counter", "grpc_type grpc_service grpc_method grpc_code"),
}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1.2.3", "onnxruntime 9")


def version_metrics(metrics: Metrics, model: str = "m", version: str = "1") -> ModelMetrics:
    return ModelMetrics(metrics, model, version, lambda: 1234)


def fill(metrics: Metrics, model: str = "m", version: str = "1") -> ModelMetrics:
    """Give every family at least one series of a version."""
    bound = version_metrics(metrics, model, version)
    bound.watch_queue(lambda: 7)
    bound.observe_batch([0.1, 0.3], rows=3, padding=0.25, assemble=0.01, infer=0.02, reason="full")
    bound.observe_postprocess(2, 3, 0.005)
    bound.observe_decode(0.004)
    bound.observe_success(0.5)
    bound.observe_failure(0.25, "QUEUE_FULL")
    bound.watch_cache(lambda: 4096)
    bound.cache_hit(0.0001)
    bound.cache_miss(0.0002, 3)
    bound.merged()
    bound.observe_predictions(np.array([0, 1, 0]), np.array([0.75, 0.5, 0.25]), ["cat", "dog", "mouse"])
    bound.rejected("queue_full")
    bound.cancelled("queued")
    labels = (model, version)
    metrics.requests.labels(*labels, "ModelInfer", "OK").inc()
    metrics.provider_info.labels(*labels, "auto", "CPUExecutionProvider", "cpu").set(1)
    metrics.batch_cost.labels(*labels, "", "1").set(0.001)
    metrics.golden_passed.labels(*labels).set(1)
    metrics.golden_error.labels(*labels).set(1e-7)
    metrics.load_seconds.labels(*labels).set(0.5)
    metrics.set_state(*labels, "READY")
    metrics.change_failed.labels(model).set(0)
    metrics.rpcs.started("/inference.GRPCInferenceService/ModelStreamInfer")
    metrics.rpcs.handled("/inference.GRPCInferenceService/ModelStreamInfer", "OK")
    bound.settle()
    return bound


def test_a_scrape_shows_what_was_noted_a_moment_ago(metrics: Metrics) -> None:
    bound = version_metrics(metrics)
    bound.observe_batch([0.1], rows=1, padding=0.0, assemble=0.0, infer=0.0, reason="idle")
    bound.observe_success(0.5)
    labels = {"model": "m", "version": "1"}
    assert value(metrics, "convserve_batch_release_total", **labels, reason="idle") == 1
    assert value(metrics, "convserve_request_duration_seconds_count", **labels) == 1


def test_what_is_noted_takes_bounded_memory(metrics: Metrics) -> None:
    bound = version_metrics(metrics)
    for _ in range(10_000):
        bound.observe_batch([0.1], rows=1, padding=0.0, assemble=0.0, infer=0.0, reason="idle")
        bound.observe_postprocess(1, 1, 0.0)
        bound.observe_predictions(np.array([0]), np.array([1.0]), ["cat"])
        bound.observe_success(0.5)
        bound.observe_decode(0.5)
    pending = (bound._batches, bound._replies, bound._best, bound._succeeded, bound._decoded)
    assert max(map(len, pending)) <= 512


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_names_types_and_labels_are_the_interface(metrics: Metrics) -> None:
    fill(metrics)
    scraped = {}
    for family in metrics.registry.collect():
        if family.name.startswith(("convserve_", "grpc_")):
            labels = {name for sample in family.samples for name in sample.labels} - {"le"}
            scraped[family.name] = (family.type, labels)
    assert scraped == {name: (kind, set(labels.split())) for name, (kind, labels) in FAMILIES.items()}


def test_what_is_exposed_is_prometheus_text(metrics: Metrics) -> None:
    fill(metrics)
    lines = metrics.negotiate("")[0].decode().splitlines()
    sample = re.compile(r'[a-z_:][a-z0-9_:]*(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? \S+')
    assert all(line.startswith("# ") or sample.fullmatch(line) for line in lines)
    assert not any("_created" in line for line in lines)


def test_the_process_and_the_runtime_describe_themselves(metrics: Metrics) -> None:
    text = metrics.negotiate("")[0].decode()
    assert 'convserve_build_info{runtime="onnxruntime 9",version="1.2.3"} 1.0' in text
    for name in ("process_resident_memory_bytes", "python_info", "python_gc_collections_total"):
        assert f"\n{name}" in text


def test_counters_end_in_total_and_times_are_seconds() -> None:
    for name, (kind, _) in FAMILIES.items():
        assert not name.endswith("_total")
        assert kind != "histogram" or name.endswith(("_seconds", "_size", "_ratio", "_confidence"))


def test_two_servers_in_one_process_do_not_meet() -> None:
    first, second = Metrics("1", "a"), Metrics("1", "a")
    counted = version_metrics(first)
    counted.rejected("queue_full")
    assert b'reason="queue_full"' in first.negotiate("")[0]
    assert b'reason="queue_full"' not in second.negotiate("")[0]


def test_forgetting_a_version_drops_all_of_its_series_and_no_other(metrics: Metrics) -> None:
    fill(metrics, "m", "1")
    fill(metrics, "m", "2")
    fill(metrics, "n", "1")
    metrics.forget("m", "1")
    text = metrics.negotiate("")[0].decode()
    assert not re.search(r'model="m".*version="1"', text)
    for name, (_, labels) in FAMILIES.items():
        if {"model", "version"} <= set(labels.split()):
            assert re.search(rf'{name}\w*\{{.*model="m".*version="2"', text), name
            assert re.search(rf'{name}\w*\{{.*model="n".*version="1"', text), name


def test_forgetting_what_was_never_there_is_no_error(metrics: Metrics) -> None:
    metrics.forget("m", "1")


@pytest.mark.parametrize("state", STATES)
def test_a_version_is_in_exactly_one_state(metrics: Metrics, state: str) -> None:
    metrics.set_state("m", "1", "LOADING")
    metrics.set_state("m", "1", state)
    values = {name: value(metrics, "convserve_model_state", model="m", version="1", state=name) for name in STATES}
    assert values == {name: float(name == state) for name in STATES}


@pytest.mark.parametrize("state", STATES)
def test_facts_are_shown_of_what_is_loaded_only(metrics: Metrics, state: str) -> None:
    """A bare graph that stops working must not look like one whose golden answers were wrong."""
    fill(metrics, "m", "1")
    fill(metrics, "m", "2")
    metrics.set_state("m", "1", state)
    facts = ("execution_provider_info", "golden_check_passed", "golden_check_max_abs_error", "batch_cost_seconds")
    text = metrics.negotiate("")[0].decode()
    for version, loaded in (("1", state in ("READY", "UNLOADING")), ("2", True)):
        for name in facts:
            series = rf'convserve_{name}\{{.*model="m".*version="{version}"'
            assert bool(re.search(series, text)) == loaded, (name, version)


def test_the_queue_is_read_at_the_scrape(metrics: Metrics) -> None:
    class Queue:
        queued = 3

    queue = Queue()
    version_metrics(metrics).watch_queue(queue)
    assert value(metrics, "convserve_queue_depth", model="m", version="1") == 3
    queue.queued = 5
    assert value(metrics, "convserve_queue_depth", model="m", version="1") == 5
    del queue
    assert value(metrics, "convserve_queue_depth", model="m", version="1") == 0, "it lives no longer for being watched"


def test_what_ends_after_the_series_are_gone_does_not_bring_them_back(metrics: Metrics) -> None:
    bound = version_metrics(metrics)
    bound.close()
    metrics.forget("m", "1")
    bound.observe_batch([0.1], rows=1, padding=0.0, assemble=0.0, infer=0.0, reason="idle")
    bound.observe_predictions(np.array([0]), np.array([1.0]), ["cat"])
    bound.merged()
    assert 'model="m"' not in metrics.negotiate("")[0].decode()


def test_a_batch_is_counted_once_and_its_requests_each(metrics: Metrics) -> None:
    fill(metrics)
    labels = {"model": "m", "version": "1"}
    phases = {
        phase: (
            value(metrics, "convserve_phase_duration_seconds_count", **labels, phase=phase),
            value(metrics, "convserve_phase_duration_seconds_sum", **labels, phase=phase),
        )
        for phase in ("decode", "queue", "assemble", "infer", "postprocess")
    }
    assert phases == {
        "decode": (1, 0.004),
        "queue": (2, 0.4),
        "assemble": (1, 0.01),
        "infer": (1, 0.02),
        "postprocess": (1, 0.005),
    }
    assert value(metrics, "convserve_batch_size_sum", **labels) == 3
    assert value(metrics, "convserve_batch_padding_ratio_sum", **labels) == 0.25
    assert value(metrics, "convserve_batch_release_total", **labels, reason="full") == 1
    assert value(metrics, "convserve_request_duration_seconds_count", **labels) == 1
    assert value(metrics, "convserve_rejected_total", **labels, reason="queue_full") == 1
    assert value(metrics, "convserve_cancelled_total", **labels, stage="queued") == 1


def test_predictions_are_counted_by_class(metrics: Metrics) -> None:
    fill(metrics)
    labels = {"model": "m", "version": "1"}
    assert value(metrics, "convserve_predictions_total", **labels, **{"class": "cat"}) == 2
    assert value(metrics, "convserve_predictions_total", **labels, **{"class": "dog"}) == 1
    assert value(metrics, "convserve_prediction_confidence_sum", **labels) == 1.5
    assert value(metrics, "convserve_response_cache_hits_total", **labels) == 1
    assert value(metrics, "convserve_response_cache_misses_total", **labels) == 1
    assert value(metrics, "convserve_response_cache_evictions_total", **labels) == 3
    assert value(metrics, "convserve_response_cache_bytes", **labels) == 4096
    assert value(metrics, "convserve_merged_requests_total", **labels) == 1


def test_a_version_without_classes_shows_no_predictions(metrics: Metrics) -> None:
    bound = version_metrics(metrics)
    bound.observe_batch([0.1], rows=1, padding=0.0, assemble=0.0, infer=0.0, reason="idle")
    assert 'model="m"' in (text := metrics.negotiate("")[0].decode())
    assert not re.search(r"convserve_prediction\w*\{", text)


def test_statistics_add_up_as_triton_counts_them(metrics: Metrics) -> None:
    bound = fill(metrics)
    bound.observe_batch([0.2], rows=1, padding=0.0, assemble=0.03, infer=0.04, reason="idle")
    bound.observe_postprocess(1, 1, 0.001)
    stats = bound.snapshot()
    assert (stats.inference_count, stats.execution_count, stats.last_inference_ms) == (4, 2, 1234)
    assert stats.success == Duration(1, 500_000_000)
    assert stats.fail == Duration(1, 250_000_000)
    assert stats.queue.count == 4  # the answer from the cache was queued for no time, and computed not at all
    assert stats.queue.ns == pytest.approx(600_000_000)
    # Each member of a batch spends the whole batch's time in a phase.
    assert stats.compute_input == Duration(3, 20_000_000 + 30_000_000)
    assert stats.compute_infer == Duration(3, 40_000_000 + 40_000_000)
    assert stats.compute_output == Duration(3, 11_000_000)
    assert stats.cache_hit == Duration(1, 100_000)
    assert stats.cache_miss == Duration(1, 200_000)
    assert {size: batch.compute_infer for size, batch in stats.by_batch_size.items()} == {
        3: Duration(1, 20_000_000),
        1: Duration(1, 40_000_000),
    }
    assert stats.by_batch_size[3].compute_input == Duration(1, 10_000_000)
    assert stats.by_batch_size[3].compute_output == Duration(1, 5_000_000)


@given(st.lists(st.tuples(st.lists(st.floats(0, 1), min_size=1, max_size=4), st.integers(1, 4)), max_size=8))
def test_the_batch_sizes_add_up_to_the_whole(batches: list[tuple[list[float], int]]) -> None:
    bound = version_metrics(Metrics("0", "x"))
    for queue_seconds, rows in batches:
        bound.observe_batch(queue_seconds, rows=rows, padding=0, assemble=0, infer=0.001, reason="idle")
    stats = bound.snapshot()
    by_size = stats.by_batch_size
    assert stats.execution_count == sum(batch.compute_infer.count for batch in by_size.values()) == len(batches)
    assert stats.inference_count == sum(size * batch.compute_infer.count for size, batch in by_size.items())
    assert stats.queue.count == sum(len(queue_seconds) for queue_seconds, _ in batches)


def test_a_snapshot_does_not_change(metrics: Metrics) -> None:
    bound = fill(metrics)
    before = bound.snapshot()
    fill(metrics)
    bound.observe_batch([1.0], rows=3, padding=0, assemble=1, infer=1, reason="idle")
    assert before.execution_count == 1
    assert before.by_batch_size[3].compute_infer.count == 1


def test_what_cannot_be_counted_costs_nothing_else_and_is_not_tried_again(metrics: Metrics) -> None:
    bound = version_metrics(metrics)
    bound.observe_batch([0.1], rows=1, padding=0.0, assemble=0.0, infer=0.0, reason="idle")
    bound.observe_predictions(np.array([1]), np.array([0.5]), ["the only label"])
    for _ in range(1000):
        bound.observe_success(0.5)
    bound.rejected("queue_full")
    stats = bound.snapshot()
    assert (stats.success.count, stats.execution_count) == (1000, 1)
    labels = {"model": "m", "version": "1"}
    assert value(metrics, "convserve_rejected_total", **labels, reason="queue_full") == 1
    bound.observe_predictions(np.array([0]), np.array([0.5]), ["cat"])
    assert value(metrics, "convserve_predictions_total", **labels, **{"class": "cat"}) == 1


def test_no_count_is_lost_between_threads(metrics: Metrics) -> None:
    bound = version_metrics(metrics)

    def count() -> None:
        for _ in range(300):
            bound.observe_batch([0.001], rows=1, padding=0, assemble=0, infer=0, reason="idle")
            bound.observe_success(0.001)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = bound.snapshot()
    assert (stats.execution_count, stats.success.count) == (1200, 1200)
    assert value(metrics, "convserve_batch_size_count", model="m", version="1") == 1200


def test_of_what_several_threads_note_and_take_nothing_is_lost_or_taken_twice() -> None:
    pending: list[tuple[int, int]] = []
    found: list[list[tuple[int, int]]] = []
    noting = [threading.Thread(target=lambda n=n: [pending.append((n, i)) for i in range(20_000)]) for n in range(3)]
    done = threading.Event()

    def take() -> None:
        while not done.is_set():
            found.append(taken(pending))

    taking = [threading.Thread(target=take) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in (*noting, *taking):
            thread.start()
        for thread in noting:
            thread.join()
    finally:
        done.set()
        sys.setswitchinterval(interval)
    for thread in taking:
        thread.join()
    items = [item for part in (*found, taken(pending)) for item in part]
    assert len(items) == len(set(items)) == 60_000
