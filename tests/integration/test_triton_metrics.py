"""Triton's names on /metrics are what ModelStatistics reports."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from service.pb.inference import grpc_service_pb2 as pb
from tests.integration.harness import ADD_SUB, DEADLINE_SECONDS, ServerProcess, eventually, failure, infer_request

DURATIONS = {
    "nv_inference_request_duration_us": "success",
    "nv_inference_queue_duration_us": "queue",
    "nv_inference_compute_input_duration_us": "compute_input",
    "nv_inference_compute_infer_duration_us": "compute_infer",
    "nv_inference_compute_output_duration_us": "compute_output",
    "nv_cache_hit_duration_per_model": "cache_hit",
    "nv_cache_miss_duration_per_model": "cache_miss",
}


def test_both_agree(small_repository: Path, transport: str):
    flags = ("--triton-metrics", "--response-cache-bytes", "100000")
    with ServerProcess(small_repository, transport, *flags) as server:
        rows = np.ones((3, 4), dtype=np.float32)
        for request in (ADD_SUB, ADD_SUB, infer_request("add-sub", {"a": rows, "b": rows})):
            server.client.infer(request)
        failure(server.client.infer, infer_request("add-sub", {"a": rows}))
        asked = pb.ModelStatisticsRequest(name="add-sub")
        (stats,) = server.client.inference.ModelStatistics(asked, timeout=DEADLINE_SECONDS).model_stats

        def shown(name: str, **labels: str) -> float:
            return server.metric(name, model="add-sub", version="1", **labels)

        inference = stats.inference_stats
        assert (inference.success.count, inference.fail.count, inference.cache_hit.count) == (3, 1, 1)
        assert (stats.inference_count, stats.execution_count) == (4, 2)
        assert shown("nv_inference_request_success") == inference.success.count
        assert shown("nv_inference_request_failure") == inference.fail.count
        assert shown("nv_inference_request_failure", reason="OTHER") == 1
        assert shown("nv_inference_count") == stats.inference_count
        assert shown("nv_inference_exec_count") == stats.execution_count
        assert shown("nv_cache_num_hits_per_model") == inference.cache_hit.count
        assert shown("nv_cache_num_misses_per_model") == inference.cache_miss.count
        assert shown("nv_inference_pending_request_count") == 0

        def durations_agree() -> bool:  # soon: the time that an answer took is noted after it went out
            (now,) = server.client.inference.ModelStatistics(asked, timeout=DEADLINE_SECONDS).model_stats
            spent = {name: getattr(now.inference_stats, field).ns for name, field in DURATIONS.items()}
            assert all(spent.values())
            return {name: ns // 1000 for name, ns in spent.items()} == {name: shown(name) for name in DURATIONS}

        eventually(durations_agree, "every duration is the same")


def test_they_are_not_there_unless_asked_for(server: ServerProcess):
    assert "nv_" not in server.get("/metrics")[1]
